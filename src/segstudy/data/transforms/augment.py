"""Augmentation of whole batches on the device, with separate parameters for each image."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.data.transforms.base import GREY, Transform
from segstudy.errors import ConfigError
from segstudy.labels import IGNORE
from segstudy.ranges import Angle, Factors, Probability, Ratios, checked
from segstudy.seeds import uniform_numbers

ROTATION_COLUMN, SIZE_COLUMN, FIRST_EXTRA_COLUMN = 7, 8, 9
"""Columns of the parameters. 0…6: colour, contrast, brightness, flip, zoom and its position (2); 9 and more: `then`."""


@checked
class Augment:
    """Flip, scale, crop, rotation, brightness and contrast, drawn for each image from (seed, epoch, index).

    flip: probability of a horizontal flip. scale: range of the zoom, drawn log-uniformly; above 1 it crops, below 1
    the image is smaller and the area around it is ignored; None: the data set's, 0.75 to 1.5, or 0.5 to 2 with
    data.fit=crop. rotation: largest angle in degrees, to either side.
    brightness, contrast: largest relative change, applied with probability `colour`. sizes: factors of the batch's
    height and width, one drawn for each batch; the result is rounded to multiples of 32. [1] keeps the size.
    then: further transforms {name: transform}, in this order (see segstudy.data.transforms.color and .mixing).
    With all 0, scale [1, 1], sizes [1] and no transforms, the batch is unchanged.
    """

    def __init__(
        self,
        flip: Probability = 0.5,
        scale: Ratios | None = (1.0, 1.0),
        brightness: Probability = 0.2,
        contrast: Probability = 0.2,
        colour: Probability = 0.5,
        rotation: Angle = 0.0,
        sizes: Factors = (1.0,),
        then: Mapping[str, Transform | None] | None = None,
    ):
        self.flip, self.rotation, self.sizes = flip, rotation, tuple(sizes)
        self.scale = None if scale is None else (scale[0], scale[1])
        self.brightness, self.contrast, self.colour = brightness, contrast, colour
        # A transform has its columns even if it is off, so switching it on does not change parameters of the others.
        self.transforms: list[tuple[slice, Transform]] = []
        self.num_params = FIRST_EXTRA_COLUMN
        self.names: dict[str, Transform] = {}
        for name, transform in (then or {}).items():
            if transform is None:
                continue
            columns = slice(self.num_params, self.num_params + transform.num_params)
            self.num_params = columns.stop
            if transform.probability:
                self.transforms.append((columns, transform))
                self.names[name] = transform
        if not (rotation or self.transforms or self.sizes != (1.0,)):
            self.num_params = ROTATION_COLUMN

    def __call__(
        self,
        image: Tensor,
        mask: Tensor,
        params: Tensor,
        size: tuple[int, int] | None = None,
        window: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Augment image (B,C,H,W) in 0…1 and mask (B,H,W) in the same way.

        params: from `make_params`. size: (H, W) of the output, from `output_size`; None: that of the input.
        window: a batch of `TrainingImages` with windows, which are interpolated instead of the whole images.
        Output labels ⊆ labels of the image (with mixing: of the batch) ∪ {255}.
        """
        params = params.to(image.device, non_blocking=True)
        height, width = size or mask.shape[1:]
        mirrored = params[:, 3] < self.flip
        if window is not None:
            theta, end = window["theta"], window["end"]
            image, mask, inside = _interpolate(image, mask, theta, end, (height, width), window["reduction"])
        elif self.scale == (1.0, 1.0) and not self.rotation and mask.shape[1:] == (height, width):
            # a flip alone needs no interpolation
            image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
            mask, inside = torch.where(mirrored[:, None, None], mask.flip(2), mask), None
        else:
            theta = self._affine_map(image, params)
            image, mask, inside = _interpolate(image, mask, theta, None, (height, width), [1] * len(image))
        image = self._adjust_color(image, params, inside)
        if inside is not None:  # outside the image: grey and ignored
            shown = inside[:, None].float()
            image = image.mul(shown).add_(GREY * (1 - shown))  # five times as fast as torch.where on a CPU
            mask = torch.where(inside, mask.long(), IGNORE)
        for columns, transform in self.transforms:
            image, mask = transform(image, mask, params[:, columns])
        return image, mask

    def _adjust_color(self, image: Tensor, params: Tensor, inside: Tensor | None) -> Tensor:
        # torchvision's functions take one factor for the whole batch; here each image has its own.
        if self.brightness == self.contrast == 0:
            return image
        selected = (params[:, 0] < self.colour).float()
        gain = 1 + selected * self.contrast * (2 * params[:, 1] - 1)
        shift = selected * self.brightness * (2 * params[:, 2] - 1)
        if inside is None:
            mean = image.mean((1, 2, 3), keepdim=True)
        else:  # of the pixels that show the image
            counted = inside[:, None].float()
            mean = (image.mean(1, keepdim=True) * counted).sum((1, 2, 3), keepdim=True)
            mean = mean / counted.sum((1, 2, 3), keepdim=True).clamp(min=1)
        gain, shift = gain[:, None, None, None], shift[:, None, None, None]
        return torch.addcmul(mean * (1 - gain) + shift, image, gain).clamp_(0, 1)

    def require_channels(self, number: int) -> None:
        """Raise ConfigError if a transform cannot be applied to images with this number of channels."""
        for name, transform in self.names.items():
            if transform.needs_rgb and number != 3:
                raise ConfigError(
                    f"data.augment.then.{name} changes hue and saturation, which images with {number} channels do not "
                    f"have\n  → data.augment.then.{name}.probability=0 (or augment=default)"
                )

    def with_scale(self, scale: tuple[float, float]) -> "Augment":
        changed = copy(self)
        changed.scale = scale
        return changed

    def zoom(self, params: Tensor) -> Tensor:
        """The zoom of each image: (B,)."""
        if self.scale is None:
            raise ConfigError("the range of the zoom is not known: Augment(scale=[low, high])")
        low, high = map(math.log, self.scale)
        return torch.exp(low + (high - low) * params[:, 4])

    def pixel_map(self, params: Tensor) -> Tensor:
        """The maps from distances (x,y) in output pixels to distances in the image's pixels: (B,2,2).

        A positive angle is anticlockwise.
        """
        shrunk = 1 / self.zoom(params)
        out = torch.zeros(len(params), 2, 2, device=params.device)
        out[:, 0, 0], out[:, 1, 1] = torch.where(params[:, 3] < self.flip, -shrunk, shrunk), shrunk
        if self.rotation:
            angle = math.radians(self.rotation) * (2 * params[:, ROTATION_COLUMN] - 1)
            cos, sin = angle.cos(), angle.sin()
            out = out @ torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
        return out

    def _affine_map(self, image: Tensor, params: Tensor) -> Tensor:
        """The affine maps from output to input coordinates, for `affine_grid`: (B,2,3)."""
        # The output shows a window of the input of half-width 1/zoom. Its centre is drawn so that the window is in the
        # image (zoom > 1), or the image in the window (zoom < 1).
        room = (1 - 1 / self.zoom(params)).abs()
        theta = torch.cat([self.pixel_map(params), (room[:, None] * (2 * params[:, 5:7] - 1))[..., None]], 2)
        # Width and height both span −1…1, so distances along x and y count differently.
        ratio = image.shape[2] / image.shape[3]
        theta[:, 0, 1] *= ratio
        theta[:, 1, 0] /= ratio
        return theta

    def make_params(self, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """Augmentation parameters of these images in this epoch: float32 (B,7) or more columns.

        In [0,1), except for transforms that convert their own columns.
        """
        params = uniform_numbers(seed, epoch, indices, self.num_params)
        for columns, transform in self.transforms:
            params[:, columns] = transform.make_params(params[:, columns])
        return params

    def output_size(self, params: Tensor, height: int, width: int) -> tuple[int, int]:
        """(H, W) of a batch of height × width after augmentation, drawn from the parameters of its first image.

        params must be on the CPU, so that no step waits for the GPU.
        """
        if self.sizes == (1.0,):
            return height, width
        return _scaled(self.sizes[int(params[0, SIZE_COLUMN] * len(self.sizes))], height, width)

    def smallest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The smallest (H, W) that a batch of this size may have after augmentation."""
        return size if self.sizes == (1.0,) else _scaled(min(self.sizes), *size)


def _scaled(factor: float, height: int, width: int) -> tuple[int, int]:
    """The scaled (H, W) in multiples of 32, the largest stride of the encoders, so that no network has to pad."""
    return max(32, 32 * round(factor * height / 32)), max(32, 32 * round(factor * width / 32))


def _interpolate(
    image: Tensor, mask: Tensor, theta: Tensor, end: Tensor | None, size: tuple[int, int], reduction: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Image (B,C,h,w), mask (B,h,w), and which output pixels show the image, bool (B,h,w).

    theta (B,2,3): maps from output to input coordinates, as for `affine_grid`. end (B,2): the coordinates x and y at
    which each image ends in the batch; None: 1. reduction: for each image, how many samples along each side of an
    output pixel are averaged. Samples are bilinear, labels the nearest. Outside the image, the values at its border are
    taken: zeros would blend into the outermost pixels, which have labels.
    """
    places = _sample_places(theta, size)
    last = torch.ones_like(theta[:, :, 2]) if end is None else end
    inside = ((places >= -1) & (places <= last[:, :, None, None])).all(1)
    labels = _sample(mask[:, None].float(), places, "nearest")
    out = image.new_zeros(*image.shape[:2], *size)
    factors = sorted(set(reduction))
    for factor in factors:
        members = [i for i, each in enumerate(reduction) if each == factor]
        some: Any = torch.tensor(members, device=image.device) if len(factors) > 1 else slice(None)
        source, beyond = image[some], last[some, :, None, None]
        offsets = [((i + 0.5) / factor - 0.5) for i in range(factor)]  # in output pixels, from the centre of one
        total: Any = 0
        for down in offsets:
            for across in offsets:
                samples = _sample_places(theta[some], size, (down, across)).minimum(beyond)  # beyond is not the image
                total = _sample(source, samples, "bilinear") + total
        out[some] = total / factor**2
    return out, labels[:, 0].to(mask.dtype), inside


def _sample_places(theta: Tensor, size: tuple[int, int], offset: tuple[float, float] = (0, 0)) -> Tensor:
    """x and y in the input of each output pixel: (B,2,h,w), the values of `affine_grid`.

    Written here because that function takes as long as the interpolation itself on a CPU. offset: from the pixels'
    centres down and to the right, in pixels.
    """
    y, x = ((2 * torch.arange(n, device=theta.device) + 1 + 2 * o) / n - 1 for n, o in zip(size, offset, strict=True))
    across = theta[:, :, 0, None, None] * x + theta[:, :, 2, None, None]
    return across + theta[:, :, 1, None, None] * y[:, None]


def _sample(image: Tensor, places: Tensor, mode: str) -> Tensor:
    return F.grid_sample(image, places.permute(0, 2, 3, 1), mode=mode, padding_mode="border", align_corners=False)


DEFAULT_AUGMENTATION = Augment(scale=None)
"""The augmentation of conf/data_common.yaml."""

NO_AUGMENTATION = Augment(flip=0, brightness=0, contrast=0)
"""Windows without zoom."""

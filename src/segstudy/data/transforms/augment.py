"""Augmentation of whole batches on the device, with separate parameters for each image."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.data.transforms.base import GREY, Transform
from segstudy.labels import IGNORE
from segstudy.seeds import uniform_numbers

ROTATION_COLUMN, SIZE_COLUMN, FIRST_EXTRA_COLUMN = 7, 8, 9
"""Columns of the parameters. 0…6: colour, contrast, brightness, flip, zoom and its position (2); 9 and more: `then`."""


class Augment:
    """Flip, scale, crop, rotation, brightness and contrast, drawn for each image from (seed, epoch, index).

    flip: probability of a horizontal flip. scale: range of the zoom, drawn log-uniformly; above 1 it crops, below 1
    the image is smaller and the area around it is ignored. rotation: largest angle in degrees, to either side.
    brightness, contrast: largest relative change, applied with probability `colour`. sizes: factors of the batch's
    height and width, one drawn for each batch; the result is rounded to multiples of 32. [1] keeps the size.
    then: further transforms {name: transform}, in this order (see segstudy.data.transforms.color and .mixing).
    With all 0, scale [1, 1], sizes [1] and no transforms, the batch is unchanged.
    """

    def __init__(
        self,
        flip: float = 0.5,
        scale: Sequence[float] = (1.0, 1.0),
        brightness: float = 0.2,
        contrast: float = 0.2,
        colour: float = 0.5,
        rotation: float = 0.0,
        sizes: Sequence[float] = (1.0,),
        then: Mapping[str, Transform | None] | None = None,
    ):
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"data.augment.scale must be [low, high] with 0 < low ≤ high, not {list(scale)}")
        if not 0 <= rotation <= 180:
            raise ValueError(f"data.augment.rotation must be an angle in 0…180 degrees, not {rotation}")
        if not sizes or min(sizes) <= 0:
            raise ValueError(f"data.augment.sizes must be factors above 0 ([1]: one size), not {list(sizes)}")
        self.flip, self.scale, self.rotation, self.sizes = flip, tuple(scale), rotation, tuple(sizes)
        self.brightness, self.contrast, self.colour = brightness, contrast, colour
        # A transform has its columns even if it is off, so switching it on does not change parameters of the others.
        self.transforms: list[tuple[slice, Transform]] = []
        self.num_params = FIRST_EXTRA_COLUMN
        for name, transform in (then or {}).items():
            if transform is None:
                continue
            if not isinstance(transform, Transform):
                raise ValueError(
                    f"data.augment.then.{name} must be a Transform of segstudy.data.transforms, not {transform!r}"
                )
            columns = slice(self.num_params, self.num_params + transform.num_params)
            self.num_params = columns.stop
            if transform.probability:
                self.transforms.append((columns, transform))
        if not (rotation or self.transforms or self.sizes != (1.0,)):
            self.num_params = ROTATION_COLUMN

    def __call__(
        self, image: Tensor, mask: Tensor, params: Tensor, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augment image (B,3,H,W) in 0…1 and mask (B,H,W) in the same way.

        params: from `make_params`. size: (H, W) of the output, from `output_size`; None: that of the input.
        Output labels ⊆ labels of the image (with mixing: of the batch) ∪ {255}.
        """
        params = params.to(image.device)
        height, width = size or mask.shape[1:]
        image, mask = self._transform_geometry(self._adjust_color(image, params), mask, params, height, width)
        for columns, transform in self.transforms:
            image, mask = transform(image, mask, params[:, columns])
        return image, mask

    def _adjust_color(self, image: Tensor, params: Tensor) -> Tensor:
        # torchvision's functions take one factor for the whole batch; here each image has its own.
        if self.brightness == self.contrast == 0:
            return image
        selected = (params[:, 0] < self.colour).float()
        gain = 1 + selected * self.contrast * (2 * params[:, 1] - 1)
        shift = selected * self.brightness * (2 * params[:, 2] - 1)
        mean = image.mean((1, 2, 3), keepdim=True)
        gain, shift = gain[:, None, None, None], shift[:, None, None, None]
        return torch.addcmul(mean * (1 - gain) + shift, image, gain).clamp_(0, 1)

    def _transform_geometry(
        self, image: Tensor, mask: Tensor, params: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        mirrored = params[:, 3] < self.flip
        # a flip alone needs no resampling
        if self.scale == (1.0, 1.0) and not self.rotation and mask.shape[1:] == (height, width):
            image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
            return image, torch.where(mirrored[:, None, None], mask.flip(2), mask)
        grid = F.affine_grid(
            self._affine_map(image, params, mirrored), [len(image), 3, height, width], align_corners=False
        )
        # Outside the image: grey and ignored. Padded with border values first and replaced afterwards, because zero
        # padding would blend into the outermost pixels, which have labels.
        inside = grid.abs().amax(3) <= 1
        image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        labels = F.grid_sample(mask[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
        image = torch.where(inside[:, None], image, GREY)
        return image, torch.where(inside, labels[:, 0].long(), IGNORE)

    def _affine_map(self, image: Tensor, params: Tensor, mirrored: Tensor) -> Tensor:
        """The affine maps from output to input coordinates, for `affine_grid`: (B,2,3)."""
        low, high = map(math.log, self.scale)
        zoom = torch.exp(low + (high - low) * params[:, 4])
        # The output shows a window of the input of half-width 1/zoom. Its centre is drawn so that the window is in the
        # image (zoom > 1), or the image in the window (zoom < 1).
        room = (1 - 1 / zoom).abs()
        theta = torch.zeros(len(zoom), 2, 3, device=image.device)
        theta[:, 0, 0] = torch.where(mirrored, -1 / zoom, 1 / zoom)
        theta[:, 1, 1] = 1 / zoom
        theta[:, 0, 2] = room * (2 * params[:, 5] - 1)
        theta[:, 1, 2] = room * (2 * params[:, 6] - 1)
        if self.rotation:
            # A positive angle is anticlockwise. Width and height both span −1…1; their ratio makes it a rotation in
            # pixels.
            angle = math.radians(self.rotation) * (2 * params[:, ROTATION_COLUMN] - 1)
            cos, sin, ratio = angle.cos(), angle.sin(), image.shape[2] / image.shape[3]
            turn = torch.stack([cos, -sin * ratio, sin / ratio, cos], 1).view(-1, 2, 2)
            theta[:, :, :2] = theta[:, :, :2] @ turn
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
        factor = self.sizes[int(params[0, SIZE_COLUMN] * len(self.sizes))]
        # Multiples of 32, the largest stride of the encoders, so that no network has to pad.
        return max(32, 32 * round(factor * height / 32)), max(32, 32 * round(factor * width / 32))


DEFAULT_AUGMENTATION = Augment(scale=(0.75, 1.5))
"""The augmentation of conf/data_common.yaml."""

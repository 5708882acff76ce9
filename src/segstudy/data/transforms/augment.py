"""Augmentation of whole batches on their device; every image's parameters are its own."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.data.transforms.base import GREY, Transform
from segstudy.labels import IGNORE
from segstudy.seeds import uniform_numbers

ROTATION_COLUMN, SIZE_COLUMN, FIRST_EXTRA_COLUMN = 7, 8, 9
"""Columns of the random numbers. 0…6: colour, contrast, brightness, flip, zoom and its place; from THEN the parts'."""


class Augment:
    """Flip, scale, crop, rotation, brightness and contrast, drawn per image from (seed, epoch, index).

    flip: probability of a horizontal flip. scale: range of the zoom, above 1 crops, below 1 shows the whole image
    smaller with its rest ignored; drawn evenly in its logarithm. rotation: largest angle to either side in degrees.
    brightness, contrast: largest relative change, applied with the probability `colour`. sizes: factors of the
    batch's size, one drawn for each batch, its sides then rounded to multiples of 32; [1] leaves the size as it is.
    then: parts that follow in this order (segstudy.data.transforms.mixing and .effects), by names of the user's own.
    All 0, scale [1, 1] and no parts leave the batch as it is.
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
            raise ValueError(f"data.augment.scale is [low, high] with 0 < low ≤ high, not {list(scale)}")
        if not 0 <= rotation <= 180:
            raise ValueError(f"data.augment.rotation is an angle in 0…180 degrees, not {rotation}")
        if not sizes or min(sizes) <= 0:
            raise ValueError(f"data.augment.sizes is a list of factors above 0, [1] for one size, not {list(sizes)}")
        self.flip, self.scale, self.rotation, self.sizes = flip, tuple(scale), rotation, tuple(sizes)
        self.brightness, self.contrast, self.colour = brightness, contrast, colour
        # Each part has its columns whether it is on or off, so that switching one on changes nothing of the others.
        self.then: list[tuple[slice, Transform]] = []
        self.num_params = FIRST_EXTRA_COLUMN
        for name, part in (then or {}).items():
            if part is None:
                continue
            if not isinstance(part, Transform):
                raise ValueError(f"data.augment.then.{name} is a Part of segstudy.data.transforms.color, not {part!r}")
            columns = slice(self.num_params, self.num_params + part.num_params)
            self.num_params = columns.stop
            if part.probability:
                self.then.append((columns, part))
        if not (rotation or self.then or self.sizes != (1.0,)):
            self.num_params = ROTATION_COLUMN

    def __call__(
        self, image: Tensor, mask: Tensor, params: Tensor, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """image (B,3,H,W) in 0…1, mask (B,H,W), draws as of `draws` → both, changed alike, in `size`.

        Labels ⊆ the image's own ∪ {255}, with mixing the batch's. size: as of `size`; None for that of the input.
        """
        params = params.to(image.device)
        height, width = size or mask.shape[1:]
        image, mask = self._warp(self._recolour(image, params), mask, params, height, width)
        for columns, part in self.then:
            image, mask = part(image, mask, params[:, columns])
        return image, mask

    def _recolour(self, image: Tensor, params: Tensor) -> Tensor:
        if self.brightness == self.contrast == 0:
            return image
        selected = (params[:, 0] < self.colour).float()
        gain = 1 + selected * self.contrast * (2 * params[:, 1] - 1)
        shift = selected * self.brightness * (2 * params[:, 2] - 1)
        mean = image.mean((1, 2, 3), keepdim=True)
        gain, shift = gain[:, None, None, None], shift[:, None, None, None]
        return torch.addcmul(mean * (1 - gain) + shift, image, gain).clamp_(0, 1)

    def _warp(self, image: Tensor, mask: Tensor, params: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        mirrored = params[:, 3] < self.flip
        # a flip alone needs no resampling
        if self.scale == (1.0, 1.0) and not self.rotation and mask.shape[1:] == (height, width):
            image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
            return image, torch.where(mirrored[:, None, None], mask.flip(2), mask)
        grid = F.affine_grid(self._window(image, params, mirrored), [len(image), 3, height, width], align_corners=False)
        # Outside of the image are mean grey and 255. Padded with the border and then replaced, because zero padding
        # would mix the outermost pixels, which have labels, with the outside.
        inside = grid.abs().amax(3) <= 1
        image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        labels = F.grid_sample(mask[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
        image = torch.where(inside[:, None], image, GREY)
        return image, torch.where(inside, labels[:, 0].long(), IGNORE)

    def _window(self, image: Tensor, params: Tensor, mirrored: Tensor) -> Tensor:
        """What of each image is seen, as the affine map from output to input of affine_grid: (B,2,3)."""
        low, high = map(math.log, self.scale)
        zoom = torch.exp(low + (high - low) * params[:, 4])
        # The window of the input that is seen has half-width 1/zoom; its centre stays where it keeps to the image
        # (zoom > 1), or the image keeps to the window (zoom < 1).
        room = (1 - 1 / zoom).abs()
        theta = torch.zeros(len(zoom), 2, 3, device=image.device)
        theta[:, 0, 0] = torch.where(mirrored, -1 / zoom, 1 / zoom)
        theta[:, 1, 1] = 1 / zoom
        theta[:, 0, 2] = room * (2 * params[:, 5] - 1)
        theta[:, 1, 2] = room * (2 * params[:, 6] - 1)
        if self.rotation:
            # A positive angle turns the picture anticlockwise. −1…1 spans the width as well as the height, hence
            # their ratio: in pixels it is a rotation.
            angle = math.radians(self.rotation) * (2 * params[:, ROTATION_COLUMN] - 1)
            cos, sin, ratio = angle.cos(), angle.sin(), image.shape[2] / image.shape[3]
            turn = torch.stack([cos, -sin * ratio, sin / ratio, cos], 1).view(-1, 2, 2)
            theta[:, :, :2] = theta[:, :, :2] @ turn
        return theta

    def params(self, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """The random numbers of these images in this epoch: (B,7), or more if there is more to draw.

        In [0,1), but where a part has prepared its own.
        """
        num_params = uniform_numbers(seed, epoch, indices, self.num_params)
        for columns, part in self.then:
            num_params[:, columns] = part.make_params(num_params[:, columns])
        return num_params

    def size(self, params: Tensor, height: int, width: int) -> tuple[int, int]:
        """Height and width in which a batch of height × width comes out, drawn with the number of its first image.

        draws in the CPU's memory, or the GPU would be waited for.
        """
        if self.sizes == (1.0,):
            return height, width
        factor = self.sizes[int(params[0, SIZE_COLUMN] * len(self.sizes))]
        # Multiples of the deepest stride of all encoders, so that no network has to pad.
        return max(32, 32 * round(factor * height / 32)), max(32, 32 * round(factor * width / 32))

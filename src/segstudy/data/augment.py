"""Augmentation of whole batches on their device; every image's parameters are its own."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.losses import IGNORE
from segstudy.seeds import uniforms


class Augment:
    """Flip, scale, crop, brightness and contrast, drawn per image from (seed, epoch, index).

    flip: probability of a horizontal flip. scale: range of the zoom, above 1 crops, below 1 shows the whole image
    smaller with its rest ignored; drawn evenly in its logarithm. brightness, contrast: largest relative change,
    applied with the probability `colour`. All 0 and scale [1, 1] leave the batch as it is.
    """

    def __init__(
        self,
        flip: float = 0.5,
        scale: Sequence[float] = (1.0, 1.0),
        brightness: float = 0.2,
        contrast: float = 0.2,
        colour: float = 0.5,
    ):
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"data.augment.scale is [low, high] with 0 < low ≤ high, not {list(scale)}")
        self.flip, self.scale = flip, tuple(scale)
        self.brightness, self.contrast, self.colour = brightness, contrast, colour

    def __call__(self, image: Tensor, mask: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """image (B,3,H,W) in 0…1, mask (B,H,W), draws (B,7) in [0,1) → both, changed alike; labels ⊆ theirs ∪ {255}."""
        draws = draws.to(image.device)
        return self._warp(self._recolour(image, draws), mask, draws)

    def _recolour(self, image: Tensor, draws: Tensor) -> Tensor:
        if self.brightness == self.contrast == 0:
            return image
        on = (draws[:, 0] < self.colour).float()
        gain = 1 + on * self.contrast * (2 * draws[:, 1] - 1)
        shift = on * self.brightness * (2 * draws[:, 2] - 1)
        mean = image.mean((1, 2, 3), keepdim=True)
        gain, shift = gain[:, None, None, None], shift[:, None, None, None]
        return torch.addcmul(mean * (1 - gain) + shift, image, gain).clamp_(0, 1)

    def _warp(self, image: Tensor, mask: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        mirrored = draws[:, 3] < self.flip
        if self.scale == (1.0, 1.0):  # a flip alone needs no resampling
            image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
            return image, torch.where(mirrored[:, None, None], mask.flip(2), mask)
        low, high = map(math.log, self.scale)
        zoom = torch.exp(low + (high - low) * draws[:, 4])
        # The window of the input that is seen has half-width 1/zoom; its centre stays where it keeps to the image
        # (zoom > 1), or the image keeps to the window (zoom < 1).
        room = (1 - 1 / zoom).abs()
        theta = torch.zeros(len(zoom), 2, 3, device=image.device)
        theta[:, 0, 0] = torch.where(mirrored, -1 / zoom, 1 / zoom)
        theta[:, 1, 1] = 1 / zoom
        theta[:, 0, 2] = room * (2 * draws[:, 5] - 1)
        theta[:, 1, 2] = room * (2 * draws[:, 6] - 1)
        grid = F.affine_grid(theta, list(image.shape), align_corners=False)
        # Outside of the image are mean grey and 255. Padded with the border and then replaced, because zero padding
        # would mix the outermost pixels, which have labels, with the outside.
        inside = grid.abs().amax(3) <= 1
        image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        labels = F.grid_sample(mask[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
        image = torch.where(inside[:, None], image, 0.45)
        return image, torch.where(inside, labels[:, 0].long(), IGNORE)

    def draws(self, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """The random numbers of these images in this epoch: (B,7)."""
        return uniforms(seed, epoch, indices, 7)

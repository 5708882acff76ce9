"""Base class of the transforms that are applied after the geometric ones, and functions that they share."""

import torch
from torch import Tensor

from segstudy.ranges import Probability, checked

GREY = 0.45
"""Fill value of pixels without image content: the mean value of photos."""


@checked
class Transform:
    """A change of a batch, applied to each image with `probability`; other images stay bitwise unchanged.

    num_params: number of random numbers per image; the first one decides whether the image is selected.
    needs_rgb: it makes sense for RGB only.
    """

    num_params = 1
    needs_rgb = False

    def __init__(self, probability: Probability = 0.0):
        self.probability = probability

    def make_params(self, params: Tensor) -> Tensor:
        """Parameters (B,num_params) from uniform numbers in [0,1); called on the CPU, before the transfer."""
        return params

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Change image (B,C,H,W) in 0…1 and mask (B,H,W). params: of `make_params`. Output labels ⊆ input's ∪ {255}."""
        raise NotImplementedError("a transform defines __call__")

    def selected(self, params: Tensor) -> Tensor:
        """Whether each image is changed: bool (B,)."""
        return params[:, 0] < self.probability


def rectangles(area: Tensor, aspect: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """One rectangle in each image: bool (B,height,width).

    area (B,): its share of the image, up to rounding of its sides. aspect (B,): height/width in pixels, limited by the
    image. place (B,2) in [0,1): its position, from top to bottom and from left to right.
    """
    pixels = area * (height * width)
    tall = (pixels * aspect).sqrt().clamp(max=height).maximum(pixels / width)
    wide = pixels / tall.clamp(min=1e-6)
    return _interval(tall, place[:, 0], height)[:, :, None] & _interval(wide, place[:, 1], width)[:, None, :]


def _interval(length: Tensor, place: Tensor, whole: int) -> Tensor:
    """Which of `whole` pixels in a row are in an interval of `length`: bool (B,whole)."""
    length = length.round()
    first = (place * (whole - length + 1)).floor()
    pixel = torch.arange(whole, device=length.device)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])

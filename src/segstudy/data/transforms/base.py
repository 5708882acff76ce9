"""Base class of the transforms that follow the geometry, and what several of them share."""

from collections.abc import Sequence

import torch
from torch import Tensor

GREY = 0.45
"""Fill value of pixels without image content: the mean of photos."""


class Transform:
    """A change of a batch, applied to each image with `probability`; other images stay bit for bit as they are.

    num_params: random numbers that each image needs; the first one decides whether it is selected.
    """

    num_params = 1

    def __init__(self, probability: float = 0.0):
        self.probability = fraction("probability", self, probability)

    def make_params(self, params: Tensor) -> Tensor:
        """Parameters (B,num_params) from uniform numbers in [0,1); on the CPU, before the batch is moved."""
        return params

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Change image (B,3,H,W) in 0…1 and mask (B,H,W), with the `params` made. Labels out ⊆ the batch's ∪ {255}."""
        raise NotImplementedError("a transform defines __call__")

    def selected(self, params: Tensor) -> Tensor:
        """Which images are changed: bool (B,)."""
        return params[:, 0] < self.probability


def rectangles(area: Tensor, aspect: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """One rectangle in each image: bool (B,height,width).

    area (B,): its share of the image, up to the rounding of its sides. aspect (B,): height/width in pixels, limited by
    the image. place (B,2) in [0,1): its position between top and bottom, left and right.
    """
    pixels = area * (height * width)
    tall = (pixels * aspect).sqrt().clamp(max=height).maximum(pixels / width)
    wide = pixels / tall.clamp(min=1e-6)
    return _interval(tall, place[:, 0], height)[:, :, None] & _interval(wide, place[:, 1], width)[:, None, :]


def _interval(length: Tensor, place: Tensor, whole: int) -> Tensor:
    """Which of `whole` pixels in a row lie in an interval of `length`: bool (B,whole)."""
    length = length.round()
    first = (place * (whole - length + 1)).floor()
    at = torch.arange(whole, device=length.device)
    return (at >= first[:, None]) & (at < (first + length)[:, None])


def setting_name(transform: Transform) -> str:
    """Name of a transform in error messages: data.augment.then's Blur."""
    return f"data.augment.then's {type(transform).__name__}"


def positive_range(name: str, transform: Transform, values: Sequence[float]) -> tuple[float, float]:
    """Check that `values` are [low, high] with 0 < low ≤ high. Raises ValueError."""
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise ValueError(f"{setting_name(transform)}.{name} is [low, high] with 0 < low ≤ high, not {list(values)}")
    return values[0], values[1]


def fraction(name: str, transform: Transform, value: float) -> float:
    """Check that `value` is in 0…1. Raises ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{setting_name(transform)}.{name} is in 0…1, not {value}")
    return value

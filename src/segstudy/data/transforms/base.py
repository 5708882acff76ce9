"""Base class of the transforms that are applied after the geometric ones, and functions that they share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GREY = 0.45
"""Fill value of pixels without image content: the mean value of photos."""


class Transform:
    """A change of a batch, applied to each image with `probability`; other images stay bitwise unchanged.

    num_params: number of random numbers per image; the first one decides whether the image is selected.
    needs_rgb: it makes sense for RGB only.
    """

    num_params = 1
    needs_rgb = False

    def __init__(self, probability: float = 0.0):
        self.probability = fraction("probability", self, probability)

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


def setting_name(transform: Transform) -> str:
    """Name of a transform in error messages, such as "data.augment.then's Blur"."""
    return f"data.augment.then's {type(transform).__name__}"


def positive_range(name: str, transform: Transform, values: Sequence[float]) -> tuple[float, float]:
    """Return `values`, which must be [low, high] with 0 < low ≤ high. Raises ValueError."""
    if not is_positive_range(values):
        raise ValueError(f"{setting_name(transform)}.{name} must be [low, high] with 0 < low ≤ high, not {values}")
    return values[0], values[1]


def is_positive_range(values: Any) -> bool:
    """Whether `values` is [low, high] with 0 < low ≤ high."""
    return are_numbers(values) and len(values) == 2 and 0 < values[0] <= values[1]


def are_numbers(values: Any) -> bool:
    """Whether `values` is a list of numbers."""
    return isinstance(values, Sequence) and all(isinstance(value, int | float) for value in values)


def fraction(name: str, transform: Transform, value: float) -> float:
    """Return `value`, which must be in 0…1. Raises ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{setting_name(transform)}.{name} must be in 0…1, not {value}")
    return value

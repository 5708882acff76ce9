"""TODO"""

from collections.abc import Sequence

import torch
from torch import Tensor

GREY = 0.45
"""What is put where nothing is known: the mean of photos."""


class Transform:
    """A change to a batch that each image undergoes with `probability`; an image not drawn is left exactly as it is.

    A part takes `numbers` random numbers for each image, the first of which says whether it is drawn.
    """

    num_params = 1

    def __init__(self, probability: float = 0.0):
        self.probability = fraction("probability", self, probability)

    def make_params(self, params: Tensor) -> Tensor:
        """Turn uniform numbers into parameters where that needs no pixels: on the CPU, before the batch moves."""
        return params

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """image (B,3,H,W) in 0…1, mask (B,H,W), draws (B,numbers) as prepared → both; labels ⊆ the batch's ∪ {255}."""
        raise NotImplementedError("a part changes a batch")

    def selected(self, params: Tensor) -> Tensor:
        """Which images are drawn: bool (B,)."""
        return params[:, 0] < self.probability


def rectangles(area: Tensor, aspect: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """One rectangle in each picture, anywhere in it: bool (B,height,width).

    area (B,): its share of the picture, kept to the rounding of its sides; aspect (B,): its height/width in pixels,
    as far as the picture allows; place (B,2) in [0,1): where between top and bottom, left and right.
    """
    pixels = area * (height * width)
    tall = (pixels * aspect).sqrt().clamp(max=height).maximum(pixels / width)
    wide = pixels / tall.clamp(min=1e-6)
    return _interval(tall, place[:, 0], height)[:, :, None] & _interval(wide, place[:, 1], width)[:, None, :]


def _interval(length: Tensor, place: Tensor, whole: int) -> Tensor:
    """Of `whole` pixels in a row, those of a stretch of `length`: bool (B,whole)."""
    length = length.round()
    first = (place * (whole - length + 1)).floor()
    at = torch.arange(whole, device=length.device)
    return (at >= first[:, None]) & (at < (first + length)[:, None])


def setting_name(part: Transform) -> str:
    """How errors name a part: data.augment.then's Blur."""
    return f"data.augment.then's {type(part).__name__}"


def positive_range(name: str, part: Transform, values: Sequence[float]) -> tuple[float, float]:
    """Two positive numbers [low, high]. Raises ValueError for anything else."""
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise ValueError(f"{setting_name(part)}.{name} is [low, high] with 0 < low ≤ high, not {list(values)}")
    return values[0], values[1]


def fraction(name: str, part: Transform, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{setting_name(part)}.{name} is in 0…1, not {value}")
    return value

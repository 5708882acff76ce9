"""TODO"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def labels_at(scores: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Labels int64 (H,W) of scores (C,h,w), which are interpolated (bilinear) if `shape` is another size."""
    if scores.shape[1:] != tuple(shape):
        scores = F.interpolate(scores[None].float(), size=tuple(shape), mode="bilinear", align_corners=False)[0]
    return scores.max(0).indices  # the same as argmax, which takes ten times as long on a CPU


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """The devkit's colours: the bits of the class number dealt to red, green and blue, highest colour bit first."""
    colours = []
    for label in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours


IGNORE = 255
"""The only label that is ignored. Data sets convert to it when they read a file."""

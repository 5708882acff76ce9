"""Boxes around classes, and fast dilation and erosion of boolean masks."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice]
"""Rows and columns of a part of an image."""


def class_boxes(labels: np.ndarray) -> dict[int, Box]:
    """The smallest box around the pixels of each class that occurs in labels uint8 (H,W), in ascending order."""
    found = ndimage.find_objects(labels.astype(np.int16) + 1)
    return {c: box for c, box in enumerate(found) if box is not None}


def union(*boxes_of: Mapping[int, Box]) -> dict[int, Box]:
    """The smallest box around the boxes of each class, in ascending order."""
    joined = {}
    for c in sorted(set().union(*boxes_of)):
        axes = zip(*(boxes[c] for boxes in boxes_of if c in boxes), strict=True)
        rows, columns = (slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)
        joined[c] = (rows, columns)
    return joined


def enlarged(box: Box, reach: int) -> Box:
    """The box with `reach` more pixels at each side, as far as the image has them."""
    rows, columns = (slice(max(0, s.start - reach), s.stop + reach) for s in box)
    return rows, columns


def grown(area: np.ndarray, reach: int) -> np.ndarray:
    """The area dilated by `reach` steps (to any of eight neighbours): bool (H,W)."""
    return _over_square(area, reach, np.logical_or)


def shrunk(area: np.ndarray, reach: int) -> np.ndarray:
    """The area eroded by `reach` steps (to any of eight neighbours), also from the image border: bool (H,W)."""
    return _over_square(area, reach, np.logical_and)


def within(area: np.ndarray, distance: float) -> np.ndarray:
    """Pixels at most `distance` from a pixel of the area (Euclidean, ≥ 0): bool (H,W)."""
    reach = int(distance)
    height = len(area)
    near = np.zeros((height + 2 * reach, area.shape[1]), bool)
    for y in range(reach + 1):
        half = max(x for x in range(reach + 1) if math.sqrt(y * y + x * x) <= distance)
        line = _along_rows(area, half, np.logical_or)
        for top in (reach - y, reach + y):
            near[top : top + height] |= line
    return near[reach : reach + height]


def _over_square(area: np.ndarray, reach: int, combine: Callable) -> np.ndarray:
    return _along_rows(_along_rows(area, reach, combine).T, reach, combine).T


def _along_rows(area: np.ndarray, reach: int, combine: Callable) -> np.ndarray:
    """`combine` over the 2·reach + 1 pixels around each pixel in its row; False beyond the border.

    Doubles the window at each step. SciPy's minimum_filter and maximum_filter take eight times as long.
    """
    window, width = 1, 2 * reach + 1
    combined = np.zeros((len(area), area.shape[1] + 2 * reach), bool)
    combined[:, reach : reach + area.shape[1]] = area
    while window < width:
        step = min(window, width - window)
        combined = combine(combined[:, :-step], combined[:, step:])
        window += step
    return combined

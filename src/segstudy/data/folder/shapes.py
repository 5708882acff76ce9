"""Masks from outlines of objects, as annotation tools write them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segstudy.data.folder.mask_format import BACKGROUND, IndexedMask


@dataclass(frozen=True)
class AnnotatedObject:
    """An object: its label, its area in pixels (inf: painted below all others), and its pixels, bool (H,W)."""

    label: str
    area: float
    pixels: Callable[[], np.ndarray]


def paint_objects(height: int, width: int, objects: Sequence[AnnotatedObject]) -> IndexedMask:
    """Paint objects on background: smaller over larger ones; of equal size, later over earlier ones."""
    keys = list(dict.fromkeys([BACKGROUND, *(o.label for o in objects)]))
    mask = np.zeros((height, width), np.uint8)
    for each in sorted(objects, key=lambda o: -o.area):
        mask[each.pixels()] = keys.index(each.label)
    return mask, keys


def fill_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centre is inside a polygon, by the even-odd rule: bool (H,W).

    points (N,2): x, y; pixel (0,0) covers [0,1)×[0,1). Hand-written because libraries draw the border differently:
    scikit-image gives a pixel on a shared edge to both neighbours (and takes 0.8 s instead of 25 ms), Pillow adds the
    outline, pycocotools draws on a grid of fifths of a pixel (1.5 % of the pixels of 24×20 polygons differ).
    """
    crossed = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        # rows whose centre lies in [top, bottom): a corner belongs to one of its two edges
        top, bottom = (min(max(math.ceil(y - 0.5), 0), height) for y in sorted((y0, y1)))
        if top < bottom:
            rows = np.arange(top, bottom)
            x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            crossed[rows, np.ceil(x - 0.5).clip(0, width).astype(int)] ^= 1
    return np.bitwise_xor.accumulate(crossed, 1)[:, :width].astype(bool)


def polygon_area(points: np.ndarray) -> float:
    """Area of a polygon (N,2) without self-crossings: the shoelace formula."""
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

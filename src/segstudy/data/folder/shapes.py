"""Masks from outlines of objects, as annotation tools write them. An object's pixels are kept as run lengths."""

import base64
import binascii
import io
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from segstudy.data.folder.mask_format import BACKGROUND, IndexedMask
from segstudy.data.images import PILLOW_ERRORS
from segstudy.data.text import read_json
from segstudy.errors import DataError

MAX_COORDINATE = 1e5  # pycocotools walks along each outline: one with a larger coordinate would fill the memory
MAX_PIXELS = 1 << 30
NO_PIXEL = "objects that leave no pixel"
NO_WIDTH = "lines and points without a width"
NO_OUTLINE = "objects with a box, but without an outline"
RunLengths = dict[str, Any]


@dataclass(frozen=True)
class AnnotatedObject:
    """An object: its label and its pixels (see `Canvas`); None if it has no area.

    reason: why it leaves no pixel, if the mask has none of its label there. is_crowd: painted below all others.
    """

    label: str
    pixels: RunLengths | None
    reason: str = NO_PIXEL
    is_crowd: bool = False


@dataclass(frozen=True)
class Canvas:
    """An image on which objects are drawn. Pixel (0,0) covers [0,1)×[0,1); what lies outside is cut off.

    line_width: of lines and points, in pixels; None: they have no pixels. Raises ValueError for an impossible size.
    """

    height: int
    width: int
    line_width: float | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.height * self.width > MAX_PIXELS:
            raise ValueError(f"no image has {self.height}×{self.width} pixels")

    def area(self, outlines: Sequence[Any], holes: Sequence[Any] = ()) -> RunLengths:
        """The pixels whose centre is in one of the outlines, but in none of the holes. Each has 3 or more points."""
        flat = [_points(outline).ravel().tolist() for outline in outlines]
        pixels = self.union(run_lengths.frPyObjects(flat, self.height, self.width))
        if not holes:
            return pixels
        return self.encode(decode(pixels) & ~decode(self.area(holes)))

    def stroke(self, points: Any, width: float) -> RunLengths:
        """The pixels whose centre is within half a `width` of a line through the points; of one point: a disc."""
        drawn = np.zeros((self.height, self.width), bool)
        corners = _points(points)
        for start, end in zip(corners[: max(1, len(corners) - 1)], corners[-max(1, len(corners) - 1) :], strict=True):
            (left, top), (right, bottom) = (
                (edge.astype(int)).clip(0, (self.width, self.height)).tolist()
                for edge in (np.minimum(start, end) - width, np.maximum(start, end) + width + 1)
            )
            y, x = np.mgrid[top:bottom, left:right] + 0.5
            along, length = end - start, max(1e-9, float(((end - start) ** 2).sum()))
            part = (((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length).clip(0, 1)
            distance = np.hypot(x - start[0] - part * along[0], y - start[1] - part * along[1])
            drawn[top:bottom, left:right] |= distance <= width / 2
        return self.encode(drawn)

    def line(self, label: str, points: Any) -> AnnotatedObject:
        """A line or point, drawn with the line width if there is one. The pixels of its points belong to it."""
        if not self.line_width:
            return AnnotatedObject(label, None, NO_WIDTH)
        corners = [self.bitmap(np.ones((1, 1), bool), int(x), int(y)) for x, y in np.floor(_points(points))]
        return AnnotatedObject(label, self.union([self.stroke(points, self.line_width), *corners]))

    def bitmap(self, pixels: np.ndarray, x: int, y: int) -> RunLengths:
        """A bitmap bool (h,w) whose upper left corner is at x, y."""
        drawn = np.zeros((self.height, self.width), bool)
        top, left = max(0, y), max(0, x)
        part = pixels[top - y : max(0, self.height - y), left - x : max(0, self.width - x)]
        drawn[top : top + part.shape[0], left : left + part.shape[1]] = part
        return self.encode(drawn)

    def union(self, parts: Sequence[RunLengths]) -> RunLengths:
        """The pixels of all parts."""
        return run_lengths.merge(list(parts))

    def encode(self, pixels: np.ndarray) -> RunLengths:
        """The run lengths of a mask bool (H,W)."""
        return run_lengths.encode(np.asfortranarray(pixels, np.uint8))

    def paint(self, objects: Sequence[AnnotatedObject]) -> IndexedMask:
        """Paint objects on background: smaller over larger ones; of equal size, later over earlier ones."""
        areas = [int(run_lengths.area(o.pixels)) if o.pixels else 0 for o in objects]
        order = sorted(range(len(objects)), key=lambda i: (not objects[i].is_crowd, -areas[i]))
        keys = list(dict.fromkeys([BACKGROUND, *(o.label for o in objects)]))
        owner = np.zeros((self.height, self.width), np.uint32, order="F")  # as pycocotools' masks
        for i in order:
            if areas[i]:
                x, y, width, height = run_lengths.toBbox(objects[i].pixels).astype(int)
                part = np.s_[y : y + height, x : x + width]
                owner[part][decode(objects[i].pixels)[part]] = i + 1
        index_of = np.array([0, *(keys.index(o.label) for o in objects)], np.min_scalar_type(len(keys)))
        visible = np.bincount(owner.ravel(), minlength=len(objects) + 1)[1:]
        lost: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        indices = np.ascontiguousarray(index_of[owner])
        for i, each in enumerate(objects):
            # an object under others of its label is not lost
            if not visible[i] and not (areas[i] and (indices[decode(each.pixels)] == index_of[i + 1]).any()):
                lost[each.reason][each.label] += 1
        return IndexedMask(indices, keys, {reason: dict(labels) for reason, labels in lost.items()})


def decode(pixels: RunLengths | None) -> np.ndarray:
    """The mask bool (H,W) of run lengths."""
    return run_lengths.decode(pixels).view(bool)


def decode_picture(text: str, unpack: Callable[[bytes], bytes] = bytes) -> np.ndarray:
    """The mask bool (h,w) in a picture that is written as base64. Raises ValueError if it is none.

    unpack: what else the bytes need before they are a picture.
    """
    try:
        picture = Image.open(io.BytesIO(unpack(base64.b64decode(text))))
        bands = picture.convert("RGBA").split() if picture.mode in ("RGBA", "LA") else [picture]
        return np.asarray(bands[-1]) > 0
    except (*PILLOW_ERRORS, binascii.Error, zlib.error) as error:
        raise ValueError(f"its bitmap cannot be read: {error}") from error


def _points(values: Any) -> np.ndarray:
    """Points (N,2). Raises ValueError for anything else, and far outside of any image."""
    points = np.asarray(values, float)
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError("its points are not a list of x and y")
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise ValueError(f"a coordinate is not a number within ±{MAX_COORDINATE:,.0f}")
    return points


def is_line(points: Any) -> bool:
    """Whether an outline has too few points to have an area."""
    return len(_points(points)) < 3


def required(content: Mapping[str, Any], key: str) -> Any:
    """A value. Raises ValueError that names the key if it is missing or null."""
    if content.get(key) is None:
        raise ValueError(f"{key!r} is missing")
    return content[key]


def read_annotations(path: Path, paint: Callable[[Any], IndexedMask], expected: str) -> IndexedMask:
    """The mask that `paint` makes of the content of a JSON file. Raises DataError if it has another form."""
    content = read_json(path)
    try:
        return paint(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is invalid: {error}\n  expected: {expected}") from error

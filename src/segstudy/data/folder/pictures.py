"""Masks that are pictures: their values or their colours are classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.folder.mask_format import IndexedMask, Rgb
from segstudy.data.images import Sample, open_picture
from segstudy.errors import DataError


def open_mask(path: Path) -> Any:
    """The decoded picture of a mask. Raises DataError for JPEG, whose compression changes values."""
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise DataError(
            f"{path} is a JPEG: compression has changed its pixels, so that classes cannot be distinguished\n"
            "  → export PNG masks from the program they were drawn in; converting the JPEG does not restore them"
        )
    if picture.mode == "F":
        raise DataError(f"{path} holds floating-point values, not classes\n  → save the class numbers as 8-bit PNG")
    return picture


def has_color(picture: Any) -> bool:
    """Whether the channels of a picture differ (an indexed picture has only one)."""
    values = np.asarray(picture)
    return values.ndim == 3 and values.shape[2] > 2 and bool((values[..., :1] != values[..., 1:3]).any())


def read_index_mask(sample: Sample) -> IndexedMask:
    """Read a mask of class numbers: an indexed or greyscale picture, or RGB with three equal channels."""
    path = sample.file("mask")
    picture = open_mask(path)
    if has_color(picture):
        raise DataError(
            f"{path} is a colour picture ({picture.mode}), but the other masks hold class numbers\n"
            "  → save the class number of each pixel, not its colour"
        )
    values = np.asarray(picture)
    return _index_values(path, values if values.ndim == 2 else values[..., 0], str, "values")


def read_color_mask(sample: Sample) -> IndexedMask:
    """Read a mask whose colours are classes; transparency is dropped."""
    path = sample.file("mask")
    red, green, blue = np.moveaxis(np.asarray(open_mask(path).convert("RGB")).astype(np.int64), 2, 0)
    return _index_values(
        path, red << 16 | green << 8 | blue, lambda v: f"{v >> 16},{v >> 8 & 255},{v & 255}", "colours"
    )


def _index_values(path: Path, values: np.ndarray, key: Callable[[int], str], what: str) -> IndexedMask:
    unique, positions = np.unique(values, return_inverse=True)
    if len(unique) > 256:
        raise DataError(
            f"{path} holds {len(unique):,} {what}: too many for a mask of classes\n"
            "  → does it number single objects, or was it resized or saved with smooth edges?"
        )
    return positions.reshape(values.shape).astype(np.uint8), [key(int(v)) for v in unique]


def palette_of(picture: Any) -> dict[str, Rgb]:
    """{key: colour} of an indexed picture, {} of another one."""
    values = picture.getpalette("RGB") or [] if picture.mode == "P" else []
    return {str(i): (r, g, b) for i, (r, g, b) in enumerate(zip(*[iter(values)] * 3, strict=False))}

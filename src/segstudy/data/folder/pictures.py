"""Masks that are pictures: their values or their colours are classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.folder.mask_format import IndexedMask, MaskFormat, color_key
from segstudy.data.images import Sample, open_picture
from segstudy.errors import DataError


def with_values(mask_format: MaskFormat, kind: str) -> MaskFormat:
    """The format of pictures that are read as this kind: numbers, grey or colours."""
    return replace(mask_format, kind=kind, read=partial(read_picture, kind=kind), palette={})


def read_picture(sample: Sample, kind: str) -> IndexedMask:
    """Read a mask that is a picture. kind: see `MaskFormat`."""
    path = sample.file("mask")
    picture = open_mask(path)
    indices, keys = index_picture(picture, path, kind)
    colours = colours_of_keys(picture, keys) if kind == "numbers" else {}
    return IndexedMask(indices, keys, mode=picture.mode, colours=colours)


def open_mask(path: Path) -> Any:
    """The decoded picture of a mask. Raises DataError for JPEG, whose compression changes values."""
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise DataError(
            f"{path} is a JPEG: compression has changed its pixels, so that classes cannot be distinguished\n"
            "  → export PNG masks from the program they were drawn in; converting the JPEG does not restore them"
        )
    if picture.info["16-bit"] and len(picture.getbands()) > 1:
        raise DataError(f"{path} has 16 bits per channel, of which only 8 can be read\n  → save the mask as 8-bit PNG")
    if _alpha_distinguishes(picture):
        raise DataError(
            f"{path} has areas of one colour that differ only in transparency, which is not read\n"
            "  → save the mask without transparency, its background in a colour or value of its own"
        )
    if picture.mode == "F":
        raise DataError(f"{path} holds floating-point values, not classes\n  → save the class numbers as 8-bit PNG")
    return picture


def _alpha_distinguishes(picture: Any) -> bool:
    """Whether wholly transparent pixels have the colour of others."""
    if picture.mode not in ("RGBA", "LA"):
        return False
    values = np.asarray(picture).reshape(-1, len(picture.getbands()))
    hidden = values[:, -1] == 0
    if hidden.all() or not hidden.any():
        return False
    colours = values[:, :-1].astype(np.int64) @ (256 ** np.arange(values.shape[1] - 1))
    return bool(np.isin(colours[hidden], colours[~hidden]).any())


def has_color(picture: Any) -> bool:
    """Whether the channels of a picture differ (an indexed picture has only one)."""
    values = np.asarray(picture)
    return values.ndim == 3 and values.shape[2] > 2 and bool((values[..., :1] != values[..., 1:3]).any())


def index_picture(picture: Any, path: Path, kind: str) -> tuple[np.ndarray, list[str]]:
    """(indices (H,W), keys) of a decoded picture, without its transparency. kind: see `MaskFormat`. path: for errors.

    Raises DataError for a colour picture whose classes should be numbers, and for more than 256 values or colours.
    """
    if kind == "grey" and picture.mode in ("P", "PA", "1"):
        picture = picture.convert("L")
    if kind == "colours":
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(np.int64), 2, 0)
        values = red << 16 | green << 8 | blue
        return _index_values(path, values, lambda v: color_key((v >> 16, v >> 8 & 255, v & 255)), "colours")
    if has_color(picture):
        raise DataError(
            f"{path} is a colour picture ({picture.mode}), but the other masks hold class numbers\n"
            "  → save the class number of each pixel, not its colour"
        )
    values = np.asarray(picture)
    return _index_values(path, values if values.ndim == 2 else values[..., 0], str, "values")


def _index_values(path: Path, values: np.ndarray, key: Callable[[int], str], what: str) -> tuple[np.ndarray, list[str]]:
    if values.dtype == np.uint8:  # much faster than sorting
        present = np.bincount(values.ravel(), minlength=256).nonzero()[0]
        position = np.zeros(256, np.uint8)
        position[present] = np.arange(len(present))
        return position[values], [key(int(v)) for v in present]
    unique, positions = np.unique(values, return_inverse=True)
    if len(unique) > 256:
        raise DataError(
            f"{path} holds {len(unique):,} {what}: too many for a mask of classes\n"
            "  → does it number single objects, or was it resized or saved with smooth edges?"
        )
    return positions.reshape(values.shape).astype(np.uint8), [key(int(v)) for v in unique]


def colours_of_keys(picture: Any, keys: Sequence[str]) -> dict[str, str]:
    """{key: colour} of the indices in use; of black-and-white pictures too. {} if values have no colour."""
    if picture.mode not in ("P", "PA", "1"):
        return {}
    values = [0, 0, 0, 255, 255, 255] if picture.mode == "1" else picture.getpalette("RGB") or []
    return {k: color_key(values[3 * int(k) : 3 * int(k) + 3] or (0, 0, 0)) for k in keys}

"""TIFF files of any number of channels and any type of values, read with tifffile (the extra "geo"); GeoTIFF's tags."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segstudy.errors import DataError, first_line

SUFFIXES = (".tif", ".tiff")

INSTALL = "pip install 'segstudy[geo]'"

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
"""Tags of GeoTIFF that place the pixels: scale, tie points, transformation, three of the reference system, RPC."""

PHOTOMETRIC = {1: "grey", 2: "RGB"}
"""The interpretations (TIFF 6.0, section 8) whose values are read as they are; extra channels may follow."""

Tags = list[tuple[int, int, int, Any, bool]]
"""For `tifffile.imwrite`: (code, type, number of values, values, whether only on the first page)."""


def is_readable() -> bool:
    """Whether tifffile is installed."""
    return find_spec("tifffile") is not None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not is_readable():
        raise DataError(f"{path}: with data.channels or data.value_range, TIFF needs tifffile\n  → {INSTALL}")
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but missing") from error
    except Exception as error:  # tifffile and its codecs raise many types
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error


def tiff_shape(path: Path) -> tuple[int, int, int, str]:
    """(H, W, channels, type of the values) of a TIFF with one picture, as stored. Raises DataError as `read_tiff`."""
    with _opened(path) as tiff:
        return _layout(tiff, path)


def read_tiff(path: Path) -> tuple[np.ndarray, int]:
    """(the values (H,W,channels) as stored, EXIF orientation).

    Raises DataError if tifffile is not installed, for a damaged file, for several pages, and for more pixels than
    Pillow's limit.
    """
    with _opened(path) as tiff:
        height, width, _, _ = _layout(tiff, path)
        if Image.MAX_IMAGE_PIXELS is not None and height * width > 2 * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{height * width} pixels exceed the limit")
        series = tiff.series[0]
        values = series.asarray()
        if axis := next((each for each in "SC" if each in series.axes), ""):
            values = np.moveaxis(values, series.axes.index(axis), -1)
        orientation = series.keyframe.tags.valueof(274, 1)
    return values.reshape(height, width, -1), int(orientation) if orientation in range(2, 9) else 1


def _layout(tiff: Any, path: Path) -> tuple[int, int, int, str]:
    series = tiff.series[0]
    sides = dict(zip(series.axes, series.shape, strict=True))
    channels = sides.pop("S", 1) * sides.pop("C", 1)
    height, width = sides.pop("Y"), sides.pop("X")
    if len(tiff.series) > 1 or sides:
        raise DataError(several_pictures(path, len(tiff.pages)))
    if series.keyframe.photometric not in PHOTOMETRIC:
        name = getattr(series.keyframe.photometric, "name", series.keyframe.photometric)
        raise DataError(
            f"{path} holds values of the kind {name}\n  → save it as grey or RGB, with any further channels"
        )
    return height, width, channels, str(series.dtype)


def several_pictures(path: Path, number: int) -> str:
    """The message for a file with several pages or frames, of which only one could be used."""
    return f"{path} holds {number} pictures (pages or frames)\n  → save each one as a file of its own"


def geo_tags(path: Path) -> Tags:
    """The tags that place a GeoTIFF's pixels on the earth; [] for any other file, or if tifffile is not installed.

    Copied as they are, they place a mask of the same size exactly, without rasterio.
    """
    if path.suffix.lower() not in SUFFIXES or not is_readable():
        return []
    try:
        with _opened(path) as tiff:
            held = tiff.pages[0].tags
            if held.valueof(274, 1) != 1:  # the mask is turned upright, and its coordinates would not be
                return []
            tags = [held[code] for code in GEO_TAGS if code in held]
            return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in tags]
    except DataError:  # what is wrong with the file is told when it is read
        return []


def has_geo_tags(path: Path) -> bool:
    """Whether a TIFF that Pillow reads states where its pixels lie, found without tifffile."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with Image.open(path) as picture:
            return any(code in getattr(picture, "tag_v2", {}) for code in GEO_TAGS)
    except Exception:  # what is wrong with the file is told when it is read
        return False


def tiff_mask(labels: np.ndarray, colours: np.ndarray, software: str, tags: Tags) -> bytes:
    """A palette TIFF of labels uint8 (H,W) with a GeoTIFF's tags. colours: uint8 (256,3)."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file, labels, photometric="palette", colormap=colours.T.astype(np.uint16) * 257, compression="zlib",
        software=software, extratags=tags, metadata=None,
    )  # fmt: skip
    return file.getvalue()

"""Reading one image and its mask, and saying plainly what is wrong with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segstudy.errors import DataError
from segstudy.losses import IGNORE


@dataclass(frozen=True)
class Sample:
    """One image of a split: its name and files. Generated data has no files."""

    name: str
    image: Path | None = None
    mask: Path | None = None


def read_image(path: Path) -> tuple[np.ndarray, str]:
    """RGB uint8 (H,W,3) and what had to be converted ("" for plain RGB). EXIF orientation is applied."""
    picture = _open(path)
    note = {"L": "greyscale", "RGBA": "RGBA", "CMYK": "CMYK", "RGB": ""}.get(picture.mode, picture.mode)
    if picture.mode in ("I;16", "I;16B", "I"):
        note = "16-bit"
        values = np.asarray(picture).astype(np.float64) / (257 if np.asarray(picture).max() > 255 else 1)
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if orientation(path) != 1:
        note = (note + " EXIF-rotated").strip()
        picture = ImageOps.exif_transpose(picture)
    return np.array(picture.convert("RGB")), note


def read_mask(path: Path, num_classes: int, mapping: Mapping[int, int] | None = None, turn: int = 1) -> np.ndarray:
    """Labels uint8 (H,W) in 0…num_classes−1 or 255, after `mapping` of the file's values.

    turn: EXIF orientation of the image, applied here alike: a mask is taken to be drawn on the stored pixels.
    Raises DataError for a colour picture and for labels outside the classes.
    """
    picture = _open(path)
    if picture.mode not in ("P", "L", "1", "I;16", "I"):
        raise DataError(
            f"{path} is a colour picture ({picture.mode}), not a mask of class numbers.\n"
            "  expected: an indexed (palette) or greyscale PNG whose values are classes, 255 for ignored pixels"
        )
    if turn != 1:
        picture.getexif()[274] = turn
        picture = ImageOps.exif_transpose(picture)
    labels = np.array(picture).astype(np.int64)
    for source, target in (mapping or {}).items():
        labels = np.where(np.array(picture) == int(source), int(target), labels)
    wrong = sorted(set(np.unique(labels).tolist()) - {*range(num_classes), IGNORE})
    if wrong:
        raise DataError(
            f"{path} holds the labels {_some(wrong)}, the data has classes 0…{num_classes - 1} and 255 for ignored.\n"
            "  if these values have a meaning, map them: data.labels={" + f"{wrong[0]}: CLASS" + "}"
        )
    return labels.astype(np.uint8)


def read_pair(
    sample: Sample, num_classes: int, mapping: Mapping[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Image (H,W,3), mask (H,W) and the note of conversions. Raises DataError if the sizes differ."""
    if sample.image is None or sample.mask is None:
        raise DataError(f"{sample.name} has no files")
    image, note = read_image(sample.image)
    mask = read_mask(sample.mask, num_classes, mapping, orientation(sample.image))
    if image.shape[:2] != mask.shape:
        turned = " (after its EXIF rotation; the mask must be drawn on the stored pixels)" if "EXIF" in note else ""
        raise DataError(
            f"{sample.name}: the image is {image.shape[1]}×{image.shape[0]}{turned}, "
            f"the mask {mask.shape[1]}×{mask.shape[0]}\n  image: {sample.image}\n  mask:  {sample.mask}"
        )
    return image, mask, note


def orientation(path: Path) -> int:
    """The EXIF orientation of a picture file, 1 for upright."""
    with Image.open(path) as picture:
        return int(picture.getexif().get(274, 1))


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but not there") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise DataError(f"{path} cannot be read: {error}") from error
    return picture


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")

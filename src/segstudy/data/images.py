"""Reading one image and its mask, and saying plainly what is wrong with them."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy.io import loadmat

from segstudy.errors import DataError
from segstudy.labels import IGNORE

ORIENTATION = 274  # the EXIF tag

BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for broken files."""

NOTES = {"RGB": "", "L": "greyscale", "LA": "greyscale", "P": "palette", "PA": "palette", "1": "black-and-white"}
"""What a picture's mode is called when its conversion is stated; other modes by their own name."""

DARK = 4095
"""A 16-bit picture without a larger value holds 8, 10 or 12 bits: divided by 257, nothing of it would be seen."""

SCALE = "  → save it with 8 bits per channel, as it is to be seen"

Draw = Callable[[int, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One image of a split: its name and files (generated data has none), and the group it must not be parted from."""

    name: str
    image: Path | None = None
    mask: Path | None = None
    group: str = ""


def require(samples: Sequence[Sample], wanted: str) -> None:
    """Raise DataError that lists the images and masks which are not there. wanted: who names them, for the message."""
    missing = [str(p) for s in samples for p in (s.image, s.mask) if p and not p.is_file()]
    if missing:
        more = f"\n  … and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{len(missing)} files of {wanted} are not there:\n  " + "\n  ".join(missing[:5]) + more + "\n"
            "  → complete the folder (data.root), or choose a list of what is there (data.train, data.val)"
        )


def list_found(folder: Path) -> str:
    """What a folder holds, for messages: its first names."""
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:8]) or "an empty folder"


def read_image(path: Path) -> tuple[np.ndarray, str]:
    """RGB uint8 (H,W,3) and what had to be converted ("" for plain RGB). EXIF orientation is applied.

    16-bit values are divided by 257, unless it is grey and none is above 255. Transparency is dropped. Raises DataError
    for floating-point values, and for those of a grey picture or of colours that fill so little of their 16 bits (or so
    much more) that nothing would be seen.
    """
    picture, note, _ = open_upright(path)
    return rgb(picture), note


def open_upright(path: Path) -> tuple[Image.Image, str, int]:
    """The picture as a viewer shows it, 8 bits per channel; what had to be converted; the EXIF orientation applied."""
    picture = open_picture(path)
    note = "16-bit" if picture.info["16-bit"] else NOTES.get(picture.mode, picture.mode)
    turn = _turn(picture)
    if turn != 1:
        note = (note + " EXIF-rotated").strip()
        picture = ImageOps.exif_transpose(picture)
    return to_eight_bits(picture, str(path)), note, turn


def to_eight_bits(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """The picture, its values divided by 257 if it is one of 16 bits; unless it is grey and none is above 255.

    Raises DataError that names it for values that are no photo's: floating-point ones, and 16-bit ones that would be
    all but black or white.
    """
    if picture.mode == "F":
        raise DataError(f"{name} holds floating-point values, not a photo\n  → save it with 8 or 16 bits per channel")
    if not picture.mode.startswith("I"):
        _refuse_dark(picture, name)
        return picture
    extrema: Any = picture.getextrema()
    lowest, highest = extrema
    if lowest < 0 or highest > 65535 or 255 < highest <= DARK:
        raise DataError(
            f"{name} holds values from {lowest} to {highest}: of 0…65535 in 8 bits, nothing would be seen\n{SCALE}"
        )
    deep = highest > 255
    values = np.empty(picture.size[::-1], np.uint8)
    for top in range(0, picture.height, 256):  # in bands: as floats, a large picture would take eight times its memory
        band = np.asarray(picture.crop((0, top, picture.width, min(top + 256, picture.height))), np.float64)
        values[top : top + 256] = (band / 257 if deep else band).round().clip(0, 255)
    return Image.fromarray(values)


def _refuse_dark(picture: Image.Image, name: str) -> None:
    """Raise DataError for a colour picture of 16 bits whose values are small: Pillow has kept the upper 8 alone."""
    if not picture.info.get("16-bit"):
        return
    extrema: Any = picture.getextrema()
    if max(highest for band, (_, highest) in zip(picture.getbands(), extrema, strict=True) if band != "A") <= DARK >> 8:
        raise DataError(
            f"{name} has 16 bits per channel and no value above {DARK}: in 8 bits, it would be all but black\n{SCALE}"
        )


def rgb(picture: Image.Image) -> np.ndarray:
    """RGB uint8 (H,W,3); Pillow would cut 16-bit values off at 255 (see `to_eight_bits`)."""
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def read_mask(path: Path, num_classes: int, mapping: Mapping[int, int] | None = None, turn: int = 1) -> np.ndarray:
    """Labels uint8 (H,W) in 0…num_classes−1 or 255, after `mapping` of the file's values.

    turn: EXIF orientation of the image, applied here alike: a mask is taken to be drawn on the stored pixels.
    A .mat file is one of SBD's. Raises DataError for a colour picture and for labels outside the classes.
    """
    picture = _open_sbd(path) if path.suffix == ".mat" else open_picture(path)
    if picture.mode not in ("P", "L", "1", "I") and not picture.mode.startswith("I;16"):
        raise DataError(
            f"{path} is a colour picture ({picture.mode}), not a mask of class numbers\n"
            "  expected: an indexed (palette) or greyscale PNG whose values are classes, 255 for ignored pixels\n"
            "  → save the mask as that: the class number of each pixel, not its colour"
        )
    meaning = {int(source): int(target) for source, target in (mapping or {}).items()}
    if picture.mode in ("P", "L"):  # Pillow counts and replaces bytes far faster than NumPy
        present = [value for value, count in enumerate(picture.histogram()) if count]
        if meaning:
            picture = picture.point([meaning.get(v, v) & 255 for v in range(256)])
        labels = np.asarray(picture)
    else:
        found, places = np.unique(np.asarray(picture), return_inverse=True)
        present = [int(value) for value in found]
        labels = np.array([meaning.get(v, v) & 255 for v in present], np.uint8)[places].reshape(picture.size[::-1])
    after = {meaning.get(v, v) for v in present}
    if wrong := sorted(after - {*range(num_classes), IGNORE}):
        mapped = " after data.labels" if mapping else ""
        raise DataError(
            f"{path} holds the labels {_some(wrong)}{mapped}, "
            f"the data has classes 0…{num_classes - 1} and 255 for ignored\n"
            "  → if these values have a meaning, map them: data.labels={" + f"{wrong[0]}:CLASS" + "}"
        )
    return apply_orientation(labels, turn)


def read_pair(
    sample: Sample, num_classes: int, mapping: Mapping[int, int] | None = None, draw: Draw | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Image (H,W,3), mask (H,W) and the note of conversions. Raises DataError if the sizes differ.

    draw: makes the labels of a mask that is no picture of class numbers, from the image's orientation and upright size.
    """
    if sample.image is None or sample.mask is None:
        raise DataError(f"{sample.name} has no image or no mask: a data set without files defines its own `read`")
    picture, note, turn = open_upright(sample.image)
    image = rgb(picture)
    mask = read_mask(sample.mask, num_classes, mapping, turn) if draw is None else draw(turn, image.shape[:2])
    if image.shape[:2] != mask.shape:
        rotated = " (after its EXIF rotation)" if turn != 1 else ""
        reason = "\n  → its mask must be drawn on the stored pixels: it is rotated as the image is" if rotated else ""
        raise DataError(
            f"{sample.name}: the image is {image.shape[1]}×{image.shape[0]}{rotated}, "
            f"the mask {mask.shape[1]}×{mask.shape[0]}\n  image: {sample.image}\n  mask:  {sample.mask}" + reason
        )
    return image, mask, note


def apply_orientation(values: np.ndarray, turn: int) -> np.ndarray:
    """An array (H,W) as a viewer shows it that obeys the EXIF orientation `turn` (1…8)."""
    values = values.swapaxes(0, 1) if turn > 4 else values
    down, right = (-1 if turn in flipped else 1 for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return values[::down, ::right]


def _turn(picture: Image.Image) -> int:
    turn = picture.getexif().get(ORIENTATION, 1)
    return int(turn) if turn in range(2, 9) else 1  # cameras also write 0, which means nothing


def open_picture(path: Path) -> Image.Image:
    """The decoded picture; its info["16-bit"] tells what Pillow's mode does not, that an RGB file had 16 bits."""
    try:
        picture = Image.open(path)
        try:
            if picture.format == "EPS":  # Pillow hands these to Ghostscript, a program that runs them
                raise DataError(f"{path} is PostScript, a program and not a picture\n  → save it as PNG or JPEG")
            layout = str(picture.tile)
            picture.load()
        except BaseException:
            picture.close()
            raise
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but not there") from error
    except BROKEN as error:
        raise DataError(f"{path} cannot be read: {_link(path) or error}") from error
    picture.info["16-bit"] = any(f";16{order}" in layout for order in "BLN") or picture.mode.startswith("I;16")
    return picture


def _link(path: Path) -> str:
    """What to say of a link that became a small text file when it was copied, else nothing."""
    if path.stat().st_size < 300 and (text := path.read_bytes().decode(errors="replace")).startswith("../"):
        return f"it is a text file that says {text!r}, a link that was lost in copying; copy the data with its links"
    return ""


def _open_sbd(path: Path) -> Image.Image:
    """The class labels in a file of SBD: the field Segmentation of the struct GTcls."""
    try:
        labels = loadmat(path, struct_as_record=False, squeeze_me=True)["GTcls"].Segmentation
        return Image.fromarray(np.asarray(labels, np.uint8))
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but not there") from error
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise DataError(f"{path} cannot be read as a mask of SBD (GTcls.Segmentation): {error}") from error


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")

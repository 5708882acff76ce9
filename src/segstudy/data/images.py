"""Reading of images and masks; errors say what is wrong with the file and what to do."""

import struct
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.io import loadmat

from segstudy.data.tiff import INSTALL, SUFFIXES, is_readable, several_pictures, tiff_shape
from segstudy.errors import DataError, first_few
from segstudy.formatting import counted
from segstudy.labels import IGNORE

EXIF_ORIENTATION = 274
"""The EXIF tag of the orientation (1…8)."""

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""

MODE_NAMES = {"RGB": "", "L": "greyscale", "LA": "greyscale", "P": "palette", "PA": "palette", "1": "black-and-white"}
"""Names of Pillow's modes in the note on conversions; other modes keep their own name."""

MAX_12_BIT = 4095
"""16-bit pictures without a larger value use at most 12 bits: divided by 257, they would be almost black."""

EIGHT_BIT_FILES = (".jpg", ".jpeg", ".webp", ".bmp", ".npy")
"""Suffixes of files that cannot be pictures of 16 bits."""


class UnknownRange(DataError):
    """Images do not hold 8 bits, and data.value_range is not set. lowest, highest: the values; kind: their type."""

    def __init__(self, message: str, lowest: float, highest: float, kind: str):
        super().__init__(message)
        self.lowest, self.highest, self.kind = lowest, highest, kind

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> "UnknownRange":
        """Of the values of one image. name: for the message."""
        low, high = finite_range(values)
        found = f"{values.dtype} values from {low:g} to {high:g}"
        question = f"{name} holds {found}: which ones are dark and bright? (data.value_range)"
        return cls(question, low, high, str(values.dtype))


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """(lowest, highest) of the values that are finite; (0, 1) if none are."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


@dataclass(frozen=True)
class Sample:
    """One image of a split: its name, its files (None for generated data), and its group ID.

    A group (a drive, a patient, a place) is never split; an image with "" forms its own group.
    """

    name: str
    image: Path | None = None
    mask: Path | None = None
    group: str = ""

    def file(self, kind: Literal["image", "mask"]) -> Path:
        """The path of its image or mask. Raises DataError if it has none."""
        path = self.image if kind == "image" else self.mask
        if path is None:
            raise DataError(f"{self.name} has no {kind} file: a data set without files must define its own `read`")
        return path


def image_name(path: Path | str) -> str:
    """The name that an image and its mask share: the path below their folder, without suffix.

    Unicode is composed (NFC): some systems write `ä` as two characters, others as one.
    """
    return unicodedata.normalize("NFC", Path(path).with_suffix("").as_posix())


def read_image(path: Path) -> tuple[np.ndarray, str, int]:
    """(RGB uint8 (H,W,3), turned upright by its EXIF orientation; a note on conversions; the EXIF orientation).

    16-bit values are divided by 257 (see `require_bright`). Transparency is dropped. The note is "" for plain RGB.
    Raises UnknownRange for floating-point values, and for values beyond 16 bits.
    """
    picture = open_picture(path)
    notes = ["16-bit" if picture.info["16-bit"] else MODE_NAMES.get(picture.mode, picture.mode)]
    if picture.info["pictures"] > 1:
        notes.append(f"first of {picture.info['pictures']} pictures")
    orientation = exif_orientation(picture.getexif())
    if orientation != 1:
        notes.append("EXIF-rotated")
        picture = ImageOps.exif_transpose(picture)
    return to_rgb(to_eight_bits(picture, str(path))), " ".join(filter(None, notes)), orientation


def header_shape(path: Path) -> tuple[int, int]:
    """(H,W) of an image as a viewer shows it, from the file's header. Raises DataError if it cannot be read."""
    if path.suffix.lower() == ".npy":
        height, width, _ = open_array(path).shape
        return height, width
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            exif = Image.Image.getexif(picture)  # PngImageFile's own would decode the whole picture
            is_turned = exif_orientation(exif) > 4 and picture.format != "TIFF"  # Pillow turns TIFF by itself
            return (width, height) if is_turned else (height, width)
    except PILLOW_ERRORS as error:
        if path.suffix.lower() in SUFFIXES and is_readable():
            return tiff_shape(path)[:2]
        raise DataError(f"{path} cannot be read: {error}") from error


def open_array(path: Path) -> np.ndarray:
    """The numbers (H,W,channels) of a .npy file, not yet read into memory. Raises DataError for any other array."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but missing") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array of numbers: {error}") from error
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.dtype.kind not in "uif" or 0 in values.shape:
        raise DataError(
            f"{path} holds an array of shape {values.shape} and type {values.dtype}\n"
            "  expected: numbers of shape (height, width, channels) or (height, width)"
        )
    return values


def to_eight_bits(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """The picture with 8 bits per channel: 16-bit values are divided by 257 (see `require_bright`).

    Raises UnknownRange for floating-point values, and for values beyond 16 bits. name: for the error.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture  # of 16-bit colours, Pillow has kept the upper 8 bits
    extrema: Any = picture.getextrema()
    lowest, highest = extrema
    if picture.mode == "F" or lowest < 0 or highest > 65535:
        raise UnknownRange.of(name, np.asarray(picture))
    values = np.empty(picture.size[::-1], np.uint8)
    for top in range(0, picture.height, 256):  # in bands: as float64, a picture takes eight times the memory
        band = np.asarray(picture.crop((0, top, picture.width, min(top + 256, picture.height))), np.float64)
        values[top : top + 256] = (band / 257).round()
    return Image.fromarray(values)


def require_bright(photos: Iterable[Path | Image.Image]) -> None:
    """Raise UnknownRange if some photos have 16 bits, but none of them has a value above 4095.

    All of them are read alike: divided by 257, unless data.value_range says otherwise.
    """
    dark: list[tuple[int, int, bool]] = []
    for photo in photos:
        try:
            picture = photo if isinstance(photo, Image.Image) else open_deep(photo)
        except DataError:
            continue  # reported when it is read
        if picture is None or not (picture.info.get("16-bit") or picture.mode.startswith("I")):
            continue
        low, high, is_color = range_of_16_bits(picture)
        if high > MAX_12_BIT:
            return
        dark.append((low, high, is_color))
    if not dark:
        return
    low, high = min(d[0] for d in dark), max(d[1] for d in dark)
    bits = max(1, high.bit_length())
    setting = f"data.value_range=[{low},{high}], or all {bits} bits: " * (low < high)
    setting += f"data.value_range=[0,{2**bits - 1}]; or save them with 8 bits"
    if any(is_color for *_, is_color in dark):
        setting += " (a range for colours of 16 bits needs TIFF)"
    raise UnknownRange(
        f"{counted(len(dark), 'image')} with 16 bits per channel: {bits}-bit values {low}…{high}: "
        f"divided by 257, as photos of 16 bits are, they would be almost black\n  → {setting}",
        low, high, "uint16",
    )  # fmt: skip


def open_deep(path: Path) -> Image.Image | None:
    """The decoded picture if it has more than 8 bits, by the header; else None. Raises DataError as `open_picture`."""
    if path.suffix.lower() in EIGHT_BIT_FILES:
        return None
    try:
        with Image.open(path) as picture:
            deep = picture.mode.startswith("I") or _has_16_bits(picture)
    except PILLOW_ERRORS:
        return None  # reported when it is read
    return open_picture(path) if deep else None


def _has_16_bits(picture: Image.Image) -> bool:
    """Whether a picture that is not yet decoded has 16 bits per channel."""
    layout = str(getattr(picture, "tile", ""))
    return any(f";16{order}" in layout for order in "BLN") or picture.mode.startswith("I;16")


def range_of_16_bits(picture: Image.Image) -> tuple[int, int, bool]:
    """(lowest, highest value, whether it has colours), without transparency. Of colours, the upper 8 bits are known."""
    extrema: Any = picture.getextrema()
    if picture.mode.startswith("I"):
        return *extrema, False
    known = [found for band, found in zip(picture.getbands(), extrema, strict=True) if band != "A"]
    return min(low for low, _ in known) << 8, max(high for _, high in known) << 8 | 255, True


def to_rgb(picture: Image.Image) -> np.ndarray:
    """RGB uint8 (H,W,3) of an 8-bit picture. Not for 16 bits: Pillow would clip values at 255 (see `to_eight_bits`)."""
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def read_mask(
    path: Path, num_classes: int, mapping: Mapping[int, int] | None = None, orientation: int = 1
) -> np.ndarray:
    """Labels uint8 (H,W) in 0…num_classes−1 or 255, after `mapping` {value in the file: label}.

    orientation: EXIF orientation of the image, applied to the mask too, because masks are drawn on the stored pixels.
    A .mat file is read as a mask of SBD. Raises DataError for a colour picture and for labels outside the classes.
    """
    picture = _open_sbd(path) if path.suffix == ".mat" else open_picture(path)
    if picture.mode not in ("P", "L", "1", "I") and not picture.mode.startswith("I;16"):
        raise DataError(
            f"{path} is a colour picture ({picture.mode}), not a mask of class numbers\n"
            "  expected: an indexed (palette) or greyscale PNG whose values are classes, 255 for ignored pixels\n"
            "  → save the class number of each pixel, not its colour"
        )
    meaning = {int(source): int(target) for source, target in (mapping or {}).items()}
    if picture.mode in ("P", "L"):  # Pillow counts and maps bytes much faster than NumPy
        present = [value for value, count in enumerate(picture.histogram()) if count]
        if meaning:
            picture = picture.point([meaning.get(v, v) & 255 for v in range(256)])
        labels = np.asarray(picture)
    else:
        values, positions = np.unique(np.asarray(picture), return_inverse=True)
        present = [int(value) for value in values]
        labels = np.array([meaning.get(v, v) & 255 for v in present], np.uint8)[positions].reshape(picture.size[::-1])
    after = {meaning.get(v, v) for v in present}
    if wrong := sorted(after - {*range(num_classes), IGNORE}):
        mapped = " after data.labels" if mapping else ""
        raise DataError(
            f"{path} holds the labels {first_few(wrong, 8)}{mapped}, "
            f"the data has classes 0…{num_classes - 1} and 255 for ignored pixels\n"
            "  → if these values have a meaning, map them: data.labels={" + f"{wrong[0]}:CLASS" + "}"
        )
    return apply_orientation(labels, orientation)


def read_pair(
    sample: Sample,
    num_classes: int,
    mapping: Mapping[int, int] | None = None,
    read: Callable[[Path], tuple[np.ndarray, str, int]] = read_image,
) -> tuple[np.ndarray, np.ndarray, str]:
    """(image (H,W,channels), mask (H,W), a note on conversions), by `read` and `read_mask`; their sizes are equal."""
    image, note, orientation = read(sample.file("image"))
    mask = read_mask(sample.file("mask"), num_classes, mapping, orientation)
    require_same_size(sample, image, mask, orientation)
    return image, mask, note


def require_same_size(sample: Sample, image: np.ndarray, mask: np.ndarray, orientation: int) -> None:
    """Raise DataError if an image and its mask, both upright, differ in height or width."""
    if image.shape[:2] != mask.shape:
        rotated = " (after its EXIF rotation)" if orientation != 1 else ""
        reason = "\n  → draw the mask on the stored pixels: it is rotated like the image" if rotated else ""
        raise DataError(
            f"{sample.name}: the image is {image.shape[1]}×{image.shape[0]}{rotated}, "
            f"the mask {mask.shape[1]}×{mask.shape[0]}\n  image: {sample.image}\n  mask:  {sample.mask}" + reason
        )


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 (H,W,C) at `size` = (H, W), by bilinear interpolation with antialiasing."""
    if image.shape[:2] == size:
        return image
    # with four channels, Pillow would take the last one for transparency
    parts = [image] if image.shape[2] == 3 else [image[..., c] for c in range(image.shape[2])]
    parts = [np.array(Image.fromarray(part).resize(size[::-1], Image.Resampling.BILINEAR)) for part in parts]
    return parts[0] if image.shape[2] == 3 else np.stack(parts, 2)


def apply_orientation(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H,W), turned as a viewer turns a picture with this EXIF orientation (1…8)."""
    values = values.swapaxes(0, 1) if orientation > 4 else values
    down, right = (-1 if orientation in flipped else 1 for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return values[::down, ::right]


def exif_orientation(exif: Image.Exif) -> int:
    """The orientation (1…8) in a picture's EXIF tags."""
    orientation = exif.get(EXIF_ORIENTATION, 1)
    return int(orientation) if orientation in range(2, 9) else 1  # some cameras write 0, which is not defined


def open_picture(path: Path) -> Image.Image:
    """The decoded picture. Raises DataError for a file that cannot be read, and for several pages or frames.

    info["16-bit"]: whether the file has 16 bits per channel, which the mode RGB hides. info["pictures"]: their number,
    above 1 for photos with a preview or another exposure behind the first.
    """
    try:
        with open(path, "rb") as file:
            picture = Image.open(file)
            if picture.format == "EPS":  # Pillow would run it with Ghostscript
                raise DataError(f"{path} is PostScript, a program and not a picture\n  → save it as PNG or JPEG")
            number, deep = _pictures(picture), _has_16_bits(picture)
            if number > 1 and picture.format != "MPO":
                raise DataError(several_pictures(path, number))
            picture.load()
            picture.getexif()  # while the file is open
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but missing") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} cannot be read: {error}\n  → cut image and mask into parts") from error
    except PILLOW_ERRORS as error:
        raise DataError(f"{path} cannot be read: {_why_unread(path, error)}") from error
    picture.info["16-bit"] = deep or picture.mode.startswith("I;16")
    picture.info["pictures"] = number
    return picture


def _pictures(picture: Image.Image) -> int:
    """The number of pages or frames. Smaller copies and masks, which a TIFF marks as such, do not count."""
    frames = getattr(picture, "n_frames", 1)
    if frames == 1 or picture.format != "TIFF":
        return frames
    kinds = []
    for frame in range(frames):
        picture.seek(frame)
        kinds.append(picture.tag_v2.get(254, 0))  # type: ignore[attr-defined]  # NewSubfileType: 1 smaller, 4 mask
    picture.seek(0)
    return max(1, sum(kind & 5 == 0 for kind in kinds))


def _why_unread(path: Path, error: Exception) -> str:
    """Why Pillow could not read a file, on one line."""
    if not isinstance(error, UnidentifiedImageError):
        return str(error)
    if path.suffix.lower() not in SUFFIXES:
        return _lost_link(path) or "it is no picture of a known format"
    if not is_readable():
        return f"as TIFF of an unusual kind it needs data.channels (its number of channels) and {INSTALL}"
    _, _, channels, kind = tiff_shape(path)
    return f"it has {channels} channels of {kind}: set data.channels={channels} (or a list of them)"


def _lost_link(path: Path) -> str:
    """Message for a symbolic link that became a text file when it was copied, else ""."""
    if path.stat().st_size < 300 and (text := path.read_bytes().decode(errors="replace")).startswith("../"):
        return f"it is a text file with {text!r}: a symbolic link that copying has lost; copy the data with its links"
    return ""


def _open_sbd(path: Path) -> Image.Image:
    """The mask in a .mat file of SBD: GTcls.Segmentation."""
    try:
        labels = loadmat(path, struct_as_record=False, squeeze_me=True)["GTcls"].Segmentation
        return Image.fromarray(np.asarray(labels, np.uint8))
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but missing") from error
    except Exception as error:  # scipy's parser raises many types
        raise DataError(f"{path} cannot be read as a mask of SBD (GTcls.Segmentation): {error}") from error

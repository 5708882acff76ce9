"""Which channels of an image file the network sees, and how their values become 8 bits."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segstudy.data.images import (
    UnknownRange,
    apply_orientation,
    exif_orientation,
    finite_range,
    open_array,
    open_deep,
    open_picture,
    range_of_16_bits,
    read_image,
    require_bright,
    to_eight_bits,
)
from segstudy.data.tiff import SUFFIXES, read_tiff
from segstudy.errors import DataError
from segstudy.formatting import counted
from segstudy.ranges import Channels, Range, checked

SHARES = ((0.1, "over 10 %"), (0.01, "1 to 10 %"), (0.001, "0.1 to 1 %"), (0.0, "less than 0.1 %"))
"""How a note tells which share of an image's values is outside data.value_range: above each limit."""


def propose_range(errors: Sequence[UnknownRange]) -> str:
    """One line about all values that were found, and one with the setting."""
    low, high = min(e.lowest for e in errors), max(e.highest for e in errors)
    kinds = ", ".join(sorted({e.kind for e in errors}))
    return (
        f"a sample of {len(errors)} images holds {kinds} values from {low:g} to {high:g}\n"
        f"→ data.value_range=[{low:g},{high:g}], or the part of it that matters (values outside are clipped)"
    )


@checked
@dataclass(frozen=True)
class Bands:
    """The settings data.channels and data.value_range.

    channels: None (RGB), the number of channels that every file has, or a list of a file's channels, from 0, in this
    order. value_range (low, high): mapped linearly to 0…255; values outside are clipped. None: the files hold 8 bits,
    or are photos (see `to_eight_bits`). Raises ConfigError for anything else.
    """

    channels: Channels | None = None
    value_range: Range | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Bands":
        """From the settings of a data set (`cfg.data`); those of older versions lack the keys."""
        channels, value_range = settings.get("channels"), settings.get("value_range")
        return cls(
            channels if isinstance(channels, int) or channels is None else tuple(channels),
            None if value_range is None else tuple(value_range),
        )

    @property
    def number(self) -> int:
        """The number of channels that the network sees."""
        return self.channels or 3 if not isinstance(self.channels, Sequence) else len(self.channels)

    @property
    def are_photos(self) -> bool:
        """Whether files are read as RGB photos: neither setting is used."""
        return self.channels is None and self.value_range is None

    @property
    def shown(self) -> Any:
        return list(self.channels) if isinstance(self.channels, tuple) else self.channels

    def recipe(self) -> list[Any]:
        """What cached images depend on, as JSON values."""
        return [self.shown, None if self.value_range is None else list(self.value_range)]

    def values(self) -> dict[str, Any]:
        """For a run's record, as JSON values."""
        channels, value_range = self.recipe()
        bands = channels if isinstance(channels, list) else None
        return {"channels": self.number, "bands": bands, "value_range": value_range}

    def __str__(self) -> str:
        names = "RGB" if self.channels is None else f"{self.number} channels"
        names += f" ({', '.join(map(str, self.channels))} of the file)" if isinstance(self.channels, tuple) else ""
        return names + ("" if self.value_range is None else ", values from {:g} to {:g}".format(*self.value_range))

    def read(self, path: Path) -> tuple[np.ndarray, str, int]:
        """(uint8 (H,W,number), turned upright by its EXIF orientation; a note on conversions; the EXIF orientation).

        Raises DataError for a file that has other channels, and UnknownRange.
        """
        if self.are_photos and path.suffix.lower() != ".npy":
            return read_image(path)
        values, orientation = self._stored(path)
        image, note = self.convert(values, str(path))
        return apply_orientation(image, orientation), note, orientation

    def check(self, photos: Iterable[Path | Image.Image]) -> None:
        """Raise UnknownRange if 16-bit pictures among these photos would be almost black, unless a range is set."""
        if self.value_range is None:
            require_bright(photos)

    def stored_range(self, path: Path) -> tuple[float, float, str] | None:
        """(lowest, highest value in use, type) of a file; None if it holds 8 bits. Raises DataError as `read`."""
        if self.are_photos and path.suffix.lower() != ".npy":
            picture = open_deep(path)
            return None if picture is None else (*range_of_16_bits(picture)[:2], "uint16")
        values = self._selected(self._stored(path)[0], str(path))
        return None if values.dtype == np.uint8 else (*finite_range(values), str(values.dtype))

    def reading(self, notes: Iterable[str], stored: Sequence[tuple[float, float, str]]) -> str:
        """How images are read: channels, conversions, and the range of values of those that do not hold 8 bits.

        notes: of `read`, for each image; stored: of `stored_range`, for those that have one.
        """
        converted = Counter(filter(None, notes))
        parts = [f"images are read as {self}", *(f"{counted(n, 'image')}: {note}" for note, n in converted.items())]
        if stored:
            low, high, kinds = min(s[0] for s in stored), max(s[1] for s in stored), sorted({s[2] for s in stored})
            bits = f"{int(high).bit_length()}-bit values" if all("int" in kind for kind in kinds) else "values"
            parts.append(f"they hold {bits} {low:g}…{high:g} in {', '.join(kinds)}")
        return "; ".join(parts)

    def _stored(self, path: Path) -> tuple[np.ndarray, int]:
        """(the values (H,W,C) of a file, EXIF orientation). Without value_range, pictures have 8 bits per channel."""
        if path.suffix.lower() == ".npy":
            return open_array(path), 1
        if path.suffix.lower() in SUFFIXES:
            return apply_orientation(*read_tiff(path)), 1  # upright with its mask, as Pillow reads TIFF
        picture = open_picture(path)
        return picture_values(picture, self.value_range is not None, str(path)), exif_orientation(picture.getexif())

    def convert(self, values: np.ndarray, name: str) -> tuple[np.ndarray, str]:
        """(uint8 (H,W,number), a note) of all the values (H,W,C) of a file. name: for errors."""
        values = self._selected(values, name)
        if self.value_range is None:
            if values.dtype != np.uint8:
                raise UnknownRange.of(name, values)
            return np.ascontiguousarray(values), ""
        image, outside = np.empty(values.shape, np.uint8), 0
        low, high = self.value_range
        for c in range(values.shape[2]):  # one by one: as float64, they take eight times the memory
            band = values[..., c]
            outside += band.size - int(((band >= low) & (band <= high)).sum())  # NaN is outside
            scaled = (np.clip(band, low, high, dtype=np.float64) - low) * 255 / (high - low)
            image[..., c] = np.nan_to_num(scaled).round()
        share = outside / values.size
        beyond = next((f" with {words} outside data.value_range" for limit, words in SHARES if share > limit), "")
        return image, f"{values.dtype}{beyond}"

    def _selected(self, values: np.ndarray, name: str) -> np.ndarray:
        """The wanted ones of a file's channels (H,W,C); grey is repeated for RGB."""
        found = values.shape[2]
        if isinstance(self.channels, tuple):
            if max(self.channels) < found:
                return values[..., list(self.channels)]
            raise DataError(f"{name} has the channels 0…{found - 1}, and data.channels={self.shown} asks for others")
        if found == self.number:
            return values
        if self.channels is None and found == 1:
            return np.repeat(values, 3, 2)
        advice = f"data.channels={found}"
        if found > self.number:
            advice += f", or those to use: data.channels=[{','.join(map(str, range(self.number)))}]"
        height, width = values.shape[:2]
        wanted = f"data.channels={self.channels}" if self.channels else "RGB"
        raise DataError(f"{name} ({height}×{width}) has {found} channels, not {self.number} ({wanted})\n  → {advice}")


def picture_values(picture: Image.Image, raw: bool, name: str = "the picture") -> np.ndarray:
    """The values (H,W,C) of a picture that Pillow has opened; palettes and inks become RGB.

    raw: as stored; False: as 8 bits. Raises DataError for 16-bit colours if raw, since Pillow keeps only 8 bits.
    """
    if raw and picture.info.get("16-bit") and len(picture.getbands()) > 1:
        raise DataError(f"{name} has 16 bits per channel, of which only 8 can be read\n  → save it as TIFF or .npy")
    if not raw:
        picture = to_eight_bits(picture, name)
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "LA", "RGB", "RGBA", "F") and not picture.mode.startswith("I"):
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    values = np.asarray(picture)
    return values[..., None] if values.ndim == 2 else values

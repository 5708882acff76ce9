"""Which photos are meant by files, folders and patterns, and where what is predicted of each goes."""

import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from segstudy.errors import ConfigError, DataError, did_you_mean
from segstudy.files import open_to_read

MAX_PIXELS = 178_956_970
"""What Pillow refuses to decode if it is told nothing."""
RECORD = "predictions.json"
"""In a folder of predictions: what made them."""
OURS = "segstudy"
"""The mark in a PNG's text "Software" and in a JPEG's comment by which predictions are known."""
NO_PHOTOS = {".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".fit", ".fits", ".wmf", ".emf"}
"""Names that Pillow claims but only a program or plugin of somebody else can draw."""

Image.preinit()  # the usual formats are tried first, whatever is loaded later


@dataclass(frozen=True)
class Photo:
    """A file, and the place (without suffix) of what is predicted of it below the output folder."""

    file: Path
    place: Path

    @property
    def mask(self) -> Path:
        return self.place.with_name(self.place.name + ".png")

    @property
    def overlay(self) -> Path:
        return Path("overlays", self.place.with_name(self.place.name + ".jpg"))


def find_photos(words: Sequence[str]) -> tuple[list[Photo], int]:
    """The photos that files, folders and patterns name, each once and in order; and how many were predictions of ours.

    Folders are walked; hidden files and what has no picture's name are passed over there. Places follow the tree below
    the deepest folder that holds all that was named; photos of one stem keep their suffix.
    Raises ConfigError for what is not there, and where there is no photo.
    """
    named = [given for word in words for given in _named(word)]
    files: dict[str, Path] = {}
    ours = 0
    for given, sure in named:
        for file, suspect in _walk(given) if given.is_dir() else [(given, True)]:
            if not sure and not given.is_dir() and not looks_like_photo(file):
                continue
            if suspect and is_ours(file):
                ours += 1
            else:
                files.setdefault(os.path.abspath(file), file)
    if not files:
        skipped = f" ({ours} are predictions of segstudy, which are no photos)" if ours else ""
        raise ConfigError(
            f"no photo in {' '.join(words)}{skipped}\n  → files, folders, or patterns like 'photos/*.jpg'"
        )
    base = os.path.commonpath([os.path.abspath(g if g.is_dir() else g.parent) for g, _ in named])
    places = {file: Path(os.path.relpath(file, base)) for file in files}
    stems = Counter(str(place.with_suffix("")).casefold() for place in places.values())
    photos = [
        Photo(files[file], place.with_suffix("") if stems[str(place.with_suffix("")).casefold()] == 1 else place)
        for file, place in places.items()
    ]
    return sorted(photos, key=lambda photo: natural(photo.place)), ours


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Orders names as people do: photo2 before photo10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def _named(word: str) -> list[tuple[Path, bool]]:
    """The files and folders of a word, and whether each was named itself, not by a pattern."""
    path = Path(word).expanduser()
    if path.exists():
        return [(path, True)]
    found = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(word) else []
    if not found:
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "no file matches this pattern" if glob.has_magic(word) else "no such file or folder"
        raise ConfigError(f"{word}: {what}{did_you_mean(path.name, there)}")
    return [(Path(name), False) for name in found]


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """The photos in a folder and below it, and whether each may be a prediction: below a folder of predictions."""
    home = folder.absolute()
    ours = {str(folder)} if any((p / RECORD).is_file() for p in (home, *home.parents)) else set()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RECORD in names or os.path.dirname(place) in ours:
            ours.add(place)
        for name in sorted(names):
            file = Path(place, name)
            if not name.startswith(".") and looks_like_photo(file):
                yield file, place in ours


def looks_like_photo(file: Path) -> bool:
    """Whether the suffix is one of a format that Pillow reads."""
    suffix = file.suffix.lower()
    return Image.registered_extensions().get(suffix) in Image.OPEN and suffix not in NO_PHOTOS


def is_ours(file: Path) -> bool:
    """Whether a file is a mask or an overlay that segstudy wrote."""
    try:
        with open_to_read(file) as opened, Image.open(opened) as picture:
            said = picture.info.get("Software") if picture.format == "PNG" else picture.info.get("comment", b"")
    except Exception:  # whatever it is, it is none of ours
        return False
    return said in (OURS, OURS.encode())


def header(file: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height, before anything is decoded. Raises DataError for more pixels than `max_pixels`."""
    try:
        with Image.open(file) as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise too_large(file, int(re.findall(r"\d+", str(error))[0]), max_pixels) from error
    if width * height > max_pixels:
        raise too_large(file, width * height, max_pixels)
    return width, height


def too_large(file: Path, pixels: int, max_pixels: int) -> DataError:
    """The error for a picture of so many pixels."""
    return DataError(
        f"{file} has {pixels:,} pixels, more than --max-pixels {max_pixels:,}: not decoded\n"
        f"  → if you trust it: --max-pixels {pixels} (and --tiles 512, for its details)"
    )


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Pillow decodes no picture of more pixels, and says nothing of smaller ones, in all threads of the process."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2  # Pillow warns above this, and refuses above twice this
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before

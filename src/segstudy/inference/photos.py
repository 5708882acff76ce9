"""Find the photos that files, folders and patterns name, and the paths of their predictions."""

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

from segstudy.data.tiff import geo_tags
from segstudy.errors import ConfigError, did_you_mean
from segstudy.inference.pictures import is_ours

MAX_PIXELS = 178_956_970
"""Pillow's own limit: it refuses to decode pictures of more pixels."""
NO_PHOTOS = {".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".fit", ".fits", ".wmf", ".emf"}
"""Suffixes that Pillow registers but decodes only with another program or plugin."""

Image.preinit()  # makes Pillow try the common formats first


@dataclass(frozen=True)
class Photo:
    """A file, and the path of its prediction below the output folder, without a suffix.

    georeferenced: it is a GeoTIFF that can be read; then its mask is one too.
    """

    file: Path
    place: Path
    georeferenced: bool = False

    @property
    def mask(self) -> Path:
        return Path(f"{self.place}.tif" if self.georeferenced else f"{self.place}.png")

    @property
    def overlay(self) -> Path:
        return Path("overlays", f"{self.place}.jpg")


def find_photos(words: Sequence[str]) -> tuple[list[Photo], int]:
    """The photos that files, folders and patterns name, sorted, each once; and the number of segstudy's own masks and
    overlays, which are skipped.

    The predictions' folders are as in the photos' tree below their deepest common folder. Photos that differ only in
    their suffix keep it. Raises ConfigError for a file that does not exist, and if no photo is found.
    """
    named = [path for word in words for path in _matches(word)]
    files = {os.path.abspath(f): f for path in named for f in (_walk(path) if path.is_dir() else [path])}
    photos = {absolute: file for absolute, file in files.items() if not is_ours(file)}
    ours = len(files) - len(photos)
    if not photos:
        skipped = f" (predictions by segstudy: {ours})" if ours else ""
        raise ConfigError(
            f"no photo in {' '.join(words)}{skipped}\n  → files, folders, or patterns like 'photos/*.jpg'"
        )
    base = os.path.commonpath([os.path.abspath(path if path.is_dir() else path.parent) for path in named])
    places = {absolute: Path(os.path.relpath(absolute, base)) for absolute in photos}
    stems = Counter(str(place.with_suffix("")).casefold() for place in places.values())
    unique = {a: p if stems[str(p.with_suffix("")).casefold()] > 1 else p.with_suffix("") for a, p in places.items()}
    found = [Photo(photos[a], place, bool(geo_tags(photos[a]))) for a, place in unique.items()]
    return sorted(found, key=lambda photo: natural(photo.place)), ours


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorting key that puts photo2 before photo10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def _matches(word: str) -> list[Path]:
    """The file or folder of this name, or the folders and photos that match the pattern."""
    path = Path(word).expanduser()
    if path.exists():
        return [path]
    found = [Path(name) for name in glob.glob(str(path), recursive=True)] if glob.has_magic(word) else []
    if not found:
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "no file matches this pattern" if glob.has_magic(word) else "no such file or folder"
        raise ConfigError(f"{word}: {what}{did_you_mean(path.name, there)}")
    return [each for each in found if each.is_dir() or looks_like_photo(each)]


def _walk(folder: Path) -> Iterator[Path]:
    """The photos in a folder and its subfolders, without hidden ones."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, n) for n in sorted(names) if not n.startswith(".") and looks_like_photo(Path(n)))


def looks_like_photo(file: Path) -> bool:
    """Whether files with this suffix can be images."""
    suffix = file.suffix.lower()
    return suffix == ".npy" or (Image.registered_extensions().get(suffix) in Image.OPEN and suffix not in NO_PHOTOS)


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Let Pillow refuse pictures with more pixels, in all threads, and not warn about smaller ones."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]  # Pillow refuses above twice this
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before

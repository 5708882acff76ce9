"""Base class of the published data sets: their folder, their download, and errors for missing files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segstudy.data.datamodule import SegmentationData
from segstudy.data.download import fetch_archive
from segstudy.data.images import Sample
from segstudy.errors import DataError, first_lines, list_found
from segstudy.ranges import Text, checked


@checked
class PublishedData(SegmentationData):
    """Base class of data sets that are below `root` and can be downloaded.

    A subclass sets `places` (possible folders below `root`, the usual one first), `parts` (the files, which have a
    suffix, and folders that the folder must have), `archives` ({URL: checksum}), and `archive_size` for messages.
    """

    places: Sequence[str]
    parts: Sequence[str]
    archives: Mapping[str, str]
    archive_size: str

    def __init__(self, root: Text, download: bool = False, **loading: Any):
        super().__init__(**loading)
        self.root, self.download = Path(root).expanduser(), download

    def prepare_data(self) -> None:
        if self.download:
            for url, checksum in self.archives.items():
                fetch_archive(url, checksum, self.root, lambda: self.find() is not None)

    def find(self) -> Path | None:
        """The folder of the data set: the first of its places with all parts, or None."""
        return find_folder([self.root / place for place in self.places], self.parts)

    def home(self) -> Path:
        """The folder of the data set. Raises DataError if it is not found."""
        if home := self.find():
            return home
        usual = Path(self.places[0])
        raise DataError(
            f"no {usual.name} under data.root={str(self.root)!r}\n"
            f"  expected: {self.root / usual}/{{{','.join(self.parts)}}}\n"
            f"  found:    {list_found(self.root)}\n"
            f"  → set data.root to the folder that holds {usual.parts[0]}, or data.download=true ({self.archive_size})"
        )


def find_folder(places: Sequence[Path], parts: Sequence[str]) -> Path | None:
    """The first of these folders that has all parts (files if they have a suffix, else folders), or None."""

    def has(path: Path) -> bool:
        return path.is_file() if path.suffix else path.is_dir()

    return next((place for place in places if all(has(place / part) for part in parts)), None)


def require_files(samples: Sequence[Sample], wanted: str) -> list[Sample]:
    """Return the samples. Raises DataError that lists missing images and masks. wanted: name of the list, for it."""
    missing = [str(p) for s in samples for p in (s.image, s.mask) if p and not p.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} files of {wanted} are missing:\n{first_lines(missing, 5, '  ')}\n"
            "  → add them to the folder (data.root), or choose a list of existing files (data.train, data.val)"
        )
    return list(samples)


def photos_in(folder: Path) -> list[Path]:
    """The JPEG files in a folder, without the hidden files of macOS."""
    return sorted(p for p in folder.glob("*.jpg") if not p.name.startswith("._"))

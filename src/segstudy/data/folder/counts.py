"""Counts of pixels per key and per class in the masks of the user's folder."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from segstudy.data.cache import map_parallel
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.images import Sample
from segstudy.errors import DamagedFile, DataError, first_line, first_lines
from segstudy.files import read_json, reading, validate, write_json

VERSION = 4  # part of the name of the file of counts. Increase it when the same mask is counted differently


@dataclass(frozen=True)
class MaskCounts:
    """Counts of one mask, by key.

    inner: pixels whose four neighbours have the same key; noise has almost none. mode, colours, lost: as in
    `IndexedMask`.
    """

    pixels: dict[str, int] = field(default_factory=dict)
    inner: dict[str, int] = field(default_factory=dict)
    mode: str = ""
    colours: dict[str, str] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)


Counted = Mapping[str, MaskCounts]
"""The counts of masks, by the names of their images."""


def keys_of(counted: Iterable[MaskCounts]) -> list[str]:
    """The keys that occur."""
    return list(dict.fromkeys(key for counts in counted for key in counts.pixels))


def share_of(key: str, counted: Counted) -> float:
    """The share of a key in the pixels of all masks."""
    pixels = sum(sum(counts.pixels.values()) for counts in counted.values())
    return sum(counts.pixels.get(key, 0) for counts in counted.values()) / max(1, pixels)


def count_labels(samples: Sequence[Sample], mask_format: MaskFormat, folder: Path) -> dict[str, MaskCounts]:
    """Counts of each mask at original size, by name. Cached in `folder`: reading all masks is slow.

    Raises DataError that names the masks that cannot be read.
    """
    digest = hashlib.sha256(f"{VERSION}|{mask_format.kind}|{mask_format.version}".encode())
    for sample in samples:
        status = sample.file("mask").stat()
        digest.update(f"{sample.name}|{sample.mask}|{status.st_size}|{status.st_mtime_ns}".encode())
    home = folder / f"masks-{digest.hexdigest()[:24]}.json"
    names = [sample.name for sample in samples]
    try:
        with reading(home):
            return dict(zip(names, validate(list[MaskCounts], read_json(home)["masks"]), strict=True))
    except FileNotFoundError:
        pass
    except DamagedFile as error:
        print(f"{first_line(error)}: the masks are counted again")
    results = list(map_parallel(lambda sample: read_counted(mask_format, sample)[1], samples, "counting labels"))
    broken = [str(r) for r in results if isinstance(r, DataError)]
    if broken:
        raise DataError(f"{len(broken)} of {len(samples)} masks cannot be used:\n{first_lines(broken, 5)}")
    try:
        write_json(folder, home.name, {"masks": [asdict(counts) for counts in results]})
    except OSError as error:
        raise DataError(f"data.cache_dir={folder} cannot be written: {error}\n  → set it to another folder") from error
    return dict(zip(names, results, strict=True))


def read_counted(mask_format: MaskFormat, sample: Sample) -> tuple[np.ndarray, MaskCounts]:
    """(indices (H,W) of a mask, its counts)."""
    mask, keys, lost, mode, colours = mask_format.read(sample)
    return mask, MaskCounts(_by_key(mask, keys), _by_key(mask[inside(mask)], keys), mode, colours, lost)


def _by_key(indices: np.ndarray, keys: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(indices.ravel(), minlength=len(keys))
    return {key: int(n) for key, n in zip(keys, counts, strict=True) if n}


def inside(mask: np.ndarray) -> np.ndarray:
    """Whether the four neighbours of each pixel of a mask (H,W) have its value; those beyond the border have."""
    same = np.ones(mask.shape, bool)
    rows, columns = mask[1:] == mask[:-1], mask[:, 1:] == mask[:, :-1]
    same[1:] &= rows
    same[:-1] &= rows
    same[:, 1:] &= columns
    same[:, :-1] &= columns
    return same

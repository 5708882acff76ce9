"""The cache: a split at one size, decoded once into memory-mapped uint8 arrays; a batch is a slice of them."""

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from segstudy.data.images import Sample
from segstudy.errors import DataError, first_lines
from segstudy.labels import IGNORE

VERSION = 2
"""Part of the cache's key. Increase it when the same files give other arrays, or an error."""

Read = Callable[[Sample], tuple[np.ndarray, np.ndarray, str]]


def read_checked(read: Read, sample: Sample, num_classes: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Call `read` and check its result: arrays of other types would be stored as wrong bytes.

    Raises DataError that names the sample if the result does not follow `SegmentationData.read`.
    """
    result = read(sample)
    if not (isinstance(result, tuple) and len(result) == 3 and all(isinstance(a, np.ndarray) for a in result[:2])):
        raise DataError(f"{sample.name}: read() returned {type(result).__name__}, not (image, mask, note)")
    image, mask, note = result
    message = (
        f"{sample.name}: read() returned an image {image.dtype} {image.shape} and a mask {mask.dtype} {mask.shape}\n"
    )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(message + "  → the image must be uint8 (H,W,3): RGB in 0…255")
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise DataError(message + "  → the mask must be uint8 (H,W): class numbers, 255 for ignored pixels")
    if image.shape[:2] != mask.shape or mask.size == 0:
        raise DataError(message + "  → image and mask must have the same height and width, and not be empty")
    if (wrong := (mask >= num_classes) & (mask != IGNORE)).any():
        labels = ", ".join(map(str, np.unique(mask[wrong])[:8]))
        raise DataError(
            f"{sample.name}: read() returned the labels {labels}; the data has classes 0…{num_classes - 1}, "
            "and 255 for ignored pixels"
        )
    return image, mask, str(note)


@dataclass(frozen=True)
class Cache:
    """images uint8 (N,H,W,3) and masks uint8 (N,H,W), memory-mapped; pixels int64 (N,C): per image and class.

    notes: lines about the files for the user, such as conversions and doubtful masks.
    """

    images: np.ndarray
    masks: np.ndarray
    pixels: np.ndarray
    key: str
    notes: list[str]


def open_cache(
    samples: Sequence[Sample],
    read: Read,
    size: tuple[int, int],
    num_classes: int,
    folder: Path,
    recipe: Any,
    ignore_is_explicit: bool = False,
) -> Cache:
    """Open the cache of these samples; if missing, build it first, with a progress bar.

    recipe: everything else that the arrays depend on (label mapping, seed), as JSON values. ignore_is_explicit: the
    user has stated that 255 is ignored, so masks with much of it are accepted. Raises DataError that lists unreadable
    files, or if the disk has too little space.
    """
    key = _key(samples, size, num_classes, recipe)
    home = folder / key
    if not home.is_dir():
        _build(samples, read, size, num_classes, home, ignore_is_explicit)
    try:
        notes = json.loads((home / "index.json").read_text())["stated"]
        images, masks = (np.load(home / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
        return Cache(images, masks, np.load(home / "pixels.npy"), key, notes)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the cache {home} cannot be opened: {error}\n  → delete that folder; it will be built again"
        ) from error


def _key(samples: Sequence[Sample], size: tuple[int, int], num_classes: int, recipe: Any) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, size, num_classes, recipe]).encode())
    for sample in samples:
        digest.update(sample.name.encode())
        for path in (sample.image, sample.mask):
            if path is not None:
                try:
                    status = path.stat()
                except OSError as error:
                    raise DataError(f"{path} is listed but missing") from error
                digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _build(
    samples: Sequence[Sample], read: Read, size: tuple[int, int], num_classes: int, home: Path, ignore_is_explicit: bool
) -> None:
    folder = home.parent
    # A unique name: processes of several machines may build in the same folder.
    work = folder / f"{home.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(home)
        _check_space(folder, len(samples) * size[0] * size[1] * 4)
        work.mkdir()
        notes, pixels = _write(samples, read, size, num_classes, work)
        if not ignore_is_explicit:
            notes += _check_ignored(samples, pixels, size[0] * size[1])
        np.save(work / "pixels.npy", pixels)
        (work / "index.json").write_text(json.dumps({"stated": notes, "names": [s.name for s in samples]}))
        try:
            work.rename(home)
        except OSError:
            if not home.is_dir():  # else another process has built it
                raise
    except OSError as error:
        raise DataError(
            f"the cache could not be written in data.cache_dir={folder}: {error}\n"
            "  → free some space, or set data.cache_dir to another folder; the incomplete cache was removed"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the cache needs {needed / 2**20:,.0f} MiB in data.cache_dir={folder}, {free / 2**20:,.0f} MiB are free\n"
            "  → free some space, set data.cache_dir to another disk, or choose a smaller data.size"
        )


def _remove_abandoned(home: Path) -> None:
    """Remove the folders of killed builds of this cache: those in which nothing was written for an hour."""
    for work in home.parent.glob(f"{home.name}.*.partial"):
        try:
            newest = max(p.stat().st_mtime for p in (work, *work.glob("*")))
        except FileNotFoundError:  # just renamed by the process that built it
            continue
        if time.time() - newest > 3600:
            shutil.rmtree(work, ignore_errors=True)


def _write(
    samples: Sequence[Sample], read: Read, size: tuple[int, int], num_classes: int, work: Path
) -> tuple[list[str], np.ndarray]:
    """Write images.npy and masks.npy into `work`. Returns the notes, and the pixels of each class in each image."""
    height, width = size

    def prepare(sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        image, mask, note = read_checked(read, sample, num_classes)
        return *resize_pair(image, mask, size), note

    conversions: Counter[str] = Counter()
    broken, pixels = [], np.zeros((len(samples), num_classes), np.int64)
    # Not written through a memory map: on a full disk that would kill the process instead of raising an error.
    with open(work / "images.npy", "wb") as images, open(work / "masks.npy", "wb") as masks:
        _header(images, (len(samples), height, width, 3))
        _header(masks, (len(samples), height, width))
        for i, result in enumerate(map_parallel(prepare, samples, "reading images")):
            if isinstance(result, DataError):
                broken.append(str(result))
                continue
            image, mask, note = result
            images.write(image.tobytes())
            masks.write(mask.tobytes())
            conversions[note] += 1
            pixels[i] = np.bincount(mask.ravel(), minlength=256)[:num_classes]
    if broken:
        raise DataError(
            f"{len(broken)} of {len(samples)} images cannot be used:\n{first_lines(broken, 10)}\n"
            "→ repair these files, or remove them from the list"
        )
    converted = ", ".join(f"{n} {note}" for note, n in conversions.items() if note)
    return [f"converted to upright 8-bit RGB: {converted}"] if converted else [], pixels


def _check_ignored(samples: Sequence[Sample], pixels: np.ndarray, total: int) -> list[str]:
    """A note about doubtful masks, in which 255 might be a class; raises DataError if most masks are doubtful.

    Doubtful: only 0 and 255, or more than a third 255 (as a few masks of VOC). pixels: per mask and class; the rest of
    the `total` pixels of a mask is 255.
    """
    ignored = total - pixels.sum(1)
    is_binary = (pixels[:, 0] > 0) & (ignored > 0) & (pixels[:, 0] + ignored == total)
    doubtful = [samples[i].name for i in np.flatnonzero(is_binary | (ignored * 3 > total)).tolist()]
    if not doubtful:
        return []
    line = (
        f"{len(doubtful)} of {len(samples)} masks hold only 0 and 255 or are more than a third 255 "
        f"({', '.join(doubtful[:3])})"
    )
    if len(doubtful) * 2 > len(samples):
        raise DataError(
            f"{line}: is 255 the object? It would be ignored.\n"
            "  → if 255 is a class, map it: data.labels={255:1}; if it is to be ignored: data.labels={255:255}"
        )
    return [line + ": pixels of 255 are ignored"]


def resize_pair(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize to `size` = (H, W): the image by bilinear interpolation with antialiasing, the mask by nearest."""
    if mask.shape != size:
        image = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        mask = np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    return image, mask


def _header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def map_parallel(work: Callable[[Sample], Any], samples: Sequence[Sample], words: str) -> Iterator[Any]:
    """Yield the results in order, from one thread per core; a DataError is yielded, not raised.

    words: the label of the progress bar.
    """

    def attempt(sample: Sample) -> Any:
        try:
            return work(sample)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # In chunks: so fast reading does not fill the memory, and an error in writing ends it soon.
        chunks = (samples[start : start + 256] for start in range(0, len(samples), 256))
        done = chain.from_iterable(pool.map(attempt, chunk) for chunk in chunks)
        yield from track(done, words, len(samples), transient=True, disable=not sys.stdout.isatty())

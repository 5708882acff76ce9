"""Decode once: a split at one size as uint8 arrays on disk, memory-mapped, so that a batch is one slice."""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from segstudy.data.reading import Sample
from segstudy.errors import DataError
from segstudy.losses import IGNORE

VERSION = 1
"""Raise it when the same files would give other arrays."""

Read = Callable[[Sample], tuple[np.ndarray, np.ndarray, str]]


@dataclass(frozen=True)
class Cache:
    """images uint8 (N,H,W,3) and masks uint8 (N,H,W), memory-mapped; pixels int64 (N,C) counts each image's labels.

    `stated` are lines about the files that a user should see once (conversions, doubtful masks).
    """

    images: np.ndarray
    masks: np.ndarray
    pixels: np.ndarray
    key: str
    stated: list[str]


def cached(
    samples: Sequence[Sample], read: Read, size: tuple[int, int], num_classes: int, folder: Path, recipe: Any
) -> Cache:
    """Open the cache of these samples, or build it first (with a progress bar).

    recipe: anything else that shapes the arrays (label mapping, seed), as JSON values.
    Raises DataError that lists every unreadable file, and if the disk is too full.
    """
    key = _key(samples, size, num_classes, recipe)
    home = folder / key
    if not home.is_dir():
        _build(samples, read, size, num_classes, home)
    stated = json.loads((home / "index.json").read_text())["stated"]
    return Cache(
        np.load(home / "images.npy", mmap_mode="r"),
        np.load(home / "masks.npy", mmap_mode="r"),
        np.load(home / "pixels.npy"),
        key,
        stated,
    )


def _key(samples: Sequence[Sample], size: tuple[int, int], num_classes: int, recipe: Any) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, size, num_classes, recipe]).encode())
    for sample in samples:
        digest.update(sample.name.encode())
        for path in (sample.image, sample.mask):
            if path is not None:
                try:
                    status = path.stat()
                except OSError as error:
                    raise DataError(f"{path} is listed but not there") from error
                digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _build(samples: Sequence[Sample], read: Read, size: tuple[int, int], num_classes: int, home: Path) -> None:
    height, width = size
    needed = len(samples) * height * width * 4
    home.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home.parent).free
    if needed > free:
        raise DataError(
            f"the cache needs {needed / 2**30:.1f} GiB in {home.parent}, {free / 2**30:.1f} GiB are free\n"
            "  → free some, set data.cache_dir to another disk, or choose a smaller data.size"
        )
    work = home.with_name(f"{home.name}.{os.getpid()}.partial")
    work.mkdir(exist_ok=True)
    try:
        stated, pixels = _write(samples, read, size, num_classes, work)
        np.save(work / "pixels.npy", pixels)
        (work / "index.json").write_text(json.dumps({"stated": stated, "names": [s.name for s in samples]}))
        if not home.is_dir():  # another process may have been faster
            work.rename(home)
    except OSError as error:
        raise DataError(f"the cache could not be written in {home.parent}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(
    samples: Sequence[Sample], read: Read, size: tuple[int, int], num_classes: int, work: Path
) -> tuple[list[str], np.ndarray]:
    height, width = size

    def prepare(sample: Sample) -> tuple[np.ndarray, np.ndarray, str] | DataError:
        try:
            return shrink(*read(sample), size)
        except DataError as error:
            return error

    notes: Counter[str] = Counter()
    broken, doubtful, pixels = [], [], np.zeros((len(samples), num_classes), np.int64)
    # Plain writes, not a memory map: a full disk must raise an error here, a map would kill the process.
    with (
        open(work / "images.npy", "wb") as images,
        open(work / "masks.npy", "wb") as masks,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        _header(images, (len(samples), height, width, 3))
        _header(masks, (len(samples), height, width))
        done = pool.map(prepare, samples)
        progress = track(done, "reading images", len(samples), transient=True, disable=not sys.stdout.isatty())
        for i, result in enumerate(progress):
            if isinstance(result, DataError):
                broken.append(str(result))
                continue
            image, mask, note = result
            images.write(image.tobytes())
            masks.write(mask.tobytes())
            notes[note] += 1
            counts = np.bincount(mask.ravel(), minlength=256)
            pixels[i] = counts[:num_classes]
            if counts[IGNORE] * 3 > mask.size or (counts[IGNORE] and counts[0] + counts[IGNORE] == mask.size):
                doubtful.append(samples[i].name)
    if broken:
        more = f"\n… and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise DataError(f"{len(broken)} of {len(samples)} images cannot be used:\n" + "\n".join(broken[:10]) + more)
    converted = ", ".join(f"{n} {note}" for note, n in notes.items() if note)
    stated = [f"converted to upright 8-bit RGB: {converted}"] if converted else []
    return stated + _doubts(doubtful, len(samples)), pixels


def _doubts(doubtful: list[str], total: int) -> list[str]:
    """VOC has a few masks that are a third void; a folder where most are has another meaning for 255."""
    if not doubtful:
        return []
    line = (
        f"{len(doubtful)} of {total} masks hold only 0 and 255, or are more than a third 255 ({', '.join(doubtful[:3])})"
    )
    if len(doubtful) * 2 > total:
        raise DataError(
            f"{line}: is 255 the object? It is taken as 'ignored'.\n"
            "  → if 255 is a class: data.labels={255: 1}    if these pixels are void: leave such masks out of the list"
        )
    return [line + ": taken as ignored pixels"]


def shrink(image: np.ndarray, mask: np.ndarray, note: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, str]:
    """Image bilinear (with antialiasing) and mask nearest, both to `size` = (H, W)."""
    if mask.shape != size:
        image = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        mask = np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    return image, mask, note


def _header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})

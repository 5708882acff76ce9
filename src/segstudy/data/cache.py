"""Decode once: a split at one size as uint8 arrays on disk, memory-mapped, so that a batch is one slice."""

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from segstudy.data.images import Sample
from segstudy.errors import DataError
from segstudy.labels import IGNORE

VERSION = 2
"""Raise it when the same files would give other arrays, or none."""

Read = Callable[[Sample], tuple[np.ndarray, np.ndarray, str]]


def read_checked(read: Read, sample: Sample, num_classes: int) -> tuple[np.ndarray, np.ndarray, str]:
    """What `read` returns of a sample. Raises DataError that names it if that is not what `SegmentationData.read` says:
    other kinds of values would be kept as bytes that mean nothing."""
    found = read(sample)
    if not (isinstance(found, tuple) and len(found) == 3 and all(isinstance(a, np.ndarray) for a in found[:2])):
        raise DataError(f"{sample.name}: read() returned {type(found).__name__}, not two arrays and a note")
    image, mask, note = found
    told = f"{sample.name}: read() returned an image {image.dtype} {image.shape} and a mask {mask.dtype} {mask.shape}\n"
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(told + "  → the image is uint8 (H,W,3): RGB in 0…255")
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise DataError(told + "  → the mask is uint8 (H,W): class numbers, 255 for ignored pixels")
    if image.shape[:2] != mask.shape or mask.size == 0:
        raise DataError(told + "  → image and mask are of one height and width")
    if (wrong := (mask >= num_classes) & (mask != IGNORE)).any():
        labels = ", ".join(map(str, np.unique(mask[wrong])[:8]))
        raise DataError(
            f"{sample.name}: read() returned the labels {labels}; the data has classes 0…{num_classes - 1}, "
            "and 255 for ignored"
        )
    return image, mask, str(note)


@dataclass(frozen=True)
class Cache:
    """images uint8 (N,H,W,3) and masks uint8 (N,H,W), memory-mapped; pixels int64 (N,C) counts each image's labels.

    `stated` are lines about the files that a user should see once (conversions, doubtful masks).
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
    """Open the cache of these samples, or build it first (with a progress bar).

    recipe: anything else that shapes the arrays (label mapping, seed), as JSON values. void_meant: the user has said
    what 255 is; nothing is asked. Raises DataError that lists every unreadable file, and if the disk is too full.
    """
    key = _key(samples, size, num_classes, recipe)
    home = folder / key
    if not home.is_dir():
        _build(samples, read, size, num_classes, home, ignore_is_explicit)
    try:
        stated = json.loads((home / "index.json").read_text())["stated"]
        images, masks = (np.load(home / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
        return Cache(images, masks, np.load(home / "pixels.npy"), key, stated)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the cache {home} cannot be opened: {error}\n  → delete that folder, it is built anew"
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
                    raise DataError(f"{path} is listed but not there") from error
                digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _build(
    samples: Sequence[Sample], read: Read, size: tuple[int, int], num_classes: int, home: Path, ignore_is_explicit: bool
) -> None:
    folder = home.parent
    # A name of its own: processes of several machines or containers may build in the same folder.
    work = folder / f"{home.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(home)
        _check_space(folder, len(samples) * size[0] * size[1] * 4)
        work.mkdir()
        stated, pixels = _write(samples, read, size, num_classes, work, ignore_is_explicit)
        np.save(work / "pixels.npy", pixels)
        (work / "index.json").write_text(json.dumps({"stated": stated, "names": [s.name for s in samples]}))
        try:
            work.rename(home)
        except OSError:
            if not home.is_dir():  # else another process was faster
                raise
    except OSError as error:
        raise DataError(
            f"the cache could not be written in data.cache_dir={folder}: {error}\n"
            "  → make room or set data.cache_dir to another folder; nothing half-written was kept"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the cache needs {needed / 2**20:,.0f} MiB in data.cache_dir={folder}, {free / 2**20:,.0f} MiB are free\n"
            "  → make room, set data.cache_dir to another disk, or choose a smaller data.size"
        )


def _remove_abandoned(home: Path) -> None:
    """Remove what killed builds of this cache left behind: folders in which nothing was written for an hour."""
    for work in home.parent.glob(f"{home.name}.*.partial"):
        try:
            newest = max(p.stat().st_mtime for p in (work, *work.glob("*")))
        except FileNotFoundError:  # its builder has just finished
            continue
        if time.time() - newest > 3600:
            shutil.rmtree(work, ignore_errors=True)


def _write(
    samples: Sequence[Sample], read: Read, size: tuple[int, int], num_classes: int, work: Path, ignore_is_explicit: bool
) -> tuple[list[str], np.ndarray]:
    height, width = size

    def prepare(sample: Sample) -> tuple[np.ndarray, np.ndarray, str] | DataError:
        try:
            return resize_pair(*read_checked(read, sample, num_classes), size)
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
        # In portions: a fast reader does not fill the memory, and an error of the disk is not kept waiting.
        portions = (samples[start : start + 256] for start in range(0, len(samples), 256))
        done = chain.from_iterable(pool.map(prepare, portion) for portion in portions)
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
            only = counts[0] and counts[IGNORE] and counts[0] + counts[IGNORE] == mask.size
            if not ignore_is_explicit and (only or counts[IGNORE] * 3 > mask.size):
                doubtful.append(samples[i].name)
    if broken:
        more = f"\n… and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise DataError(
            f"{len(broken)} of {len(samples)} images cannot be used:\n"
            + "\n".join(broken[:10])
            + f"{more}\n→ repair these files or take them out of the list"
        )
    converted = ", ".join(f"{n} {note}" for note, n in notes.items() if note)
    stated = [f"converted to upright 8-bit RGB: {converted}"] if converted else []
    return stated + _doubts(doubtful, len(samples)), pixels


def _doubts(doubtful: list[str], total: int) -> list[str]:
    """VOC has a few masks that are a third void; a folder where most are has another meaning for 255."""
    if not doubtful:
        return []
    line = (
        f"{len(doubtful)} of {total} masks hold only 0 and 255 or are more than a third 255 ({', '.join(doubtful[:3])})"
    )
    if len(doubtful) * 2 > total:
        raise DataError(
            f"{line}: is 255 the object? It is taken as 'ignored'.\n"
            "  → if 255 is a class, say which: data.labels={255:1}; if it is void, say so: data.labels={255:255}"
        )
    return [line + ": taken as ignored pixels"]


def resize_pair(
    image: np.ndarray, mask: np.ndarray, note: str, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Image bilinear (with antialiasing) and mask nearest, both to `size` = (H, W)."""
    if mask.shape != size:
        image = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        mask = np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    return image, mask, note


def _header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})

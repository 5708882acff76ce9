"""The cache: a split decoded once into memory-mapped uint8 files; batches are slices of them."""

import hashlib
import json
import math
import os
import shutil
import sys
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from rich.progress import track

from segstudy.console import print_line
from segstudy.data.bands import propose_range
from segstudy.data.fit import Fit
from segstudy.data.images import Sample, UnknownRange, resize_image
from segstudy.errors import DamagedFile, DataError, first_line, first_lines
from segstudy.files import folder_lock, read_arrays, reading
from segstudy.labels import IGNORE

VERSION = 4
"""Part of the cache's key. Increase it when the same files give other arrays, or an error."""

SAMPLE = 20
"""Images whose values are looked at if their range is not known."""

BLOCK, VERIFIED = 2**20, 128
"""Bytes of a block that has a checksum, and blocks of a file that are compared with theirs each time a cache is opened:
up to 128 MiB all of them; of a larger file a sample, which takes a tenth of a second and finds any damage of 4 % of the
blocks with a probability of 99.5 %."""

STATED = 2**30
"""A cache with more bytes is announced before it is built."""

Read = Callable[[Sample], tuple[np.ndarray, np.ndarray, str]]


def read_checked(read: Read, sample: Sample, num_classes: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray, str]:
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
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels:
        kind = ": RGB in 0…255" if channels == 3 else ""
        raise DataError(message + f"  → the image must be uint8 (H,W,{channels}){kind} (data.channels)")
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
class CacheSource:
    """What a cache is built from.

    read: see `SegmentationData.read`. recipe: everything else that the arrays depend on (label mapping, seed), as JSON
    values. ignore_is_explicit: the user has stated that 255 is ignored, so masks with much of it are accepted.
    image_shape: (H,W) of a sample's image without decoding it, from which the size of the cache is known before it is
    built. check: is called before it is built.
    """

    samples: Sequence[Sample]
    read: Read
    fit: Fit
    num_classes: int
    recipe: Any
    channels: int = 3
    ignore_is_explicit: bool = False
    image_shape: Callable[[Sample], tuple[int, int]] | None = None
    check: Callable[[], None] = lambda: None

    def read_resized(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        """Image and mask at their shape in the cache, and the note on conversions."""
        image, mask, note = read_checked(self.read, sample, self.num_classes, self.channels)
        return *resize_pair(image, mask, self.fit.shape(*mask.shape)), note


class Cache:
    """The images and masks of a split, uint8, at the shapes that a `Fit` gives them, and figures about them.

    Memory-mapped files in which the images lie one after another; without them (`data.cache=false`), each access reads
    and resizes the files of an image. shapes int64 (N,2); pixels int64 (N,C): per image and class.
    keeps_sizes: every image has its original size.
    is_uniform: all images have the same shape and are stored, so that `images` and `masks` exist.
    notes: lines about the files for the user, such as conversions and doubtful masks.
    """

    def __init__(self, home: Path, source: CacheSource, stored: bool):
        """home: the folder that `open_cache` built. Raises DamagedFile, and FileNotFoundError if a file is missing."""
        file = home / "index.npz"
        with reading(file):
            index = read_arrays(file)
            self.shapes, self.pixels = index["shapes"], index["pixels"]
            self.notes, self.channels = index["notes"].tolist(), int(index["channels"])
            if any(array.dtype.kind != "i" for array in (self.shapes, self.pixels)):
                raise ValueError("the shapes and pixels of its images are not whole numbers")
            if not len(self.shapes) == len(self.pixels) > 0 or self.shapes.shape[1:] != (2,) or self.pixels.ndim != 2:
                raise ValueError("it does not hold the shapes and pixels of the images")
            self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(1))])  # of the masks; images: times channels
            checksums = (index["images"], index["masks"]) if stored else ()
        self.key = home.name
        self.source, self.keeps_sizes = None if stored else source, source.fit.keeps_sizes
        self.is_uniform = stored and bool((self.shapes == self.shapes[0]).all())
        if checksums:
            self.flat_images = _map_file(home / "images.bin", self.starts[-1] * self.channels, checksums[0])
            self.flat_masks = _map_file(home / "masks.bin", self.starts[-1], checksums[1])

    def image(self, i: int) -> np.ndarray:
        """Image i, uint8 (H,W,channels)."""
        if self.source:
            return self.pair(i)[0]
        start, end = self.starts[i] * self.channels, self.starts[i + 1] * self.channels
        return self.flat_images[start:end].reshape(*self.shapes[i], self.channels)

    def mask(self, i: int) -> np.ndarray:
        """Mask i, uint8 (H,W)."""
        if self.source:
            return self.pair(i)[1]
        return self.flat_masks[self.starts[i] : self.starts[i + 1]].reshape(*self.shapes[i])

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask i."""
        if self.source:
            return self.source.read_resized(self.source.samples[i])[:2]
        return self.image(i), self.mask(i)

    @property
    def images(self) -> np.ndarray:
        """All images, (N,H,W,channels), if `is_uniform`."""
        return self.flat_images.reshape(len(self.shapes), *self.shapes[0], self.channels)

    @property
    def masks(self) -> np.ndarray:
        """All masks, (N,H,W), if `is_uniform`."""
        return self.flat_masks.reshape(len(self.shapes), *self.shapes[0])


def _map_file(file: Path, size: int, checksums: np.ndarray) -> np.ndarray:
    """Map a file of the cache; at most VERIFIED of its blocks, chosen at random, are compared with their checksums."""
    with reading(file):
        if (found := file.stat().st_size) != size:
            raise ValueError(f"it has {found:,} bytes, not {size:,}")
        if len(checksums) != -(-size // BLOCK):
            raise ValueError(f"the index has {len(checksums)} checksums for {size:,} bytes")
        array = np.memmap(file, np.uint8, "r")
        blocks = np.random.default_rng().permutation(len(checksums))[:VERIFIED]
        for b in sorted({0, len(checksums) - 1, *blocks.tolist()}):
            if zlib.crc32(array[b * BLOCK : (b + 1) * BLOCK].data) != checksums[b]:
                raise ValueError(f"the checksum of its block {b} is wrong")
        return array


class BlockWriter:
    """Writes a file of the cache. checksums: the CRC-32 of each of its blocks."""

    def __init__(self, file: BinaryIO):
        self.file, self.size = file, 0
        self.checksums: list[int] = []

    def write(self, content: bytes) -> None:
        self.file.write(content)
        while content:
            if self.size % BLOCK == 0:
                self.checksums.append(0)
            part, content = content[: BLOCK - self.size % BLOCK], content[BLOCK - self.size % BLOCK :]
            self.checksums[-1] = zlib.crc32(part, self.checksums[-1])
            self.size += len(part)


def open_cache(source: CacheSource, folder: Path, stored: bool = True) -> Cache:
    """Open the cache in a folder; if missing, build it first, with a progress bar.

    stored: keep the images and masks; False: only shapes and pixel counts, and each access reads the files.
    Raises DataError that lists unreadable files, or if the disk has too little space.
    """
    key = cache_key(source.samples, [source.fit.recipe(), source.num_classes, source.recipe])
    home = folder / (key if stored else f"{key}-index")
    _remove_abandoned(folder)
    if os.path.lexists(home):
        try:
            return Cache(home, source, stored)
        except (DamagedFile, FileNotFoundError, NotADirectoryError) as error:
            older = f"{home} is incomplete, or of an older version"
            print_line(f"{first_line(error) if isinstance(error, DamagedFile) else older}: the cache is built again")
    source.check()
    _build(source, home, stored)
    return Cache(home, source, stored)


def cache_key(samples: Sequence[Sample], recipe: Any) -> str:
    """A fingerprint of the samples' files and of `recipe` (JSON values). Raises DataError for missing files."""
    digest = hashlib.sha256(json.dumps([VERSION, recipe]).encode())
    for sample in samples:
        digest.update(sample.name.encode())
        for path in (sample.image, sample.mask):
            if path is not None:
                try:
                    status = os.stat(path)
                except OSError as error:
                    raise DataError(f"{path} is listed but missing") from error
                digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def images_key(samples: Sequence[Sample], recipe: Any) -> str:
    """A fingerprint of what these samples show and of `recipe` (JSON values), wherever the files are and whenever they
    were copied: names, sizes of the images' files in bytes, content of the masks' files."""
    digest = hashlib.sha256(json.dumps(recipe).encode())
    for sample in samples:
        size = -1 if sample.image is None else os.stat(sample.image).st_size
        labels = "" if sample.mask is None else hashlib.sha256(sample.mask.read_bytes()).hexdigest()
        digest.update(json.dumps([sample.name, size, labels]).encode())
    return digest.hexdigest()[:24]


def _build(source: CacheSource, home: Path, stored: bool) -> None:
    folder = home.parent
    # A unique name: processes of several machines may build in the same folder.
    work = folder / f"{home.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if stored:
            _check_space(folder, (source.channels + 1) * _pixels_needed(source), source.fit)
        work.mkdir()
        with ExitStack() as stack:
            with suppress(OSError):  # a network disk may have no locks
                stack.enter_context(folder_lock(work))
            index = _write(source, work, stored)
            if not source.ignore_is_explicit:
                index["notes"] += _check_ignored(source.samples, index["pixels"], index["shapes"].prod(1))
            with open(work / "index.npz", "wb") as file:
                np.savez(file, **index, channels=source.channels, names=[s.name for s in source.samples])
        _replace(home, work)
    except OSError as error:
        raise DataError(
            f"the cache could not be written in data.cache_dir={folder}: {error}\n"
            "  → free some space, or set data.cache_dir to another folder; the incomplete cache was removed"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _pixels_needed(source: CacheSource) -> int:
    """Pixels of all images in the cache; 0 if the images' shapes are not known before they are decoded."""
    if source.fit.is_uniform:
        return len(source.samples) * math.prod(source.fit.size)
    if source.image_shape is None:
        return 0
    shapes = map_parallel(source.image_shape, source.samples, "reading sizes")
    # what is wrong with a file is told when it is decoded
    return sum(math.prod(source.fit.shape(*shape)) for shape in shapes if not isinstance(shape, DataError))


def _check_space(folder: Path, needed: int, fit: Fit) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        smaller = "data.max_side=1024" if fit.mode == "crop" else "a smaller data.size"
        raise DataError(
            f"the cache needs {needed / 2**20:,.0f} MiB in data.cache_dir={folder}, {free / 2**20:,.0f} MiB are free\n"
            f"  → free some space, set data.cache_dir to another disk, choose {smaller}, or data.cache=false"
        )
    if needed > STATED:
        print_line(f"building a cache of {needed / 2**30:.1f} GiB in {folder} (data.cache=false: none)")


def _replace(home: Path, work: Path) -> None:
    """Put a new cache in the place of a damaged one, or of one that another process has just built."""
    damaged = home.with_name(f"{work.stem}.damaged.partial")
    with suppress(FileNotFoundError):
        home.rename(damaged)
    try:
        work.rename(home)
    except OSError:
        if not home.is_dir():  # else another process has built it
            raise
    with suppress(OSError):
        damaged.unlink()
    shutil.rmtree(damaged, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed builds left: folders whose lock nobody holds, unless a process has just made them."""
    for work in folder.glob("*.partial"):
        with suppress(OSError), folder_lock(work, wait=False):
            if any(work.iterdir()):
                shutil.rmtree(work, ignore_errors=True)


def _write(source: CacheSource, work: Path, stored: bool) -> dict[str, Any]:
    """Write images.bin and masks.bin into `work`, if they are to be stored.

    Returns the notes, and each image's shape and pixels of each class.
    """
    conversions: Counter[str] = Counter()
    broken, unknown = [], []
    number = len(source.samples)
    shapes, pixels = np.zeros((number, 2), np.int64), np.zeros((number, source.num_classes), np.int64)
    # Not written through a memory map: on a full disk that would kill the process instead of raising an error.
    with ExitStack() as files:
        writers = {
            name: BlockWriter(files.enter_context(open(work / f"{name}.bin", "wb")))
            for name in ("images", "masks")
            if stored
        }
        for i, result in enumerate(map_parallel(source.read_resized, source.samples, "reading images")):
            if isinstance(result, UnknownRange):
                unknown.append(result)
                if len(unknown) == SAMPLE:
                    break
                continue
            if isinstance(result, DataError):
                broken.append(str(result))
                continue
            image, mask, note = result
            for writer, array in zip(writers.values(), (image, mask), strict=False):
                writer.write(array.tobytes())
            conversions[note] += 1
            shapes[i], pixels[i] = mask.shape, np.bincount(mask.ravel(), minlength=256)[: source.num_classes]
    if unknown:
        raise DataError(f"{unknown[0]}\n{propose_range(unknown)}")
    if broken:
        raise DataError(
            f"{len(broken)} of {number} images cannot be used:\n{first_lines(broken, 10)}\n"
            "→ repair these files, or remove them from the list"
        )
    converted = ", ".join(f"{n} {note}" for note, n in conversions.items() if note)
    notes = [f"converted to upright 8-bit images: {converted}"] if converted else []
    checksums = {name: np.array(writer.checksums, np.uint32) for name, writer in writers.items()}
    return {"notes": notes, "shapes": shapes, "pixels": pixels, **checksums}


def _check_ignored(samples: Sequence[Sample], pixels: np.ndarray, total: np.ndarray) -> list[str]:
    """A note about doubtful masks, in which 255 might be a class; raises DataError if most masks are doubtful.

    Doubtful: only 0 and 255, or more than a third 255 (as a few masks of VOC). pixels (N,C): per mask and class; the
    rest of the `total` (N) pixels of a mask is 255.
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
        image = resize_image(image, size)
        mask = np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    return image, mask


def map_parallel(work: Callable[[Sample], Any], samples: Sequence[Sample], words: str) -> Iterator[Any]:
    """Yield the results in order, from one thread per core; a DataError is yielded, not raised.

    words: the label of the progress bar.
    """

    def attempt(sample: Sample) -> Any:
        try:
            return work(sample)
        except DataError as error:
            return error

    def results() -> Iterator[Any]:
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[Any]] = deque()
            for sample in samples:
                waiting.append(pool.submit(attempt, sample))
                if len(waiting) > 2 * threads:  # no more: large images would fill the memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    yield from track(results(), words, len(samples), transient=True, disable=not sys.stdout.isatty())

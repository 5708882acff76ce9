"""Predict many photos: threads read and write files while the network predicts."""

import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segstudy.data.images import header_shape, resize_image
from segstudy.data.tiff import geo_tags
from segstudy.drawing import photo_of
from segstudy.errors import ConfigError, SegstudyError, did_you_mean
from segstudy.inference.model import InputSettings, Model
from segstudy.inference.photos import MAX_PIXELS, Photo
from segstudy.inference.pictures import overlay, save_mask, save_overlay, with_legend
from segstudy.labels import labels_and_mean_confidence
from segstudy.tiles import tiles_per_batch

LANES = 4
"""Batches that a CPU predicts at the same time, each with a part of the threads. With one batch, all its threads would
wait for each other at every layer, and so for the readers and writers on their cores."""
AHEAD = 4
"""Further batches that may be read or written meanwhile."""
LARGEST = 16
"""Largest batch: its scores stay in memory until they are written."""
HELD = 100_000_000
"""Limit for pixels of photos (4 bytes each while decoded) and scores in memory; a larger photo is processed alone."""

Row = dict[str, Any]


@dataclass(frozen=True)
class PredictionTask(InputSettings):
    """How photos are predicted.

    batch: photos or tiles in a batch. keep: classes to keep; the others become background. alpha: weight of an
    overlay's colours; None for no overlay. max_pixels: limit of `pixel_limit`, for its message.
    """

    keep: tuple[int, ...] | None = None
    alpha: float | None = None
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Failure:
    """A photo that could not be predicted."""

    file: Path
    message: str


@dataclass(frozen=True)
class OpenedPhoto:
    """A decoded photo. shape: (H,W). pixels: at the network's size, if batched. image: at its own, if needed later."""

    photo: Photo
    shape: tuple[int, int]
    pixels: Any
    image: Any


class PredictionPipeline:
    """Reads, predicts and writes photos concurrently, with a limited number in memory."""

    def __init__(
        self, model: Model, task: PredictionTask, out: Path, advance: Callable[[float], None] = lambda photos: None
    ):
        """advance: called with the number of photos predicted since the last call; a fraction of 1 with tiles."""
        self.model, self.task, self.out, self.advance = model, task, out, advance
        fit = model.fit.at(task.size, task.tiles is not None)
        one_shape, tiles = model.input_of(fit.size, task)
        self.batch_shape = one_shape if fit.is_uniform and tiles is None else None
        """(H,W) at which the network sees all photos, in batches; None: one by one, since they differ or are large."""
        self.stopped = False

    def run(self, photos: Sequence[Photo]) -> Iterator[Row | Failure]:
        """A row or a failure for each photo, in order. Raises ConfigError if the output folder cannot be written,
        and DataError if 16-bit photos are too dark."""
        self.model.bands.check(photo.file for photo in photos)
        threads = torch.get_num_threads()
        size, lanes, scores = self._batch_size(len(photos), threads)
        networks = ThreadPoolExecutor(lanes, "network", keep_threads, (threads // lanes,))
        # One thread each: with several torch threads, readers and writers would take cores from the network.
        self.pool = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "photos", keep_threads, (1,))
        waiting: deque[tuple[int, Future]] = deque()
        held = 0
        try:
            for pixels, batch in batches(photos, size, scores, self.model.bands.number):
                while waiting and (len(waiting) >= lanes + AHEAD or held + pixels > HELD):
                    written, future = waiting.popleft()
                    yield from outcomes(future)
                    held -= written
                held += pixels
                reading = [self.pool.submit(self._read, photo) for photo in batch]
                waiting.append((pixels, networks.submit(self._predict, reading)))
            for _, future in waiting:
                yield from outcomes(future)
        finally:
            self.stopped = True
            networks.shutdown(cancel_futures=True)
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # the number also applies to threads started later

    def _batch_size(self, photos: int, threads: int) -> tuple[int, int, int]:
        """(photos in a batch, concurrent batches, scores of a photo)."""
        if self.batch_shape is None:
            return 1, 1, 0
        pixels = math.prod(self.batch_shape)
        size = min(self.task.batch or min(LARGEST, tiles_per_batch(pixels, self.model.device)), photos)
        lanes = 1
        if self.model.device.type == "cpu":
            lanes = max(n for n in range(1, min(threads, size, LANES) + 1) if threads % n == 0)
        return size // lanes, lanes, pixels * len(self.model.classes)

    def _read(self, photo: Photo) -> OpenedPhoto | Failure:
        """Decode a photo, and resize it if all are predicted at one size."""
        try:
            image = self.model.bands.read(photo.file)[0]
            pixels = resize_image(image, self.batch_shape) if self.batch_shape else None
            kept = image if pixels is None or self.task.alpha is not None else None
            return OpenedPhoto(photo, image.shape[:2], pixels, kept)
        except Exception as error:  # on a damaged file, Pillow raises errors of many types
            return Failure(photo.file, why_unread(photo.file, error, self.task.max_pixels))

    def _predict(self, reading: Sequence[Future]) -> list[Future | Failure]:
        """Predict a batch after it has been read, and start writing the results."""
        opened = [future.result() for future in reading]
        ready = [each for each in opened if isinstance(each, OpenedPhoto)]
        task = self.task
        found: Iterable[Tensor | tuple[np.ndarray, float]] = []
        if ready and self.batch_shape is None:  # one photo, with progress within it
            found = [self.model.labels(ready[0].image, task, self.advance_part)]
        else:
            if ready:
                found = self.model.batch_scores(np.stack([each.pixels for each in ready]), task.views).cpu()
            self.advance(len(opened))
        results = iter(found)
        return [each if isinstance(each, Failure) else self.pool.submit(self._write, each, next(results))
                for each in opened]  # fmt: skip

    def advance_part(self, part: float) -> None:
        """Report the progress within a photo. Raises CancelledError after the pipeline has stopped."""
        if self.stopped:
            raise CancelledError
        self.advance(part)

    def _write(self, opened: OpenedPhoto, found: Tensor | tuple[np.ndarray, float]) -> Row:
        """Write a photo's mask and overlay from its scores or labels; returns its row of the table."""
        model, task, photo = self.model, self.task, opened.photo
        height, width = opened.shape
        if isinstance(found, Tensor):
            found = labels_and_mean_confidence(found, opened.shape, task.views is not None)
        labels, confidence = found
        # Pillow maps and counts uint8 values directly; NumPy would convert them to int64.
        if task.keep is not None and model.background is not None:
            kept = [c if c in task.keep else model.background for c in range(256)]
            labels = np.asarray(Image.fromarray(labels).point(kept))
        areas = [count / labels.size for count in Image.fromarray(labels).histogram()[: len(model.classes)]]
        try:
            if task.alpha is not None:
                drawn = overlay(
                    Image.fromarray(photo_of(opened.image)), labels, model.palette, task.alpha, model.background
                )
                shown = {name: (model.palette[c], areas[c]) for c, name in enumerate(model.classes) if areas[c]}
                save_overlay(with_legend(drawn, shown), self.out, photo.overlay)
            tags = geo_tags(photo.file) if photo.georeferenced else []
            save_mask(labels, self.out, photo.mask, model.palette, tags)
        except OSError as error:
            raise ConfigError(f"--out {self.out} cannot be written: {error}") from error
        row: Row = {"file": os.path.abspath(photo.file), "mask": photo.mask.as_posix(), "width": width}
        row |= {"height": height, "confidence": round(confidence, 4)}
        return row | {f"area_{name}": round(areas[c], 6) for c, name in area_columns(model, task.keep)}


def batches(photos: Sequence[Photo], size: int, scores: int, channels: int = 3) -> Iterator[tuple[int, list[Photo]]]:
    """Batches of at most `size` photos, and what each holds in memory: the photos' pixels, and `scores` for each."""
    batch: list[Photo] = []
    total = 0
    for photo in photos:
        pixels = pixels_of(photo.file) * channels // 3
        if batch and (len(batch) == size or total + pixels > HELD // 2):
            yield total, batch
            batch, total = [], 0
        batch, total = [*batch, photo], total + pixels + scores
    if batch:
        yield total, batch


def pixels_of(file: Path) -> int:
    """How many pixels a file's header states; 0 if it cannot be read."""
    try:
        return math.prod(header_shape(file))
    except Exception:  # what is wrong is told when it is decoded
        return 0


def why_unread(file: Path, error: Exception, max_pixels: int) -> str:
    """Why a photo could not be read, and what to do."""
    if isinstance(error.__cause__, Image.DecompressionBombError):
        pixels = int(re.findall(r"\d+", str(error.__cause__))[0])
        return (
            f"{file} has {pixels:,} pixels, more than --max-pixels {max_pixels:,}: not decoded\n"
            f"  → if you trust it: --max-pixels {pixels} (and --tiles 512, for its details)"
        )
    return str(error) if isinstance(error, SegstudyError) else f"{file} cannot be read: {error or type(error)}"


def keep_threads(threads: int) -> None:
    """Set torch's threads for this thread only; without the first call it would later take over another's number."""
    torch.get_num_threads()
    torch.set_num_threads(threads)


def outcomes(batch: Future) -> Iterator[Row | Failure]:
    """The rows and failures of a batch, when its files are written."""
    for each in batch.result():
        yield each if isinstance(each, Failure) else each.result()


def area_columns(model: Model, keep: Sequence[int] | None) -> list[tuple[int, str]]:
    """Number and name of the classes that predictions may have."""
    return [(c, n) for c, n in enumerate(model.classes) if keep is None or c in keep or c == model.background]


def kept_classes(model: Model, text: str) -> tuple[int, ...]:
    """The numbers of the classes in `cat,dog`. Raises ConfigError for unknown ones, and if there is no background."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in model.classes]:
        hints = "".join(f"\n  {name!r}{did_you_mean(name, model.classes)}" for name in unknown)
        raise ConfigError(f"--classes {text}: not among the run's classes{hints}\n  → {', '.join(model.classes)}")
    if not names:
        raise ConfigError("--classes names no class\n  → --classes " + ",".join(model.classes[:2]))
    if model.background is None:
        raise ConfigError(
            f"--classes {text}: this run has no background that the other classes could become\n"
            "  → leave --classes away, and take what you need from the masks"
        )
    return tuple(model.classes.index(name) for name in names)

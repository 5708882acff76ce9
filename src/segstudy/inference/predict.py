"""Masks, overlays and a table of many photos: read and written by threads while the network works."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segstudy.data.images import open_upright
from segstudy.errors import ConfigError, SegstudyError, did_you_mean
from segstudy.files import atomic_write
from segstudy.inference.evaluate import save_mask
from segstudy.inference.loading import TestTimeAugmentation
from segstudy.inference.model import Model
from segstudy.inference.overlay import overlay, with_legend
from segstudy.inference.photos import MAX_PIXELS, OURS, Photo, header
from segstudy.inference.tiles import Tiles, tiles_per_batch
from segstudy.labels import labels_and_mean_confidence

LANES = 4
"""Batches that a CPU's network sees side by side. The threads of one batch wait for the slowest of them at every layer,
and so for what reads and writes on its core; batches, each in fewer threads, need not wait for each other."""
AHEAD = 4
"""Batches in line beside those that the network sees: being read, or written."""
LARGEST = 16
"""Photos of a batch at most: its scores wait in memory until they are written."""
HELD = 100_000_000
"""Pixels of the photos in memory at a time (4 bytes each while decoded), and scores; one larger photo is alone."""
WHOLE = 2**22
"""At size=original, a photo of more pixels is seen in tiles: its maps would fill the memory."""

Row = dict[str, Any]


@dataclass(frozen=True)
class PredictionTask:
    """What is done with each photo. keep: the classes that stay, the others become background. alpha: of an overlay."""

    size: str = "train"
    views: TestTimeAugmentation | None = None
    tiles: Tiles | None = None
    batch: int | None = None
    keep: tuple[int, ...] | None = None
    alpha: float | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def batched(self) -> bool:
        """Whether the network sees all photos at one size."""
        return self.tiles is None and self.size != "original"

    def tiles_of(self, pixels: int) -> Tiles | None:
        """The tiles in which a photo is seen that does not come in a batch, or None for in one piece."""
        return self.tiles or (Tiles(512) if pixels > WHOLE else None)


@dataclass(frozen=True)
class Failure:
    """A photo of which nothing could be predicted."""

    file: Path
    message: str


@dataclass(frozen=True)
class OpenedPhoto:
    """A decoded photo: its width and height; as the network sees it in a batch; itself, if that is still needed."""

    photo: Photo
    size: tuple[int, int]
    image: np.ndarray | None = None
    picture: Image.Image | None = None


class SynchronousExecutor(Executor):
    """Does what is submitted in the thread that submits it."""

    def submit(self, do: Callable, /, *given: Any) -> Future:  # type: ignore[override]
        future: Future = Future()
        try:
            future.set_result(do(*given))
        except Exception as error:
            future.set_exception(error)
        return future


class PredictionPipeline:
    """Photos are read, put to the network and written side by side; in their order, with a bounded number in memory."""

    def __init__(self, model: Model, task: PredictionTask, out: Path, tell: Callable[[float], None] | None = None):
        """tell: is told how many photos the network has seen, a share of one in tiles."""
        self.model, self.task, self.out, self.tell = model, task, out, tell
        self.seen, self.scores, self.stopped = 0, 0, False

    def run(self, photos: Sequence[Photo]) -> Iterator[Row | Failure]:
        """A row or a failure for each photo. Raises ConfigError if the output folder cannot be written."""
        threads = torch.get_num_threads()
        lanes, size = 1, 1
        if self.task.batched:
            pixels = math.prod(self.model.image_shape(self.task.size))
            self.scores = pixels * len(self.model.classes)
            size = min(self.task.batch or min(LARGEST, tiles_per_batch(pixels, self.model.device)), len(photos))
            if self.model.device.type == "cpu":
                lanes = max(n for n in range(1, min(threads, size, LANES) + 1) if threads % n == 0)
        networks = ThreadPoolExecutor(lanes, "network", keep_threads, (threads // lanes,))
        # Each thread of torch's own would start as many again: beside the network's these are too many.
        self.pool = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "photos", keep_threads, (1,))
        # On a CPU of several lanes a batch's scores lie in the cache of the core whose network gave them.
        self.writers: Executor = self.pool if lanes == 1 else SynchronousExecutor()
        line: deque[tuple[int, Future[list[Future]]]] = deque()
        held = 0
        try:
            for pixels, group in self.groups(photos, size // lanes):
                while line and (len(line) >= lanes + AHEAD or held + pixels > HELD):
                    done, batch = line.popleft()
                    yield from outcomes(batch)
                    held -= done
                held += pixels
                line.append((pixels, networks.submit(self.put, [self.pool.submit(self.read, each) for each in group])))
            for _, batch in line:
                yield from outcomes(batch)
        finally:
            self.stopped = True
            networks.shutdown(cancel_futures=True)
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # threads to come have what was set last

    def groups(self, photos: Iterable[Photo], size: int) -> Iterator[tuple[int, list[Photo | Failure]]]:
        """The batches of `size` photos, and what they hold in memory: pixels and scores."""
        group: list[Photo | Failure] = []
        total = 0
        for photo in photos:
            each, pixels = self.measured(photo)
            if group and (len(group) == size or total + pixels > HELD // 2):
                yield total, group
                group, total = [], 0
            group, total = [*group, each], total + pixels + self.scores
        if group:
            yield total, group

    def measured(self, photo: Photo) -> tuple[Photo | Failure, int]:
        """The photo and its pixels, if its header can be read."""
        try:
            width, height = header(photo.file, self.task.max_pixels)
        except Exception as error:
            return failure(photo, error), 0
        return photo, width * height

    def read(self, photo: Photo | Failure) -> OpenedPhoto | Failure:
        """Decode a photo, and resize it if all are seen at one size."""
        if isinstance(photo, Failure):
            return photo
        try:
            picture = open_upright(photo.file)[0]
            if not self.task.batched:
                return OpenedPhoto(photo, picture.size, picture=picture)
            kept = picture if self.task.alpha is not None else None
            return OpenedPhoto(photo, picture.size, self.model.resized(picture, self.task.size), kept)
        except Exception as error:
            return failure(photo, error)

    def put(self, reading: Sequence[Future]) -> list[Future]:
        """What is being written of a batch, after the network has seen it."""
        batch = [future.result() for future in reading]
        task, there = self.task, [each for each in batch if isinstance(each, OpenedPhoto)]
        found: Iterable[Tensor | tuple[np.ndarray, float]]
        if task.batched and there:
            found = self.model.batch_scores(np.stack([each.image for each in there]), task.views).cpu()  # type: ignore[misc]
        else:
            found = [self.see(each.picture) for each in there if each.picture]
        results = iter(found)
        return [
            self.writers.submit(self.write, each, next(results)) if isinstance(each, OpenedPhoto)
            else self.writers.submit(lambda failed: failed, each) for each in batch
        ]  # fmt: skip

    def see(self, picture: Image.Image) -> tuple[np.ndarray, float]:
        """Labels and confidence of a photo that does not come in a batch."""
        tiles, task = self.task.tiles_of(picture.width * picture.height), self.task
        found = self.model.labels(picture, task.size, task.views, tiles, task.batch, self.told)
        self.seen += 1
        return found

    def told(self, share: float) -> None:
        """Tell the share of a photo; raises CancelledError once nobody waits for it."""
        if self.stopped:
            raise CancelledError
        if self.tell:
            self.tell(self.seen + share)

    def write(self, opened: OpenedPhoto, found: Tensor | tuple[np.ndarray, float]) -> Row:
        """Write a photo's mask and overlay, from the network's scores or from labels; its row of the table."""
        model, task, photo = self.model, self.task, opened.photo
        width, height = opened.size
        if isinstance(found, Tensor):
            found = labels_and_mean_confidence(found, (height, width), task.views is not None)
        labels, sure = found
        if task.keep is not None:
            kept = [c if c in task.keep else model.background for c in range(256)]
            np.take(np.array(kept, np.uint8), labels, out=labels, mode="clip")
        # Pillow counts bytes where they lie; NumPy would make eight of each.
        areas = [count / (width * height) for count in Image.fromarray(labels).histogram()[: len(model.classes)]]
        try:
            if task.alpha is not None and opened.picture is not None:
                self.draw(opened.picture, labels, areas, photo.overlay)
            save_mask(labels, self.out, photo.mask, model.palette)
        except OSError as error:
            raise ConfigError(f"--out {self.out} cannot be written: {error}") from error
        row: Row = {"file": os.path.abspath(photo.file), "mask": photo.mask.as_posix(), "width": width}
        row |= {"height": height, "confidence": round(sure, 4)}
        return row | {f"area_{name}": round(areas[c], 6) for c, name in area_columns(model, task.keep)}

    def draw(self, picture: Image.Image, labels: np.ndarray, areas: Sequence[float], name: Path) -> None:
        """Write an overlay, never half."""
        model = self.model
        drawn = overlay(picture, labels, model.palette, self.task.alpha or 0.0, model.background)
        there = {name: (model.palette[c], areas[c]) for c, name in enumerate(model.classes) if areas[c]}
        with atomic_write(self.out, name) as file:
            with_legend(drawn, there).save(file, "JPEG", quality=90, comment=OURS)


def keep_threads(threads: int) -> None:
    """Let torch use so many in this thread; asked first, it does not take over later what was set last anywhere."""
    torch.get_num_threads()
    torch.set_num_threads(threads)


def outcomes(batch: "Future[list[Future]]") -> Iterator[Row | Failure]:
    """What came of a batch's photos, in their order."""
    for written in batch.result():
        yield written.result()


def failure(photo: Photo, error: Exception) -> Failure:
    """What is said of a photo that cannot be read; Pillow's formats raise anything on a broken file."""
    said = str(error) if isinstance(error, SegstudyError) else f"{photo.file} cannot be read: {error or type(error)}"
    return Failure(photo.file, said)


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

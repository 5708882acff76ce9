"""Pictures of the predictions of fixed validation images: before training, every few epochs and at the end."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image, ImageDraw

from segstudy.callbacks.diagnostic import Diagnostic
from segstudy.callbacks.loggers import log_image
from segstudy.callbacks.throughput import Throughput
from segstudy.console import print_line
from segstudy.data.datamodule import SegmentationData, data_of
from segstudy.data.dataset import CachedDataset
from segstudy.drawing import ERRORS, as_array, class_legend, colorize, error_picture, image_grid, photo_of
from segstudy.files import atomic_write
from segstudy.labels import reduced_labels, reduction
from segstudy.ranges import Count, NotNegative, checked
from segstudy.runs.image_arrays import write_image_arrays

SIDE = 512
"""Longest side of a stored sample, in pixels."""


@checked
class Pictures(Diagnostic):
    """Draws image | truth | prediction | error of `count` fixed images every `every` epochs.

    Also once after `first_seconds` of training (None: never), so that there is a first picture within a minute. Written
    as PNG to `pictures/` of the run, and to each logger that supports pictures. The test also writes
    `test/samples.npz` (image, truth and prediction, reduced to at most SIDE), for a report on a machine without the
    data.
    gif: join the pictures of all epochs in `progress.gif`.
    """

    def __init__(self, every: Count = 5, count: Count = 6, first_seconds: NotNegative | None = 30, gif: bool = False):
        super().__init__()
        self.every, self.count, self.first_seconds, self.gif = every, count, first_seconds, gif
        self.began: float | None = None

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero and trainer.ckpt_path is None:
            self._draw(trainer, module, "epoch_000")
            self.began = None if self.first_seconds is None else time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if self.began is None or self.first_seconds is None:
            return
        if time.monotonic() - self.began > self.first_seconds:
            self.began = None
            self._draw(trainer, module, "first")
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Throughput):
                    callback.skip_wait()
            print_line(f"first picture: {Path(trainer.default_root_dir) / 'pictures' / 'first.png'}")

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:  # the validated weights
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero and not trainer.sanity_checking and (epoch == 1 or epoch % self.every == 0):
            self.began = None
            self._draw(trainer, module, f"epoch_{epoch:03d}")

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        with self.tolerate_errors("pictures"):
            samples = self._draw(trainer, module, "final")
            images = dict(zip(("image", "truth", "prediction"), zip(*samples.values(), strict=True), strict=True))
            with atomic_write(folder, "test/samples.npz") as file:
                write_image_arrays(file, images, names=np.array(list(samples)))
        if self.gif:
            with self.tolerate_errors("gif"):
                animate(folder / "pictures")

    def _draw(self, trainer: L.Trainer, module: L.LightningModule, name: str) -> dict[str, tuple[np.ndarray, ...]]:
        """Draw the picture; returns (image, truth, prediction) of each image by its name."""
        data = data_of(trainer)
        images = data.roles["report"]
        positions = fixed_samples(images, self.count, data.background)
        samples = {images.samples[i].name: _sample(module, data, images, i) for i in positions}
        rows = [
            (p, colorize(t, data.palette), colorize(q, data.palette), error_picture(t, q, data.background))
            for p, t, q in samples.values()
        ]
        legend = class_legend([a for _, *both in samples.values() for a in both], data.classes, data.palette) | ERRORS
        picture = as_array(image_grid(rows, ("image", "truth", "prediction", "error"), legend))
        with atomic_write(Path(trainer.default_root_dir), f"pictures/{name}.png") as file:
            Image.fromarray(picture).save(file, "PNG")
        log_image(trainer, "predictions", picture)
        return samples


def animate(folder: Path, seconds: float = 0.7) -> Path:
    """Join epoch_*.png and final.png of a folder, each with its name, in `progress.gif`; the last is shown longer."""
    frames = []
    pictures = {}
    for file in (p for p in [*sorted(folder.glob("epoch_*.png")), folder / "final.png"] if p.is_file()):
        with Image.open(file) as opened:
            pictures[file.stem.replace("_", " ")] = opened.convert("RGB")
    tallest = max(p.height for p in pictures.values())  # the legend grows with the classes that are predicted
    for name, picture in pictures.items():
        frame = Image.new("RGB", (picture.width, tallest), "white")
        frame.paste(picture)
        frame = frame.resize((round(frame.width * 0.7), round(frame.height * 0.7)), Image.Resampling.LANCZOS)
        ImageDraw.Draw(frame).text((6, frame.height - 16), name, fill="black")
        frames.append(frame.quantize(128))
    durations = [round(seconds * 1000)] * (len(frames) - 1) + [round(seconds * 4000)]
    with atomic_write(folder, "progress.gif") as written:
        frames[0].save(written, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return folder / "progress.gif"


def _sample(
    module: L.LightningModule, data: SegmentationData, images: CachedDataset, position: int
) -> tuple[np.ndarray, ...]:
    """Image (H,W,3), truth and prediction (H,W) of one image, uint8, reduced so that no side is above SIDE."""
    batch = images.__getitems__([position])  # one at a time: images can have different shapes
    image, truth = batch["image"][0].cpu().numpy(), batch["mask"][0].cpu().numpy()
    factor = reduction(truth.shape, SIDE)
    labels = predict(module, data, batch)[0]
    return photo_of(image, factor), reduced_labels(truth, factor), reduced_labels(labels, factor)


def predict(module: L.LightningModule, data: SegmentationData, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """Labels uint8 (B,H,W) of a raw batch of the cache. The mode (training or not) of each part is kept."""
    modes = {part: part.training for part in module.modules()}  # a frozen part's mode differs from the module's
    module.eval()
    ready = data.on_after_batch_transfer(move_data_to_device(batch, module.device), 0)
    with torch.no_grad():
        labels = module(ready["image"]).argmax(1)
    for part, training in modes.items():
        part.training = training
    return labels.to(torch.uint8).cpu().numpy()


def fixed_samples(images: CachedDataset, count: int, background: int | None = 0) -> list[int]:
    """Positions of images to show, chosen by their masks alone.

    For each class in turn, the most common first: the image not chosen yet in which it is nearest to 30 % of the area.
    """
    share = images.pixels / images.pixels.sum(1, keepdims=True).clip(min=1)
    order = [c for c in np.argsort(-share.sum(0)) if c != background and share[:, c].sum() > 0] or [0]
    chosen: list[int] = []
    for turn in range(min(count, len(images))):
        distance = abs(share[:, order[turn % len(order)]] - 0.3)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return chosen

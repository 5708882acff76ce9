"""Error sums of each test image, from which a study computes its metrics."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from segstudy.callbacks.diagnostic import Diagnostic, gather_from_processes, report_failure
from segstudy.callbacks.per_image_confusion import PerImageConfusion, names_and_groups
from segstudy.data.datamodule import known_data
from segstudy.errors import DataError
from segstudy.files import atomic_write, remove
from segstudy.formatting import counted
from segstudy.labels import reduced_labels, reduced_logits, reduction
from segstudy.measures.boundaries import fill_void, near_edges
from segstudy.measures.calibration import confidence_sums
from segstudy.measures.error_categories import image_errors
from segstudy.measures.operating_curve import offset_sums
from segstudy.measures.shift import SMALLEST, shift_consistency
from segstudy.measures.top_two import top_two
from segstudy.ranges import Side, checked
from segstudy.runs.image_arrays import Compressed, write_image_arrays

FILES = ("measures.npz", "labels.npz")
PICTURES = ("labels", "truth")


@checked
class PerImageErrors(Diagnostic):
    """Sums of each test image at network size: errors, confidence, background offsets, shift consistency.

    max_side: larger images are measured at 1/2, 1/4, … of their size, and their shifts in the middle max_side×max_side
    pixels. The record's entry `measured_at` says how many. The classes of each image are those that PerImageConfusion
    has found at original size; it must be a callback before this one.
    Writes `test/measures.npz`: names and groups (N), and an array (N, …) for each sum; and `test/labels.npz`: predicted
    labels and truth of each image as measured, uint8 (H,W), for pictures (`runs.image_arrays`). After an error neither
    is written; if only shifts failed, they alone are left out.
    """

    def __init__(self, max_side: Side = 1024):
        super().__init__()
        self.max_side = max_side
        self.images: dict[int, dict[str, Any]] = {}

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.images = {}
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.confusion = next(c for c in callbacks if isinstance(c, PerImageConfusion))

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor], *_: Any
    ) -> None:
        if "measures" not in self.not_measured:
            with self.tolerate_errors("measures"):
                self._measure(trainer, module, logits, batch)
        if not self.not_measured:
            with self.tolerate_errors("shift_consistency"), trainer.precision_plugin.forward_context():
                self._measure_shifts(module, logits, batch)

    def _measure_shifts(self, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]) -> None:
        """Shift each image by one of 1, 2, 4 and 8 pixels, in turn: all four would take most of the time of a test."""
        image = middle(batch["image"], (self.max_side, self.max_side))
        if image.shape != batch["image"].shape:
            logits = module(image)  # with the same surroundings as the shifted image
        small = min(image.shape[2:]) // 8
        shifts = [shift for shift in (1, 2, 4, 8) if shift <= max(1, small)]
        indices = batch["index"].tolist()
        if min(image.shape[2:]) < SMALLEST:
            nothing = {"shift_kept": np.zeros((), np.int64), "shift_compared": np.zeros((), np.int64)}
            for index in self.images.keys() & indices:
                self.images[index] |= nothing
            return
        for turn, shift in enumerate(shifts):
            chosen = [i for i, index in enumerate(indices) if index >= 0 and index % len(shifts) == turn]
            if not chosen:
                continue
            shifted = shift_consistency(module, image[chosen], logits[chosen], [shift])
            kept, compared = (t.cpu().numpy() for t in shifted)
            for n, i in enumerate(chosen):
                self.images[indices[i]] |= {"shift_kept": kept[n], "shift_compared": compared[n]}

    def _measure(self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]) -> None:
        classes: int = len(module.classes)  # type: ignore[arg-type]
        background: int | None = (known_data(trainer) or module).background  # type: ignore[assignment]
        factor = reduction(batch["mask"].shape[1:], self.max_side)
        for logit, mask, index in zip(logits, batch["mask"], batch["index"].tolist(), strict=True):
            if index < 0:  # padding, so that all processes have equally many batches
                continue
            logit, mask = reduced_logits(logit, factor), reduced_labels(mask, factor)
            top = top_two(logit)
            labels, truth = (t.to(torch.uint8).cpu().numpy() for t in (top.label, mask))
            filled = fill_void(truth)
            edge = torch.from_numpy(near_edges(filled)).to(mask.device)
            present = self.confusion.present[index]
            sums = image_errors(truth, labels, classes, background, present, filled)
            sums |= confidence_sums(logit, mask, edge, background, top)
            sums |= offset_sums(logit, mask, background, present, top)
            pictures = {"labels": Compressed.of(labels), "truth": Compressed.of(truth)}
            self.images[index] = {**sums, **pictures, "factor": factor}

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.gather_failures(trainer)
        parts = gather_from_processes(trainer, self.images)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        if "measures" not in self.not_measured:
            with self.tolerate_errors("measures"):
                images = {index: sums for part in parts for index, sums in part.items()}
                tested = sorted(images)
                self._tell_without_shift([images[i] for i in tested])
                self.entries["measured_at"] = measured_at(images[i].pop("factor") for i in tested)
                self._write(folder, [images[i] for i in tested], names_and_groups(trainer, tested))
        if "measures" in self.not_measured:  # files of an earlier test would be taken for those of this one
            for name in FILES:
                remove(folder, f"test/{name}")

    def _tell_without_shift(self, images: list[dict[str, Any]]) -> None:
        """Note how many images are too small for shift consistency; without any other image, it is not measured."""
        if "shift_consistency" in self.not_measured:
            return
        small = sum(not sums["shift_compared"] for sums in images)
        if small:
            what = "shift_consistency" + f" of {counted(small, 'image')}" * (small < len(images))
            self.not_measured[what] = report_failure(what, DataError(f"a side below {SMALLEST} pixels"))

    def _write(self, folder: Path, images: list[dict[str, Any]], samples: list[tuple[str, str]]) -> None:
        kept = [key for key in images[0] if "shift_consistency" not in self.not_measured or "shift" not in key]
        stacked = {key: np.stack([sums[key] for sums in images]) for key in kept if key not in PICTURES}
        names, groups = zip(*samples, strict=True)
        with atomic_write(folder, "test/measures.npz") as file:
            np.savez_compressed(file, names=names, groups=groups, **stacked)  # type: ignore[arg-type]
        with atomic_write(folder, "test/labels.npz") as file:
            write_image_arrays(file, {key: [sums[key] for sums in images] for key in PICTURES})


def middle(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of images (B,C,H,W), cut to at most `size` = (height, width)."""
    tops = [max(0, (have - wanted) // 2) for have, wanted in zip(images.shape[2:], size, strict=True)]
    return images[..., tops[0] : tops[0] + size[0], tops[1] : tops[1] + size[1]]


def measured_at(factors: Iterable[int]) -> str:
    """In words, the size at which the images were measured, from the factor by which each was reduced."""
    numbers = sorted(Counter(factors).items())
    if [factor for factor, _ in numbers] == [1]:
        return "network size"
    return "share of network size: " + ", ".join(f"1/{factor} for {counted(n, 'image')}" for factor, n in numbers)

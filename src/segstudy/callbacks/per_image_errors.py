"""Error sums of each test image, from which a study computes its metrics."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from segstudy.callbacks.diagnostic import Diagnostic, gather_from_processes
from segstudy.callbacks.per_image_confusion import PerImageConfusion, names_and_groups
from segstudy.data.datamodule import known_data
from segstudy.files import atomic_write, remove
from segstudy.measures.boundaries import near_edges
from segstudy.measures.calibration import confidence_sums
from segstudy.measures.error_categories import image_errors
from segstudy.measures.operating_curve import offset_sums
from segstudy.measures.shift import shift_consistency

FILES = ("measures.npz", "labels.npz")


class PerImageErrors(Diagnostic):
    """Sums of each test image at network size: errors, confidence, background offsets, shift consistency.

    confusion: the callback whose `present` has the classes of each image; it must come before this one.
    Writes `test/measures.npz`: names and groups (N), and an array (N, …) for each sum; and `test/labels.npz`: predicted
    labels and truth, uint8 (N,H,W), for pictures. After an error neither is written; if only shifts failed, they alone
    are left out.
    """

    def __init__(self, confusion: PerImageConfusion):
        super().__init__()
        self.confusion = confusion
        self.images: dict[int, dict[str, np.ndarray]] = {}

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.images = {}

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
        small = min(batch["image"].shape[2:]) // 8
        shifts = [shift for shift in (1, 2, 4, 8) if shift <= max(1, small)]
        indices = batch["index"].tolist()
        for turn, shift in enumerate(shifts):
            chosen = [i for i, index in enumerate(indices) if index >= 0 and index % len(shifts) == turn]
            if not chosen:
                continue
            shifted = shift_consistency(module, batch["image"][chosen], logits[chosen], [shift])
            kept, compared = (t.cpu().numpy() for t in shifted)
            for n, i in enumerate(chosen):
                self.images[indices[i]] |= {"shift_kept": kept[n], "shift_compared": compared[n]}

    def _measure(self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]) -> None:
        classes: int = len(module.classes)  # type: ignore[arg-type]
        background: int | None = (known_data(trainer) or module).background  # type: ignore[assignment]
        labels, masks = (t.to(torch.uint8).cpu().numpy() for t in (logits.argmax(1), batch["mask"]))
        for i, index in enumerate(batch["index"].tolist()):
            if index < 0:  # padding, so that all processes have equally many batches
                continue
            mask = batch["mask"][i]
            edge = torch.from_numpy(near_edges(masks[i])).to(mask.device)
            present = self.confusion.present[index]
            sums = image_errors(masks[i], labels[i], classes, background, present)
            sums |= confidence_sums(logits[i], mask, edge, background)
            sums |= offset_sums(logits[i], mask, background, present)
            self.images[index] = sums | {"labels": labels[i], "truth": masks[i]}

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
                self._write(folder, [images[i] for i in tested], names_and_groups(trainer, tested))
        if "measures" in self.not_measured:  # files of an earlier test would be taken for those of this one
            for name in FILES:
                remove(folder, f"test/{name}")

    def _write(self, folder: Path, images: list[dict[str, np.ndarray]], samples: list[tuple[str, str]]) -> None:
        kept = [key for key in images[0] if "shift_consistency" not in self.not_measured or "shift" not in key]
        stacked = {key: np.stack([sums[key] for sums in images]) for key in kept}
        pictures = {key: stacked.pop(key) for key in ("labels", "truth")}
        identity = {"names": [name for name, _ in samples], "groups": [group for _, group in samples]}
        for name, arrays in (("measures", identity | stacked), ("labels", pictures)):
            with atomic_write(folder, f"test/{name}.npz") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

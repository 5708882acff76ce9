"""A confusion matrix for each test image, at network size and at its original size."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from segstudy.callbacks.diagnostic import Diagnostic, gather_from_processes
from segstudy.data.datamodule import known_data
from segstudy.errors import TrainingError
from segstudy.files import atomic_write
from segstudy.labels import labels_at
from segstudy.measures.stored_rows import sum_rows
from segstudy.metrics import class_table, confusion, summary
from segstudy.runs.headline import SIZES


class PerImageConfusion(L.Callback):
    """Counts a confusion matrix for each test image, so that a study can resample images.

    Writes `test/counts.npz`: `names` (N), and for each of SIZES int64 rows (image, truth, prediction, pixels) of the
    entries above 0. At original size the logits are interpolated (bilinear) before the argmax.
    images: N, the number of images tested; fewer than the split has with `trainer.limit_test_batches`.
    present: {index: classes of an image of this process at original size}; some vanish at network size.
    Raises TrainingError if an image was counted twice, or left out without such a limit.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[np.ndarray]] = {}
        self.present: dict[int, np.ndarray] = {}
        self.total: dict[str, np.ndarray] = {}
        self.seen: list[int] = []
        self.images = 0

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.rows, self.seen = {size: [] for size in SIZES}, []
        self.present = {}

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor], *_: Any
    ) -> None:
        data = known_data(trainer)
        for logit, labels, mask, index in zip(
            logits, batch["labels"], batch["mask"], batch["index"].tolist(), strict=True
        ):
            if index < 0:  # padding, so that all processes have equally many batches
                continue
            self.seen.append(index)
            self._count("network", index, labels, mask)
            # The masks of the user's own loaders count as original.
            original = mask if data is None else data.original_mask("report", index).to(mask.device)
            if original.shape == mask.shape and torch.equal(original, mask):
                self.rows["original"].append(self.rows["network"][-1])
            else:
                self._count("original", index, labels_at(logit, original.shape), original)
            self.present[index] = np.unique(self.rows["original"][-1][:, 1])

    def _count(self, size: str, index: int, labels: Tensor, mask: Tensor) -> None:
        counts = confusion(labels[None], mask[None], self.num_classes)
        truth, prediction = counts.nonzero(as_tuple=True)
        pixels = counts[truth, prediction]
        self.rows[size].append(torch.stack([torch.full_like(truth, index), truth, prediction, pixels], 1).cpu().numpy())

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.num_classes = len(module.classes)  # type: ignore[arg-type]

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        parts = gather_from_processes(trainer, (self.seen, self.rows))
        seen = sorted(index for indices, _ in parts for index in indices)
        _check_images(trainer, seen)
        self.images = len(seen)
        rows = {size: np.concatenate([r for _, part in parts for r in part[size]]) for size in SIZES}
        self.total = {size: sum_rows(r, (1, 2), (self.num_classes, self.num_classes)) for size, r in rows.items()}
        if trainer.is_global_zero:
            names = [name for name, _ in names_and_groups(trainer, seen)]
            for r in rows.values():
                r[:, 0] = np.searchsorted(seen, r[:, 0])
            with atomic_write(Path(trainer.default_root_dir), "test/counts.npz") as file:
                np.savez_compressed(file, names=names, **rows)  # type: ignore[arg-type]


def names_and_groups(trainer: L.Trainer, indices: Sequence[int]) -> list[tuple[str, str]]:
    """(name, group) of these test images; with the user's own loaders, their indices."""
    if (data := known_data(trainer)) is None:
        return [(str(i), str(i)) for i in indices]
    samples = [data.roles["report"].samples[i] for i in indices]
    return [(s.name, s.group or s.name) for s in samples]


def _check_images(trainer: L.Trainer, seen: Sequence[int]) -> None:
    """Raise TrainingError if an image was counted twice, or is missing although no limit leaves batches out."""
    if (data := known_data(trainer)) is None:
        return
    images = data.roles["report"]
    limited = sum(trainer.num_test_batches) < len(trainer.test_dataloaders)  # type: ignore[arg-type,operator]
    if len(set(seen)) < len(seen) or (len(seen) < len(images) and not limited):
        raise TrainingError(
            f"the test counted {len(set(seen))} of the {len(images)} images of {images.name!r}, "
            f"{len(seen) - len(set(seen))} more than once: another sampler has replaced segstudy's own\n"
            "  → trainer.use_distributed_sampler=false trainer.overfit_batches=0"
        )


def protocol_of_images(protocol: str, images: int, whole: int) -> str:
    """The protocol, with the number of images if only some were tested: then the run is not compared with others."""
    return ", ".join(filter(None, [protocol, f"{images} of {whole} images tested" if images < whole else ""]))


def dataset_metrics(counts: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """`metrics` and `classes` of a record, from the confusion matrix (C,C) at each size."""
    tensors = {size: torch.from_numpy(c) for size, c in counts.items()}
    return {
        "metrics": {size: summary(c) for size, c in tensors.items()},
        "classes": {size: class_table(c, classes) for size, c in tensors.items()},
    }


def test_record(callbacks: Iterable[L.Callback], classes: Sequence[str]) -> dict[str, Any]:
    """The entries of the record that come from the callbacks of a test."""
    callbacks = list(callbacks)
    counts = next(c for c in callbacks if isinstance(c, PerImageConfusion))
    entries: dict[str, Any] = {"images_tested": counts.images, "not_measured": {}}
    entries |= dataset_metrics(counts.total, classes)
    for callback in (c for c in callbacks if isinstance(c, Diagnostic)):
        entries["not_measured"] |= callback.not_measured
        entries |= callback.entries
    return entries

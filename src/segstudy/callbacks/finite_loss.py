"""Ends a run whose loss is NaN or infinite, with advice."""

from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from segstudy.data.datamodule import data_of
from segstudy.errors import TrainingError
from segstudy.ranges import Count, checked


@checked
class FiniteLoss(L.Callback):
    """Ends the run at a NaN or infinite loss; names the step, the images of the batch and the last good checkpoint.

    On a CPU it checks each step, on a GPU only every `every` steps, because a check waits for the device.
    """

    def __init__(self, every: Count = 50):
        self.every = every
        self.recent: deque[tuple[int, Tensor, Tensor | None]] = deque(maxlen=every)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Any, i: int) -> None:
        self.recent.append((trainer.global_step, out["loss"].detach(), batch.get("index")))
        if module.device.type == "cpu" or i % self.every == self.every - 1:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._check(trainer)  # before ModelCheckpoint, which Lightning moves to the end

    def _check(self, trainer: L.Trainer) -> None:
        if not self.recent or torch.stack([loss for _, loss, _ in self.recent]).isfinite().all():
            self.recent.clear()
            return
        step, loss, index = next(entry for entry in self.recent if not entry[1].isfinite())
        names = "unknown"
        if index is not None:
            samples = data_of(trainer).roles["fit"].samples
            names = ", ".join(samples[i].name for i in index.tolist())
        last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        raise TrainingError(
            f"the loss became {loss.item()} at step {step} (epoch {trainer.current_epoch})\n"
            f"  images of that batch: {names}\n"
            f"  last good checkpoint: {last if last.is_file() else 'none yet'}\n"
            "  → try a lower optim.lr, trainer.gradient_clip_val=1, or trainer.precision=32-true"
        )

"""Times of a short trial run, from which a study's budget is turned into steps."""

import json
import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch

WARMUP = 2
"""Steps that are not timed: memory is allocated and kernels are chosen."""


class StageTimes(L.Callback):
    """Ends training once `steps` steps or `seconds` have been timed, and writes `times.json` into the run's folder.

    Its entries, in seconds: `step`; `validation`, with the checkpoints after it; `test`; both for all images, although
    a trial may be limited to some batches. `timed`: spent in these. And `steps_per_epoch`.
    Comes after all other callbacks, except those that write checkpoints.
    """

    def __init__(self, steps: int = 20, seconds: float = 3):
        self.limit, self.seconds = steps, seconds
        self.steps: list[float] = []
        self.validation: list[float] = []  # batches
        self.saving: list[float] = []
        self.test: list[float] = []  # batches
        self.steps_per_epoch, self.validations, self.val_batches = 1, 0, 0
        self.began = 0.0
        self.validated: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self._saved()
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self._note(self.steps)
        timed = self.steps[WARMUP:]
        if len(timed) >= self.limit or (len(timed) > 1 and sum(timed) > self.seconds):
            trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.validations += 1
        self.val_batches = len(trainer.val_dataloaders or ())  # after training, Lightning has forgotten them
        self.began = time.perf_counter()

    def on_validation_batch_end(self, *_: Any) -> None:
        self._note(self.validation)

    def on_validation_end(self, *_: Any) -> None:
        self.validated = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self._saved()

    def on_test_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_test_batch_end(self, *_: Any) -> None:
        self._note(self.test)

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        steps, validations = self.steps[WARMUP:] or self.steps, max(self.validations, 1)
        values = {
            "step": fmean(steps) * trainer.accumulate_grad_batches,
            "validation": fmean(self.validation or [0]) * self.val_batches + sum(self.saving) / validations,
            "test": fmean(self.test or [0]) * len(trainer.test_dataloaders or ()),
            "timed": sum([*self.steps, *self.validation, *self.saving, *self.test]),
            "steps_per_epoch": self.steps_per_epoch,
        }
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "times.json").write_text(json.dumps(values))

    def _note(self, seconds: list[float]) -> None:
        """Add the time since the last call, or the start of the stage."""
        now = time.perf_counter()
        seconds.append(now - self.began)
        self.began = now

    def _saved(self) -> None:
        """After a validation, checkpoints are written until the next epoch, or the end."""
        if self.validated is not None:
            self.saving.append(time.perf_counter() - self.validated)
            self.validated = None

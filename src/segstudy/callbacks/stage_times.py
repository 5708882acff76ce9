"""Times of a short trial run, from which a study's budget is turned into steps."""

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

WARMUP = 2
"""Steps that are not timed: memory is allocated and kernels are chosen."""


class StageTimes(L.Callback):
    """Ends training once `steps` steps or `seconds` have been timed, and writes `times.json` into the run's folder.

    Its entries, in seconds: `step`; `validation` and `test`, both for all images although a trial may be limited to
    some batches; `timed`, spent in steps, validations and test. And `steps_per_epoch`.
    """

    def __init__(self, steps: int = 20, seconds: float = 5):
        self.limit, self.seconds = steps, seconds
        self.steps: list[float] = []
        self.spent = {"train": 0.0, "validate": 0.0, "test": 0.0}
        self.factor = {"validate": 1.0, "test": 1.0}
        self.validations, self.steps_per_epoch = 0, 1
        self.began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps.append(now - self.began)
        self.spent["train"] += now - self.began
        self.began = now
        timed = self.steps[WARMUP:]
        if len(timed) >= self.limit or (len(timed) > 1 and sum(timed) > self.seconds):
            trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._add("validate", len(trainer.val_dataloaders or ()) / sum(trainer.num_val_batches))
        self.validations += 1

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._add("test", len(trainer.test_dataloaders or ()) / sum(trainer.num_test_batches))

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        timed, spent = self.steps[WARMUP:] or self.steps, self.spent
        values = {
            "step": sum(timed) / len(timed) * trainer.accumulate_grad_batches,
            "validation": spent["validate"] / max(self.validations, 1) * self.factor["validate"],
            "test": spent["test"] * self.factor["test"],
            "timed": sum(spent.values()),
            "steps_per_epoch": self.steps_per_epoch,
        }
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "times.json").write_text(json.dumps(values))

    def _add(self, stage: str, factor: float) -> None:
        self.spent[stage] += time.perf_counter() - self.began
        self.factor[stage] = factor

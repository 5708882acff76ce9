"""Measures images per second, the share of time spent waiting for data, and peak memory."""

import time
from typing import Any

import lightning as L
import torch

from segstudy.inspection.memory import peak_memory
from segstudy.ranges import Whole, checked


@checked
class Throughput(L.Callback):
    """Logs speed/images_per_second and speed/data_wait after each epoch; `figures` holds those of the whole run,
    over all its sessions.

    The first `warmup` batches are left out: they include memory allocation and the choice of kernels.
    """

    def __init__(self, warmup: Whole = 3):
        self.warmup = warmup
        self.figures: dict[str, float] = {}
        self.seen, self.images, self.busy, self.waited = 0, 0, 0.0, 0.0
        self.ended: float | None = None
        self.started = 0.0

    def skip_wait(self) -> None:
        """What has been done since the last step, such as drawing a picture, was not waiting for data."""
        self.ended = None

    def on_train_epoch_start(self, *_: Any) -> None:
        self.skip_wait()  # validation and pictures between epochs are not training time
        self.epoch = (self.images, self.busy + self.waited)

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Any, i: int) -> None:
        if module.device.type == "cuda" and self.seen == self.warmup - 1:
            torch.cuda.synchronize()  # else the queued warm-up would be counted
        now = time.perf_counter()
        self.seen += 1
        if self.seen > self.warmup:
            self.images += len(batch["image"]) * trainer.world_size
            self.busy += now - self.started
            if self.ended is not None:
                self.waited += self.started - self.ended
        self.ended = now

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if module.device.type == "cuda":
            before = time.perf_counter()
            torch.cuda.synchronize()  # steps were only queued
            self.busy += time.perf_counter() - before
        images, seconds = self.images - self.epoch[0], self.busy + self.waited - self.epoch[1]
        if images:
            wait = self.waited / (self.busy + self.waited)
            # Logged by the first process alone, so sync_dist has no effect; but Lightning warns without it.
            figures = {"speed/images_per_second": images / seconds, "speed/data_wait": wait}
            module.log_dict(figures, sync_dist=True, rank_zero_only=True)

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "busy": self.busy, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images, self.busy, self.waited = (state_dict[key] for key in ("images", "busy", "waited"))
        self._sum_up()  # a run that is continued after its last epoch does not train again

    def _sum_up(self) -> None:
        if self.images:
            total = self.busy + self.waited
            self.figures = {"images_per_second": self.images / total, "data_wait": self.waited / total}

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._sum_up()
        self.figures["peak_memory_gib"] = peak_memory(module.device)

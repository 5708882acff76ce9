"""Reproducible random numbers for layers that draw them in training, such as dropout."""

from typing import Any

import lightning as L
import torch

from segstudy.seeds import derive


class ReseedEachStep(L.Callback):
    """Seeds torch's generators at each step, so that a continued run draws the same numbers.

    Once per epoch is not enough: loaders draw from the same generator, and at other moments after a restart.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(derive(self.seed, "dropout", trainer.current_epoch, batch_idx, trainer.global_rank))

"""The random stream of the layers that draw while they train (dropout)."""

import lightning as L
import torch

from segstudy.seeds import derive


class Streams(L.Callback):
    """Starts torch's generators anew at each epoch, so that an epoch after a restart equals one without."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.manual_seed(derive(self.seed, "dropout", trainer.current_epoch, trainer.global_rank))

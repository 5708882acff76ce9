"""Freezing the encoder for the first epochs."""

from typing import Any

import lightning as L
from torch import nn

from segstudy.errors import ConfigError
from segstudy.ranges import CountOrAlways, checked


@checked
class FreezeEncoder(L.Callback):
    """Freezes the encoder's weights for the first `epochs` epochs, and its batch statistics for `batch_norm_epochs`.

    Frozen batch normalisation uses the running statistics of the pretraining. −1: frozen in all epochs.
    """

    def __init__(self, epochs: CountOrAlways = 1, batch_norm_epochs: CountOrAlways = -1):
        self.epochs, self.batch_norm_epochs = epochs, batch_norm_epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        encoder = self._encoder(pl_module)
        if trainer.world_size == 1:  # DDP lists trainable weights once: there, their gradients are removed instead
            encoder.requires_grad_(not self._is_frozen(self.epochs, trainer.current_epoch))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # At each batch, since a callback or an older Lightning may set the whole network back to training mode.
        frozen = self._is_frozen(self.batch_norm_epochs, trainer.current_epoch)
        for module in self._encoder(pl_module).modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(not frozen)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.world_size > 1 and self._is_frozen(self.epochs, trainer.current_epoch):
            for parameter in self._encoder(pl_module).parameters():
                parameter.grad = None

    @staticmethod
    def _encoder(module: L.LightningModule) -> nn.Module:
        encoder = getattr(module.network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise ConfigError("callbacks.freeze.enabled=true: this network has no part called encoder")
        return encoder

    @staticmethod
    def _is_frozen(epochs: int, epoch: int) -> bool:
        return epochs < 0 or epoch < epochs

"""The trained network's weights as a plain file."""

from pathlib import Path

import lightning as L
import torch

from segstudy.files import replacing


class StateDict(L.Callback):
    """Writes the tested network's `state_dict` to `checkpoints/<filename>`: torch.load(…, weights_only=True) reads it.

    It holds the names of the plain network's layers, without Lightning's.
    """

    def __init__(self, filename: str = "network.pth"):
        self.filename = filename

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "checkpoints" / self.filename
            with replacing(path) as partial:
                torch.save({k: v.cpu() for k, v in module.network.state_dict().items()}, partial)  # type: ignore[union-attr]

"""Writes the weights of the trained network to a plain file."""

from pathlib import Path

import lightning as L

from segstudy.files import atomic_write
from segstudy.ranges import Name, checked
from segstudy.runs.checkpoints import save_tensors


@checked
class StateDict(L.Callback):
    """Writes the tested network's `state_dict` to `checkpoints/<filename>`, for torch.load(…, weights_only=True).

    Its keys are those of the plain network, without Lightning's prefix.
    """

    def __init__(self, filename: Name = "network.pth"):
        self.filename = filename

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            state = {k: v.cpu() for k, v in module.network.state_dict().items()}  # type: ignore[union-attr]
            with atomic_write(Path(trainer.default_root_dir), f"checkpoints/{self.filename}", durable=True) as file:
                save_tensors(state, file)

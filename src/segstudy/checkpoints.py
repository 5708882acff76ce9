"""A run's checkpoints: a new one takes the place of the old one only when it is whole and on the disk."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from segstudy.errors import ConfigError, TrainingError, first_line
from segstudy.files import open_to_read, replacing


class RunCheckpointIO(TorchCheckpointIO):
    """Checkpoints of one run's folder, and of no other place.

    Lightning's own writes to the machine's temporary folder and copies from there over the earlier checkpoint where
    that is another disk: a process that is killed meanwhile leaves neither.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(self.folder, self._name(path), durable=True) as file:
            save_tensors(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Weights and plain values. Raises TrainingError for a file that is damaged or cannot be read."""
        try:
            with open_to_read(Path(path)) as file:
                return torch.load(file, map_location=map_location, weights_only=True)
        except OSError as error:
            raise TrainingError(f"the checkpoint to continue from cannot be read: {error}") from error
        except Exception as error:  # torch, zipfile and pickle each raise their own
            raise TrainingError(
                f"{path} cannot be continued from: {first_line(error)}\n"
                "  → remove it and give the same command again: training begins anew"
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove one file; a checkpoint can name another one as its predecessor, and may be a stranger's."""
        (self.folder / self._name(path)).unlink(missing_ok=True)

    def _name(self, path: Any) -> Path:
        """The path within the run's folder. Raises ConfigError for one that is not in it."""
        absolute = Path(os.path.abspath(path))
        try:
            return absolute.relative_to(os.path.abspath(self.folder))
        except ValueError:
            raise ConfigError(
                f"a checkpoint outside the run's folder is neither written nor removed\n"
                f"  expected: in {self.folder}\n  found:    {absolute}"
            ) from None


def save_tensors(values: Any, file: BinaryIO) -> None:
    """`torch.save`, with an OSError for a full disk: torch's own writer loses it."""
    held = io.BytesIO()
    torch.save(values, held)
    file.write(held.getbuffer())

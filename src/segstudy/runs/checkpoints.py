"""A run's checkpoints. A new one replaces the old one only after it is complete and on the disk."""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from segstudy.console import print_warning
from segstudy.errors import ConfigError, DamagedFile, WeightsError
from segstudy.files import atomic_write, check_zip, keep, open_to_read, reading, validate
from segstudy.networks.normalize import normalization_state, normalize_of
from segstudy.networks.weights import mismatches, read_state
from segstudy.runs.record import read_entries, record_beside


def weights_file(folder: Path, checkpoint: str) -> Path:
    """The file of a run's checkpoint, or of an exported run's weights (`segstudy export --format hub`).

    Raises ConfigError if the checkpoint is neither last nor best, so that a record cannot name any other file.
    """
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"{folder} names a checkpoint {str(checkpoint)[:80]!r}: must be last or best")
    file, exported = folder / "checkpoints" / f"{checkpoint}.ckpt", folder / "model.safetensors"
    return exported if exported.is_file() and not file.is_file() else file


class TrainingState(BaseModel):
    """The parts of a checkpoint that Lightning restores; what they hold is checked when it is used."""

    model_config = ConfigDict(extra="allow", strict=True, arbitrary_types_allowed=True)

    epoch: int = Field(ge=0)
    global_step: int = Field(ge=0)
    state_dict: dict[str, Any]
    loops: dict[str, Any] = {}
    callbacks: dict[str, Any] = {}
    optimizer_states: list[Any] = []
    lr_schedulers: list[Any] = []


EARLIER = "earlier.ckpt"
"""The checkpoint before `last.ckpt`, while a run is trained: a damaged one costs an epoch, not the training."""


def resume_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which the same command resumes an interrupted run; None for a run that begins.

    It holds weights, optimizer, schedule, epoch and the callbacks' state; order and augmentation follow from the epoch.
    Damaged ones are named and passed over.
    """
    for name in ("last.ckpt", EARLIER):
        file = folder / "checkpoints" / name
        try:
            read_checkpoint(file)
            return file
        except FileNotFoundError:
            continue
        except DamagedFile as error:
            earlier = name != EARLIER and (folder / "checkpoints" / EARLIER).is_file()
            todo = "an epoch earlier" if earlier else "from the beginning"
            print_warning(f"{error}\n  → training goes on {todo}", "bold red")
    return None


def read_checkpoint(file: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint of segstudy's own: tensors and plain values, whose checksums are verified. Raises DamagedFile."""
    with reading(file), open_to_read(file) as opened:
        with ZipFile(opened) as archive:
            check_zip(archive)  # torch does not look at the checksums
        opened.seek(0)
        values = torch.load(opened, map_location=map_location, weights_only=True)
        validate(TrainingState, values)
        return values


def start_from(network: nn.Module, place: Path) -> dict[str, Any]:
    """Load the weights at `place` into the network; returns their origin for the record.

    Raises ConfigError if there are none, or if they do not fit.
    """
    file, record = starting_file(place)
    load_state(network, file)
    if not set_normalization(network, record_beside(file)):
        raise ConfigError(
            f"start_from={place} was trained by an older version, in which the data normalised images; this network "
            "must normalise them, and does not\n"
            "  → segstudy.networks.normalize.Normalize as the network's first layer"
        )
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    entries = {key: record[key] for key in ("status", "epochs", "git", "encoder_weights", "metrics") if key in record}
    return {"file": str(file.resolve()), "sha256": digest} | entries


def starting_file(place: Path) -> tuple[Path, dict[str, Any]]:
    """The file of weights: a run folder's tested checkpoint, or `place` itself; and the run's record.

    Raises ConfigError if the file does not exist.
    """
    file, record = place, {}
    if place.is_dir():
        if not (place / "record.json").is_file():
            raise ConfigError(f"start_from={place} is not a run's folder: no file {place / 'record.json'}")
        record = read_entries(place)
        file = weights_file(place, record.get("checkpoint", "last"))
    if not file.is_file():
        raise ConfigError(f"start_from={place}: no file {file}\n  → a run's folder, a checkpoint, or a state dict")
    return file, record


def load_state(network: nn.Module, file: Path) -> None:
    """Load a checkpoint or a plain state dict, strictly. Raises ConfigError that lists what does not fit."""
    try:
        state = read_state(file)
    except WeightsError as error:
        raise ConfigError(str(error)) from error
    inner = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    state = normalization_state(network) | (inner or state)  # a checkpoint also holds the loss's weights
    if lines := mismatches(state, network.state_dict()):
        raise ConfigError(f"{file} does not fit this network:\n" + "\n".join(lines))
    network.load_state_dict(dict(state))


def set_normalization(network: nn.Module, record: Mapping[str, Any]) -> bool:
    """Set the network's mean and std from a run's record: checkpoints of older versions lack them.

    Returns False if the record has them and the network does not normalise: then the run's data normalised.
    """
    noted, normalize = record.get("normalisation"), normalize_of(network)
    if noted is None:
        return True
    if normalize is None:
        return False
    normalize.set(noted["mean"], noted["std"])
    return True


class RunCheckpointIO(TorchCheckpointIO):
    """Reads and writes the checkpoints of one run's folder, and no other files.

    Lightning's own class writes to the temporary folder first. If that is another disk, it then copies over the earlier
    checkpoint: a process that is killed meanwhile leaves neither.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        name = self._name(path)
        if name.name == "last.ckpt":
            keep(self.folder, name, name.with_name(EARLIER))
        with atomic_write(self.folder, name, durable=True) as file:
            save_tensors(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Load weights and plain values only. Raises DamagedFile."""
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove one file. A stranger's checkpoint can name any file as its predecessor, so the folder is checked."""
        (self.folder / self._name(path)).unlink(missing_ok=True)

    def _name(self, path: Any) -> Path:
        """The path relative to the run's folder. Raises ConfigError for a path outside it."""
        absolute = Path(os.path.abspath(path))
        try:
            return absolute.relative_to(os.path.abspath(self.folder))
        except ValueError:
            raise ConfigError(
                f"a checkpoint outside the run's folder is neither written nor removed\n"
                f"  expected: in {self.folder}\n  found:    {absolute}"
            ) from None


def save_tensors(values: Any, file: BinaryIO) -> None:
    """`torch.save` that raises OSError if the disk is full, which torch's own writer does not."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    file.write(buffer.getbuffer())

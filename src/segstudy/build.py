"""From the config to the parts: the map of the project, and the only place that knows all of them."""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import nn

from segstudy.callbacks.apart import Apart
from segstudy.callbacks.counts import ImageCounts
from segstudy.callbacks.final import Final
from segstudy.callbacks.guards import Terminable
from segstudy.callbacks.measures import Measures
from segstudy.callbacks.pictures import Pictures
from segstudy.callbacks.streams import Streams
from segstudy.checkpoints import RunCheckpointIO
from segstudy.config import locate, parameters, read_config
from segstudy.data.base import SegmentationData
from segstudy.device import RANK, choose_precision
from segstudy.entry import RANKS
from segstudy.errors import ConfigError, WeightsError
from segstudy.files import read_text, subfolder
from segstudy.losses import balanced_weights
from segstudy.module import SegmentationModule
from segstudy.networks.encoders import encoder_of, normalisation_of
from segstudy.networks.weights import expect, load_encoder_weights, misfits, read_state, record_beside
from segstudy.optim import constant, parameter_groups
from segstudy.record import read_record
from segstudy.seeds import initialise, stream


def build_data(cfg: DictConfig) -> SegmentationData:
    """The data set, prepared: files found, labels checked, caches written."""
    try:
        data = instantiate(cfg.data)
    except Exception as error:
        raise ConfigError(f"data: {_reason(error)}") from error
    with _one_at_a_time(data.cache_dir):
        data.prepare_data()
        data.setup()
    return data


@contextmanager
def _one_at_a_time(cache_dir: Path) -> Iterator[None]:
    """Of the processes that torchrun or SLURM start at once, one prepares the data (download, caches) on each machine;
    the others wait, and find it done."""
    if not any(name in os.environ for name in RANKS):
        yield
        return
    cache_dir.mkdir(parents=True, exist_ok=True)
    handle = os.open(cache_dir, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def build_network(cfg: DictConfig, num_classes: int, load_weights: bool = True) -> tuple[nn.Module, str]:
    """The network in its initial state, and where its encoder's weights came from."""
    try:
        with stream(cfg.seed, "build"):  # for the layers that initialise() cannot draw anew
            network = instantiate(cfg.network, num_classes=num_classes)
    except Exception as error:  # instantiate wraps what a constructor raises
        raise ConfigError(_reason(error)) from error
    initialise(network, cfg.seed)
    encoder = encoder_of(network)
    origin = load_encoder_weights(encoder) if load_weights and encoder is not None else "random"
    return network.to(memory_format=torch.channels_last), origin


def build_start(cfg: DictConfig, data: SegmentationData) -> tuple[nn.Module, str, dict[str, Any] | None]:
    """The network as a run of this config begins, where its weights came from, and what `start_from` gave, if set.

    The data is told the normalisation that the network expects.
    """
    network, origin = build_network(cfg, len(data.classes), load_weights=cfg.start_from is None)
    started = None
    if cfg.start_from is not None:
        started = start_from(network, Path(cfg.start_from))
        origin = f"start_from {Path(cfg.start_from).name}"
    tell_normalisation(data, network)
    return network, origin, started


def tell_normalisation(data: SegmentationData, network: nn.Module) -> None:
    """Mean and standard deviation belong to the encoder's weights: the network expects them, the data delivers."""
    data.mean, data.std = normalisation_of(network)


def build_module(cfg: DictConfig, network: nn.Module, data: SegmentationData) -> SegmentationModule:
    """The LightningModule around the network, with loss, optimizer and schedule."""
    loss_cfg = _with_weights(cfg.loss, data)
    try:
        loss = instantiate(loss_cfg, _convert_="all")
        # One pass of two pixels: a loss for two classes, or a list of weights of the wrong length, says so now.
        labels = torch.arange(2).view(1, 1, 2) % len(data.classes)
        loss(torch.zeros(1, len(data.classes), 1, 2, requires_grad=True), labels)
    except Exception as error:
        raise ConfigError(f"loss: {_reason(error)}") from error
    optimizer, schedule = instantiate(cfg.optim.optimizer), instantiate(cfg.schedule)
    try:  # both once, to see that their settings are valid
        schedule(optimizer(parameter_groups(network, cfg.optim.lr, cfg.optim.encoder_lr)), progress=lambda: 0.0)
    except Exception as error:
        raise ConfigError(f"optim or schedule: {_reason(error)}") from error
    return SegmentationModule(
        network,
        loss,
        data.classes,
        optimizer=optimizer,
        schedule=schedule,
        lr=cfg.optim.lr,
        encoder_lr=cfg.optim.encoder_lr,
        background=data.background,
        decay_norms=cfg.optim.get("decay_norms", True),  # a config from before this setting decayed all
    )


class EventFiles(TensorBoardLogger):
    """TensorBoard's event files alone: Lightning's `hparams.yaml` would repeat config.yaml, and follow a link."""

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


def build_trainer(cfg: DictConfig, folder: Path) -> tuple[L.Trainer, str]:
    """The trainer of a run folder, and the line that says which device and precision were chosen and why."""
    settings, reason = _trainer_settings(cfg)
    callbacks: list[Callback] = [Streams(cfg.seed), Terminable(), *run_callbacks(cfg)]
    for callback in callbacks:
        if hasattr(callback, "dirpath"):
            callback.dirpath = str(folder / "checkpoints")
    if RANK == 0:
        subfolder(folder, "tensorboard")
    # With a name of its own, so that no link waits for the file of the curves.
    curves = EventFiles(folder, name="", version="tensorboard", filename_suffix=f".{secrets.token_hex(8)}")
    further = _further_loggers(settings.pop("logger", None), folder)
    trainer = _trainer(
        settings,
        default_root_dir=str(folder),
        callbacks=callbacks,
        plugins=[*(settings.get("plugins") or []), RunCheckpointIO(folder)],
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
        logger=[curves, *further],
    )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if trainer.world_size != started and "LOCAL_RANK" in os.environ:
        raise ConfigError(
            f"{started} processes were started (torchrun), but the trainer is to have {trainer.world_size}\n"
            f"  → trainer=ddp trainer.devices=N, N on each machine (of {started} in all); or no torchrun"
        )
    return trainer, f"{settings['accelerator']}, {settings['precision']}: {reason}"


def _trainer(settings: dict[str, Any], **own: Any) -> L.Trainer:
    """Lightning's trainer. Raises ConfigError with its words for settings that do not go together or not here."""
    try:
        return instantiate(settings, **own)
    except Exception as error:
        raise ConfigError(f"trainer: {_reason(error)}") from error


def _further_loggers(given: Any, folder: Path) -> list[Logger]:
    """The loggers that `trainer.logger` adds to TensorBoard's; one that is told no folder writes into the run's."""
    parts = given if isinstance(given, list) else [given] if isinstance(given, dict) else []
    loggers = []
    for part in parts:
        if "save_dir" in parameters(locate(part["_target_"]))[0]:
            part = {"save_dir": str(folder)} | part
        try:
            loggers.append(instantiate(part))
        except Exception as error:
            raise ConfigError(f"trainer.logger: {_reason(error)}") from error
    return loggers


TESTING = (ImageCounts, Measures, Apart, Pictures, Final)
"""The callbacks that measure at a run's test, or write into its `test/`."""


def run_callbacks(cfg: DictConfig) -> list[Callback]:
    """What every run's test measures, and the callbacks that the config names."""
    callbacks: list[Callback] = [ImageCounts(), Measures(), Final()]
    for name, part in cfg.callbacks.items():
        if part.get("enabled", True):
            part = OmegaConf.masked_copy(part, [k for k in part if k != "enabled"])
            try:
                callbacks.append(instantiate(part))
            except Exception as error:
                raise ConfigError(f"callbacks.{name}: {_reason(error)}") from error
    # Last, since it ends the average's turn after a validation: what the others make of it is of the same network.
    return sorted(callbacks, key=lambda c: isinstance(c, WeightAveraging))


def testing_callbacks(cfg: DictConfig) -> list[Callback]:
    """Those of a run's callbacks that its test needs, for testing it again. Nothing else is built."""
    measuring = {k: p for k, p in cfg.callbacks.items() if issubclass(locate(p["_target_"]), TESTING)}  # type: ignore[arg-type]
    return run_callbacks(OmegaConf.create({"callbacks": measuring}))


class NoLoss(nn.Module):
    """0 of whatever: a test needs no loss."""

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return logits.new_zeros(())


def build_test_module(network: nn.Module, data: SegmentationData) -> SegmentationModule:
    """The LightningModule of a network that is only tested: no loss, optimizer or schedule is built."""
    return SegmentationModule(network, NoLoss(), data.classes, torch.optim.SGD, constant, background=data.background)


def build_tester(cfg: DictConfig, folder: Path, callbacks: Sequence[Callback]) -> L.Trainer:
    """A trainer that only tests; its callbacks write into `folder`."""
    quiet = {"logger": False, "enable_checkpointing": False}
    bar = any(isinstance(c, ProgressBar) for c in callbacks)
    settings = _trainer_settings(cfg)[0] | quiet
    return _trainer(settings, default_root_dir=str(folder), callbacks=list(callbacks), enable_progress_bar=bar)


def build_prober(cfg: DictConfig, folder: Path) -> L.Trainer:
    """A trainer that only tries steps: on one device, without validation, end, callbacks or checkpoints."""
    settings = _trainer_settings(cfg)[0] | {
        "default_root_dir": str(folder),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "max_epochs": -1,
        "max_time": None,
        "fast_dev_run": False,
        "check_val_every_n_epoch": 1_000_000_000,
        "devices": 1,  # the batch size and the rate's test are those of one
        "num_nodes": 1,
        "strategy": "auto",
        "sync_batchnorm": False,
    }
    return _trainer(settings)


def _trainer_settings(cfg: DictConfig) -> tuple[dict[str, Any], str]:
    """The trainer's settings with device and precision decided, and why."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    accelerator, precision, reason = choose_device(settings["accelerator"], settings["precision"])
    return settings | {"accelerator": accelerator, "precision": precision}, reason


def choose_device(accelerator: str, precision: str) -> tuple[str, str, str]:
    """(accelerator, precision, reason) with "auto" decided. Raises ConfigError if the asked device is not there."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = {"gpu": "cuda"}.get(accelerator, accelerator)
    if wanted == "auto":
        wanted = next(name for name, there in here.items() if there)
    if not here.get(wanted, False):
        found = ", ".join(name for name, there in here.items() if there)
        raise ConfigError(f"trainer.accelerator={accelerator}: not on this machine (found: {found}); try trainer=auto")
    if precision != "auto":
        return wanted, precision, "as asked"
    return wanted, *choose_precision(wanted)


def load_run(folder: Path, checkpoint: str | None = None) -> tuple[nn.Module, DictConfig]:
    """The network of a run folder in evaluation mode, and its config. Nothing is downloaded, nothing else is executed.

    checkpoint: last or best; None for the tested one. Raises ConfigError if the folder is no run's, or its network is
    something outside segstudy and its libraries. Of the config, no other group has been checked (see `read_config`).
    """
    cfg = read_config(folder)
    record = read_record(folder)
    file = weights_file(folder, checkpoint or record.get("checkpoint", "last"))
    if not file.is_file():
        raise ConfigError(f"{folder} has no checkpoint {file.stem!r}: no file {file}")
    network, _ = build_network(cfg, len(record["class_names"]), load_weights=False)
    load_state(network, file)
    if (encoder := encoder_of(network)) is not None:
        expect(encoder, record)
    return network.eval(), cfg


def weights_file(folder: Path, checkpoint: str) -> Path:
    """The file of a run's checkpoint, or of an exported run's weights (`segstudy export --format hub`).

    Raises ConfigError for a checkpoint that no run writes: a record's word leads to no other file.
    """
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"{folder} names a checkpoint {str(checkpoint)[:80]!r}: it is last or best")
    file, exported = folder / "checkpoints" / f"{checkpoint}.ckpt", folder / "model.safetensors"
    return exported if exported.is_file() and not file.is_file() else file


def start_from(network: nn.Module, place: Path) -> dict[str, Any]:
    """Give the network the weights at `place`, and return where they came from, for the record.

    Raises ConfigError if there are none, or they do not fit.
    """
    file, record = starting_file(place)
    load_state(network, file)
    if (encoder := encoder_of(network)) is not None:
        expect(encoder, record_beside(file))
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    told = {key: record[key] for key in ("status", "epochs", "git", "encoder_weights", "metrics") if key in record}
    return {"file": str(file.resolve()), "sha256": digest} | told


def starting_file(place: Path) -> tuple[Path, dict[str, Any]]:
    """The file of weights of a run's folder (its tested checkpoint), or `place` itself, and the run's record.

    Raises ConfigError if it is not there.
    """
    file, record = place, {}
    if place.is_dir():
        if not (place / "record.json").is_file():
            raise ConfigError(f"start_from={place} is not a run's folder: no file {place / 'record.json'}")
        record = json.loads(read_text(place / "record.json"))
        file = weights_file(place, record.get("checkpoint", "last"))
    if not file.is_file():
        raise ConfigError(f"start_from={place}: no file {file}\n  → a run's folder, a checkpoint, or a state dict")
    return file, record


def load_state(network: nn.Module, file: Path) -> None:
    """Weights of a checkpoint or of a plain state dict, strictly. Raises ConfigError that tells what does not fit."""
    try:
        state = read_state(file)
    except WeightsError as error:
        raise ConfigError(str(error)) from error
    inner = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    state = inner or state  # a checkpoint also holds the loss's weights
    if lines := misfits(state, network.state_dict()):
        raise ConfigError(f"{file} does not fit this network:\n" + "\n".join(lines))
    network.load_state_dict(dict(state))


def _with_weights(loss: DictConfig, data: SegmentationData) -> DictConfig:
    """A copy of the loss's config in which `class_weights: balanced` is the list from the data's counted pixels."""
    loss = DictConfig(OmegaConf.to_container(loss, resolve=True))

    def fill(node: Any) -> None:
        if isinstance(node, DictConfig):
            if node.get("class_weights") == "balanced":
                node.class_weights = balanced_weights(data.pixels().tolist())
            for child in node.values():
                fill(child)

    fill(loss)
    return loss


def _reason(error: BaseException) -> str:
    """The constructor's own words, without Hydra's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)

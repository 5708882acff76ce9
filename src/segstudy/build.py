"""From the config to the parts: the map of the project, and the only place that knows all of them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from segstudy.callbacks.extra_evaluation import ExtraEvaluation
from segstudy.callbacks.per_image_confusion import PerImageConfusion
from segstudy.callbacks.per_image_errors import PerImageErrors
from segstudy.callbacks.pictures import Pictures
from segstudy.callbacks.reseed_each_step import ReseedEachStep
from segstudy.callbacks.restore_signal_handlers import RestoreSignalHandlers
from segstudy.callbacks.test_diagnostics import TestDiagnostics
from segstudy.class_weights import balanced_weights
from segstudy.config.compose import apply_overrides, compose_config
from segstudy.config.overrides import check_overrides
from segstudy.config.targets import locate, parameters
from segstudy.data.datamodule import SegmentationData
from segstudy.errors import ConfigError, SegstudyError, WeightsError
from segstudy.files import folder_lock, subfolder
from segstudy.module import SegmentationModule
from segstudy.networks.encoders import encoder_of, without_weights
from segstudy.optim import constant, parameter_groups
from segstudy.precision import choose_device
from segstudy.ranks import RANK, RANKS
from segstudy.runs.checkpoints import RunCheckpointIO, set_normalization, start_from
from segstudy.runs.record import record_beside
from segstudy.seeds import initialise, stream


def build_data(cfg: DictConfig) -> SegmentationData:
    """The data set, prepared: files found, labels checked, caches written."""
    with _mistakes_in("data"):
        data = instantiate(cfg.data)
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
    with folder_lock(cache_dir):
        yield


def build_network(cfg: DictConfig, num_classes: int, load_weights: bool = True) -> tuple[nn.Module, str]:
    """The network in its initial state, and where its encoder's weights came from.

    Raises WeightsError for weights that cannot be loaded, and ConfigError for what a constructor refuses.
    """
    try:
        # The stream is for the layers that initialise() cannot draw anew.
        with stream(cfg.seed, "build"), nullcontext() if load_weights else without_weights():
            network = instantiate(cfg.network, num_classes=num_classes)
    except Exception as error:  # instantiate wraps what a constructor raises
        cause = _cause(error)
        raise (cause if isinstance(cause, WeightsError) else ConfigError(str(cause))) from error
    initialise(network, cfg.seed)
    encoder = encoder_of(network)
    if load_weights and encoder is not None and encoder.weights is not None:
        if encoder.weights_origin == "random":
            raise ConfigError(
                f"encoder.weights={encoder.weights}: {type(encoder).__name__} keeps it but did not load it\n"
                "  → end its constructor with self.load_weights(weights)"
            )
        if (file := Path(encoder.weights).expanduser()).is_file():
            set_normalization(network, record_beside(file))  # files of early runs hold no mean and std
    origins = (getattr(part, "weights_origin", "random") for part in network.modules())
    origin = next((each for each in origins if each != "random"), "random")
    return network.to(memory_format=torch.channels_last), origin


def build_start(cfg: DictConfig, data: SegmentationData) -> tuple[nn.Module, str, dict[str, Any] | None]:
    """The network as a run of this config begins, where its weights came from, and what `start_from` gave, if set."""
    network, origin = build_network(cfg, len(data.classes), load_weights=cfg.start_from is None)
    started = None
    if cfg.start_from is not None:
        started = start_from(network, Path(cfg.start_from))
        origin = f"start_from {Path(cfg.start_from).name}"
    return network, origin, started


def build_model(
    name: str, *settings: str, classes: Sequence[str], background: int | None = None, seed: int = 0
) -> SegmentationModule:
    """A named model (a file of conf/model), ready to train: network, loss, optimizer and schedule.

    settings: as on the command line: "encoder=resnet18", "loss=dice", "optim.lr=1e-4". classes: the data's;
    background: the one that is no object, if there is one. Raises ConfigError for a name or setting that is not there.
    """
    given = [f"model={name}", f"seed={seed}", *settings]
    cfg = compose_config(check_overrides(given))
    apply_overrides(cfg, given)
    network, _ = build_network(cfg, len(classes))
    return build_module(cfg, network, KnownClasses(classes, background))


@dataclass(frozen=True)
class KnownClasses:
    """What a module must know of its data."""

    classes: Sequence[str]
    background: int | None

    def pixels(self) -> np.ndarray:
        raise ConfigError("class_weights=balanced counts the pixels of the training images\n  → a list of weights")


def build_module(cfg: DictConfig, network: nn.Module, data: SegmentationData | KnownClasses) -> SegmentationModule:
    """The LightningModule around the network, with loss, optimizer and schedule."""
    loss_cfg = _with_weights(cfg.loss, data)
    with _mistakes_in("loss"):
        loss = instantiate(loss_cfg, _convert_="all")
        # One pass of two pixels: a loss for two classes, or a list of weights of the wrong length, says so now.
        labels = torch.arange(2).view(1, 1, 2) % len(data.classes)
        loss(torch.zeros(1, len(data.classes), 1, 2, requires_grad=True), labels)
    optimizer, schedule = instantiate(cfg.optim.optimizer), instantiate(cfg.schedule)
    with _mistakes_in("optim or schedule"):  # both once, to see that their settings are valid
        schedule(optimizer(parameter_groups(network, cfg.optim.lr, cfg.optim.encoder_lr)), progress=lambda: 0.0)
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


def build_trainer(cfg: DictConfig, folder: Path) -> tuple[L.Trainer, str]:
    """The trainer of a run folder, and the line that says which device and precision were chosen and why."""
    settings, reason = _trainer_settings(cfg)
    loggers = build_loggers(cfg, folder)
    callbacks: list[Callback] = [ReseedEachStep(cfg.seed), RestoreSignalHandlers(), *run_callbacks(cfg)]
    for callback in callbacks:
        if hasattr(callback, "dirpath"):
            callback.dirpath = str(folder / "checkpoints")
    trainer = _trainer(
        settings,
        default_root_dir=str(folder),
        callbacks=[c for c in callbacks if loggers or not isinstance(c, LearningRateMonitor)],  # it asks for a logger
        plugins=[*(settings.get("plugins") or []), RunCheckpointIO(folder)],
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
        logger=loggers,
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
    with _mistakes_in("trainer"):
        return instantiate(settings, **own)


def build_loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    """The loggers of the config. One that is given no `save_dir` writes into a subfolder of the run's, `<its key>/`."""
    parts: Any = OmegaConf.to_container(cfg.logger, resolve=True) if cfg.get("logger") else {}
    loggers = []
    for name, part in parts.items():
        if "save_dir" in parameters(locate(part["_target_"]))[0] and part.get("save_dir") is None:
            part["save_dir"] = str(subfolder(folder, name) if RANK == 0 else folder / name)
        unnamed = [key for key in ("name", "run_name") if key in part and part[key] is None]
        with _mistakes_in(f"logger.{name}"):
            loggers.append(instantiate(part | dict.fromkeys(unnamed, folder.name)))
    return loggers


TESTING = (PerImageConfusion, PerImageErrors, ExtraEvaluation, Pictures, TestDiagnostics)
"""The callbacks that measure at a run's test, or write into its `test/`."""


def run_callbacks(cfg: DictConfig) -> list[Callback]:
    """What every run's test measures, and the callbacks that the config names."""
    confusion = PerImageConfusion()
    callbacks: list[Callback] = [confusion, PerImageErrors(confusion), TestDiagnostics()]
    for name, part in cfg.callbacks.items():
        if part.get("enabled", True):
            part = OmegaConf.masked_copy(part, [k for k in part if k != "enabled"])
            with _mistakes_in(f"callbacks.{name}"):
                callbacks.append(instantiate(part))
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
    bar = any(isinstance(c, ProgressBar) for c in callbacks)
    settings = _trainer_settings(cfg)[0] | {"enable_checkpointing": False}
    return _trainer(settings, default_root_dir=str(folder), callbacks=list(callbacks), enable_progress_bar=bar)


def build_trial(cfg: DictConfig, folder: Path) -> tuple[SegmentationModule, SegmentationData, L.Trainer]:
    """Module and data as a run of this config begins, under a constant learning rate, and a trainer that only tries
    steps: on one device, without validation, end, callbacks or checkpoints."""
    data = build_data(cfg)
    module = build_module(cfg, build_start(cfg, data)[0], data)
    module.schedule = constant  # another one would ask for a validation, or for the budget's end
    settings = _trainer_settings(cfg)[0] | {
        "default_root_dir": str(folder),
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
    return module, data, _trainer(settings)


def _trainer_settings(cfg: DictConfig) -> tuple[dict[str, Any], str]:
    """The trainer's settings with device and precision decided, and why. (Earlier runs have a `logger` among them.)"""
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    accelerator, precision, reason = choose_device(settings["accelerator"], settings["precision"])
    return settings | {"accelerator": accelerator, "precision": precision, "logger": False}, reason


def _with_weights(loss: DictConfig, data: SegmentationData | KnownClasses) -> DictConfig:
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


@contextmanager
def _mistakes_in(place: str) -> Iterator[None]:
    """Make any error in here, of a constructor that refuses its settings, a ConfigError that names their place."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{place}: {_cause(error)}") from error


def _cause(error: BaseException) -> BaseException:
    """What a constructor raised, without Hydra's wrapping."""
    while error.__cause__ is not None and not isinstance(error, SegstudyError):
        error = error.__cause__
    return error

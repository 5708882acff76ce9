"""Builds the parts of a run (data, network, module, trainer) from its config."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from segstudy.callbacks.extra_evaluation import ExtraEvaluation
from segstudy.callbacks.max_steps import ValidateLastStep
from segstudy.callbacks.per_image_confusion import PerImageConfusion
from segstudy.callbacks.per_image_errors import PerImageErrors
from segstudy.callbacks.pictures import Pictures
from segstudy.callbacks.reseed_each_step import ReseedEachStep
from segstudy.callbacks.restore_signal_handlers import RestoreSignalHandlers
from segstudy.callbacks.test_diagnostics import TestDiagnostics
from segstudy.class_weights import balanced_weights
from segstudy.config.overrides import checked_config
from segstudy.config.targets import locate, parameters
from segstudy.data.bands import Bands
from segstudy.data.datamodule import SegmentationData
from segstudy.errors import ConfigError, SegstudyError, WeightsError
from segstudy.files import folder_lock, subfolder
from segstudy.inspection.trial import check_evaluates, check_trains
from segstudy.module import SegmentationModule, class_names
from segstudy.networks.encoders import encoder_of, without_weights
from segstudy.optim import constant, parameter_groups
from segstudy.precision import choose_device, describe_device
from segstudy.ranks import RANK
from segstudy.runs.checkpoints import RunCheckpointIO, set_normalization, start_from
from segstudy.runs.record import record_beside
from segstudy.seeds import initialise, stream


def refused_settings(cfg: DictConfig, found: Sequence[str] = ()) -> list[str]:
    """What constructors refuse although each setting is allowed for itself, such as data.max_side without
    data.fit=crop: a further check for `check`. Opens nothing; [] if other mistakes were found."""
    if found:
        return []
    mistakes: list[str] = []
    for build in (unprepared_data, run_callbacks, _try_network, _try_loss, _try_optimizer):
        try:
            build(cfg)
        except ConfigError as error:
            mistakes.append(str(error))
    return mistakes


def _try_network(cfg: DictConfig) -> None:
    network = _with_channels(cfg.network, Bands.of(cfg.data).number)
    if mistake := _mistake_of_network(OmegaConf.to_yaml(network, resolve=True)):
        raise ConfigError(mistake)


@cache
def _mistake_of_network(settings: str) -> str | None:
    try:
        with without_weights(), torch.device("meta"):  # without memory or initial weights
            instantiate(OmegaConf.create(settings), num_classes=2)
    except Exception as error:
        cause = _cause(error)  # other errors can come from the meta device
        return str(cause) if isinstance(cause, ConfigError | ValueError) else None
    return None


def _try_loss(cfg: DictConfig) -> None:
    with _mistakes_in("loss"):
        instantiate(_with_weights(cfg.loss, lambda: [1, 1]), _convert_="all")


def _try_optimizer(cfg: DictConfig) -> None:
    with _mistakes_in("optim or schedule"):
        optimizer = instantiate(cfg.optim.optimizer)([nn.Parameter(torch.zeros(1))], lr=cfg.optim.lr)
        instantiate(cfg.schedule)(optimizer, progress=lambda: 0.0)


def build_data(cfg: DictConfig) -> SegmentationData:
    """The data set, prepared: files located, labels checked, caches written.

    One process at a time prepares data (download, caches) on each machine: the others of a study, or of a training on
    several devices, wait and then find it prepared.
    """
    data = unprepared_data(cfg)
    with ExitStack() as stack:
        with suppress(OSError):  # the cache itself says what is wrong with its folder
            data.cache_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(folder_lock(data.cache_dir))
        data.prepare_data()
        data.setup()
    return data


def unprepared_data(cfg: DictConfig) -> SegmentationData:
    """The data set before its files are opened. Its paths may hold `${`: `instantiate` would interpolate them again."""
    settings = cfg.data.copy()
    with _mistakes_in("data"), open_dict(settings):
        paths = {key: settings.pop(key) for key in ("root", "about", "cache_dir") if key in settings}
        return instantiate(settings, _partial_=True)(**paths)


def build_network(
    cfg: DictConfig, num_classes: int, load_weights: bool = True, channels: int = 3
) -> tuple[nn.Module, str]:
    """The network in its initial state, and the origin of its encoder's weights. channels: of its image.

    Raises WeightsError if the weights cannot be loaded, and ConfigError if a constructor refuses its arguments.
    """
    try:
        # The random stream is for layers that initialise() cannot re-initialise.
        with stream(cfg.seed, "build"), nullcontext() if load_weights else without_weights():
            network = instantiate(_with_channels(cfg.network, channels), num_classes=num_classes)
    except Exception as error:  # instantiate wraps what a constructor raises
        cause = _cause(error)
        raise (cause if isinstance(cause, WeightsError) else ConfigError(str(cause))) from error
    initialise(network, cfg.seed)
    encoder = encoder_of(network)
    if load_weights and encoder is not None and encoder.weights is not None:
        if encoder.weights_origin == "random":
            raise ConfigError(
                f"encoder.weights={encoder.weights}: {type(encoder).__name__} did not load the weights\n"
                "  → end its constructor with self.load_weights(weights)"
            )
        if (file := Path(encoder.weights).expanduser()).is_file():
            set_normalization(network, record_beside(file))  # checkpoints of older versions hold no mean and std
    origins = (getattr(part, "weights_origin", "random") for part in network.modules())
    origin = next((each for each in origins if each != "random"), "random")
    return network.to(memory_format=torch.channels_last), origin


def _with_channels(network: DictConfig, channels: int) -> DictConfig:
    """A network's config with `in_channels` for it and its encoder. Raises ConfigError if one does not accept it."""
    if channels == 3:
        return network
    network = DictConfig(OmegaConf.to_container(network, resolve=True))
    for place, part in (("network", network), ("encoder", network.get("encoder"))):
        if part is None:
            continue
        known, more = parameters(locate(part._target_))
        if "in_channels" not in known and not more:
            raise ConfigError(
                f"{part._target_} has no argument in_channels, and the images have {channels} channels\n"
                f"  → add it to its constructor, or choose another {place}, or data.channels=[…] with three of them"
            )
        part.in_channels = channels
    return network


def build_start(cfg: DictConfig, data: SegmentationData) -> tuple[nn.Module, str, dict[str, Any] | None]:
    """The network at the start of training, the origin of its encoder's weights, and the record entry of `start_from`
    (None if not set)."""
    network, origin = build_network(cfg, len(data.classes), cfg.start_from is None, data.channels)
    started = None
    if cfg.start_from is not None:
        started = start_from(network, Path(cfg.start_from))
        origin = f"start_from {Path(cfg.start_from).name}"
    return network, origin, started


def build_model(
    name: str, *settings: str, classes: Sequence[str], background: int | None = None, seed: int = 0, channels: int = 3
) -> SegmentationModule:
    """A named model (a file of conf/model), ready to train: network, loss, optimizer and schedule.

    settings: as on the command line: "encoder=resnet18", "loss=dice", "optim.lr=1e-4". classes: names of the data's
    classes. background: number of the background class, if there is one. channels: of the images. Raises
    ConfigError for an unknown name or setting.
    """
    classes = class_names(classes)
    cfg = checked_config([f"model={name}", f"seed={seed}", *settings])
    network, _ = build_network(cfg, len(classes), channels=channels)
    return build_module(cfg, network, ClassInfo(classes, background))


@dataclass(frozen=True)
class ClassInfo:
    """The classes of a data set that has not been opened."""

    classes: Sequence[str]
    background: int | None

    def pixels(self) -> np.ndarray:
        raise ConfigError("class_weights=balanced counts the pixels of the training images\n  → a list of weights")


def build_module(cfg: DictConfig, network: nn.Module, data: SegmentationData | ClassInfo) -> SegmentationModule:
    """The LightningModule around the network, with loss, optimizer and schedule."""
    loss_cfg = _with_weights(cfg.loss, lambda: data.pixels().tolist())
    with _mistakes_in("loss"):
        loss = instantiate(loss_cfg, _convert_="all")
        # Try the loss on two pixels: one for two classes only, or class weights of the wrong length, fail here.
        labels = torch.arange(2).view(1, 1, 2) % len(data.classes)
        loss(torch.zeros(1, len(data.classes), 1, 2, requires_grad=True), labels)
    _require_background(loss, data)
    optimizer, schedule = instantiate(cfg.optim.optimizer), instantiate(cfg.schedule)
    with _mistakes_in("optim or schedule"):  # build both once, to check their settings
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
        decay_norms=cfg.optim.get("decay_norms", True),  # configs older than this setting decayed all weights
    )


def _require_background(loss: nn.Module, data: SegmentationData | ClassInfo) -> None:
    """Raise ConfigError if a loss treats class 0 as the background, and it is not."""
    if data.background == 0:
        return
    name = f"class 0 ({data.classes[0]!r})"
    mistakes: list[tuple[str, object, str, object]] = []
    for place, part in loss.named_modules(prefix="loss"):
        weight = getattr(part, "background_weight", 1)
        if weight != 1 and getattr(part, "class_weights", None) is None:
            mistakes.append((f"{place}.background_weight", weight, f"would weigh {name} by {weight}", 1))
        if getattr(part, "include_background", True) is False:
            mistakes.append((f"{place}.include_background", "false", f"would leave out {name}", "true"))
    if not mistakes:
        return
    found = "none" if data.background is None else f"class {data.background} ({data.classes[data.background]!r})"
    lines = [f"{key}={value} {effect}, which is not the background" for key, value, effect, _ in mistakes]
    raise ConfigError(
        "\n".join(lines) + f"\n  background of the data: {found}\n"
        "  → if class 0 is the background, say so: `background` in dataset.yaml, background=0 of build_model\n"
        f"  → else loss=ce, or {' '.join(f'{key}={neutral}' for key, *_, neutral in mistakes)}"
    )


def build_trainer(cfg: DictConfig, folder: Path) -> tuple[L.Trainer, str]:
    """The trainer of a run folder, and a line with the chosen device and precision and why."""
    settings, reason = _trainer_settings(cfg)
    loggers = build_loggers(cfg, folder)
    own = [ReseedEachStep(cfg.seed), ValidateLastStep(), RestoreSignalHandlers()]
    callbacks: list[Callback] = [*own, *run_callbacks(cfg)]
    for callback in callbacks:
        if hasattr(callback, "dirpath"):
            callback.dirpath = str(folder / "checkpoints")
    trainer = _trainer(
        settings,
        default_root_dir=str(folder),
        callbacks=[c for c in callbacks if loggers or not isinstance(c, LearningRateMonitor)],  # it needs a logger
        plugins=[*(settings.get("plugins") or []), RunCheckpointIO(folder)],
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
        logger=loggers,
    )
    if settings["accelerator"] == "cpu" and settings.get("sync_batchnorm"):
        raise ConfigError("trainer.sync_batchnorm=true works on GPUs only → trainer.sync_batchnorm=false")
    started = int(os.environ.get("WORLD_SIZE", 1))
    if trainer.world_size != started and "LOCAL_RANK" in os.environ:
        raise ConfigError(
            f"torchrun started {started} processes, but the trainer is set to {trainer.world_size}\n"
            f"  → trainer=ddp trainer.devices=N, N for each machine ({started} in all); or no torchrun"
        )
    return trainer, describe_device(settings["accelerator"], settings["precision"], reason)


def _trainer(settings: dict[str, Any], **own: Any) -> L.Trainer:
    """Lightning's trainer. Raises ConfigError with Lightning's message if it refuses the settings."""
    with _mistakes_in("trainer"):
        return instantiate(settings, **own)


def build_loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    """The loggers of the config. One without `save_dir` writes into the run folder's subfolder `<its key>/`."""
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
"""Callbacks that measure during a run's test, or write into its `test/`."""


def run_callbacks(cfg: DictConfig) -> list[Callback]:
    """The callbacks of every run, and those that the config names."""
    callbacks: list[Callback] = [PerImageConfusion(), TestDiagnostics()]
    if "per_image_errors" not in cfg.callbacks:  # in a run of an earlier version
        callbacks.append(PerImageErrors())
    for name, part in cfg.callbacks.items():
        if part.get("enabled", True):
            part = OmegaConf.masked_copy(part, [k for k in part if k != "enabled"])
            with _mistakes_in(f"callbacks.{name}"):
                callbacks.append(instantiate(part))
    # WeightAveraging is last: it puts the trained weights back after a validation, and the others must still see the
    # averaged ones.
    return sorted(callbacks, key=lambda c: isinstance(c, WeightAveraging))


def testing_callbacks(cfg: DictConfig) -> list[Callback]:
    """The callbacks that a run's test needs, for testing it again. Nothing else is built."""
    measuring = {k: p for k, p in cfg.callbacks.items() if issubclass(locate(p["_target_"]), TESTING)}  # type: ignore[arg-type]
    return run_callbacks(OmegaConf.create({"callbacks": measuring}))


class NoLoss(nn.Module):
    """Always 0: a test needs no loss."""

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


ONE_DEVICE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
"""Settings of a trainer that uses one device, whatever the config says."""


def build_trial(cfg: DictConfig, folder: Path) -> tuple[SegmentationModule, SegmentationData, L.Trainer]:
    """Module and data at the start of a run of this config, with a constant learning rate, and a trainer for trial
    steps: one device, no validation, no end, no callbacks, no checkpoints."""
    data = build_data(cfg)
    module = build_module(cfg, build_start(cfg, data)[0], data)
    module.schedule = constant  # other schedules need a validation, or the length of the training
    settings = _trainer_settings(cfg)[0] | {
        "default_root_dir": str(folder),
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "max_epochs": -1,
        "max_steps": -1,
        "max_time": None,
        "fast_dev_run": False,
        "check_val_every_n_epoch": 1_000_000_000,
        **ONE_DEVICE,  # batch size and learning rate are tried for one
    }
    trainer = _trainer(settings)
    require_trainable(cfg, module.network, data, trainer)
    return module, data, trainer


def require_trainable(cfg: DictConfig, network: nn.Module, data: SegmentationData, trainer: L.Trainer) -> None:
    """Raise ConfigError if the network cannot be trained or tested with the batches of this config."""
    batch = data.batch_size
    if cfg.trainer.get("sync_batchnorm") or cfg.callbacks.get("freeze", {}).get("enabled"):
        batch = max(2, batch)  # batch normalisation then never sees a single image
    seen = data.augment.smallest_size if data.augment is not None else lambda size: size
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    check_trains(network, batch, data.size, device, precision.forward_context(), seen)
    shapes = np.concatenate([images.shapes for images in data.roles.values()])
    smallest = {tuple(shapes[shapes[:, axis].argmin()].tolist()) for axis in (0, 1)} - {tuple(data.size)}
    check_evaluates(network, smallest, device)


def _trainer_settings(cfg: DictConfig) -> tuple[dict[str, Any], str]:
    """The trainer's settings with device and precision chosen, and why. Older configs hold a `logger` here."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    if cfg.get("budget") is not None:
        settings["min_steps"] = None  # max_steps has it in it; Lightning would not validate within the first epoch
    accelerator, precision, reason = choose_device(settings["accelerator"], settings["precision"])
    return settings | {"accelerator": accelerator, "precision": precision, "logger": False}, reason


def _with_weights(loss: DictConfig, pixels: Callable[[], Sequence[int]]) -> DictConfig:
    """A copy of the loss's config; `class_weights: balanced` becomes a list computed from the training pixels."""
    loss = DictConfig(OmegaConf.to_container(loss, resolve=True))

    def fill(node: Any) -> None:
        if isinstance(node, DictConfig):
            if node.get("class_weights") == "balanced":
                node.class_weights = balanced_weights(pixels())
            for child in node.values():
                fill(child)

    fill(loss)
    return loss


@contextmanager
def _mistakes_in(place: str) -> Iterator[None]:
    """Turn any error in the block into a ConfigError that names the place of the refused settings."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{place}: {_cause(error)}") from error


def _cause(error: BaseException) -> BaseException:
    """What a constructor raised, without Hydra's wrapping."""
    while error.__cause__ is not None and not isinstance(error, SegstudyError):
        error = error.__cause__
    return error

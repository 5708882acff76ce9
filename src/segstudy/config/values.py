"""Checks of values: of settings outside their range, and of settings that a run ignores."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from lightning.pytorch.strategies import StrategyRegistry
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from segstudy.config.compose import nested_keys
from segstudy.config.targets import settings_of
from segstudy.errors import first_line
from segstudy.formatting import parse_duration
from segstudy.ranges import (
    Allowed,
    Count,
    CountOrAlways,
    Fraction,
    Metric,
    Name,
    NotNegative,
    Positive,
    Probability,
    Text,
    Whole,
    allowed_for,
    rule,
    shown,
)

UNUSED = (
    (r"trainer\.logger", "logger=csv, logger=[tensorboard,csv], or +logger.NAME._target_=…"),
    (r"trainer\.callbacks", "callbacks.NAME._target_=…"),
    (r"trainer\.default_root_dir", "runs_dir=… study=…"),
    (r"trainer\.enable_progress_bar", "callbacks.progress.enabled=…"),
    (r"callbacks\.\w+\.dirpath", "runs_dir=… study=…: checkpoints are in the run's folder"),
    (r"network\.num_classes", "it follows from the data"),
    (r"bridge\.in_channels|decoder\.(channels|strides)|head\.(in_channels|outputs)", "it follows from the other parts"),
    (r"optim\.optimizer\.(params|lr)", "optim.lr=… optim.encoder_lr=…"),
    (r"schedule\.(optimizer|progress)", "optim.optimizer…"),
)
"""Arguments of constructors that the run sets itself: a pattern of settings, and what to set instead."""

PARTS = ("data", "network", "loss", "optim.optimizer", "schedule", "trainer")
"""What every run is built of."""

REQUIRED = ("seed", "study", "runs_dir", "checkpoint", "compile", "optim.lr", "optim.encoder_lr", "trainer.accelerator",
            "trainer.devices", "trainer.precision", "trainer.max_epochs", "trainer.max_steps")  # fmt: skip
"""Settings without a default in the code."""

LOGGER_PACKAGES = {"WandbLogger": ("wandb",), "MLFlowLogger": ("mlflow", "mlflow_skinny")}
"""Packages of Lightning's loggers; one of them must be installed. The first one names the extra that installs it."""


def _text_of(kind: str, holds: Callable[[str], Any]) -> Any:
    """The type of a text that must be of this kind, in words."""
    return Annotated[str, Field(description=kind), rule(holds, f"must be {kind}")]


Duration = _text_of("a time such as 90s, 8min, 2h or 1h30min", parse_duration)
Time = _text_of(
    "a time, DD:HH:MM:SS, above 0",
    lambda text: re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text) and int(text.replace(":", "")),
)
Limit = (
    Annotated[int, Field(ge=1, description="a number of batches, 1 or more")]
    | Annotated[float, Field(gt=0, le=1, description="a share above 0, at most 1.0")]
)
NoLimit = Annotated[int, Field(ge=-1, le=-1, description="-1")]
Devices = (
    Literal["auto"] | NoLimit | Annotated[int, Field(ge=1, le=1_024)] | Annotated[Sequence[Whole], Field(min_length=1)]
    | Annotated[str, Field(pattern=r"^\d{1,4}(,\d{1,4})*$", description="a text such as 0,1")]
)  # fmt: skip
PRECISIONS = Literal["auto", "bf16-mixed", "16-mixed", "32-true", "bf16", "16", "32"]
Monitored = {
    "mode": Literal["min", "max"], "patience": Whole, "min_delta": NotNegative,
    "save_top_k": CountOrAlways, "every_n_epochs": Count | None, "every_n_train_steps": Count | None,
}  # fmt: skip

SETTINGS = {
    key: Allowed(annotation)
    for key, annotation in {
        "seed": Whole,
        "study": Name,
        "runs_dir": Text,
        "checkpoint": Literal["last", "best"],
        "compile": bool,
        "budget": Duration | None,
        "start_from": Text | None,
        "optim.lr": NotNegative,
        "optim.encoder_lr": NotNegative | None,
        "optim.decay_norms": bool,
        "optim.optimizer.weight_decay": NotNegative,
        "optim.optimizer.momentum": Fraction,
        "optim.optimizer.dampening": Fraction,
        "optim.optimizer.betas": Annotated[Sequence[Fraction], Field(min_length=2, max_length=2)],
        "optim.optimizer.eps": NotNegative,
        "trainer.accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
        "trainer.devices": Devices,
        "trainer.num_nodes": Annotated[int, Field(ge=1, le=1_024)],
        "trainer.precision": PRECISIONS | Annotated[int, Field(ge=16, le=32, multiple_of=16, description="32")],
        "trainer.max_epochs": Count | NoLimit | None,
        "trainer.min_epochs": Whole | None,
        "trainer.max_steps": Count | NoLimit,
        "trainer.min_steps": Whole | None,
        "trainer.max_time": Time | Mapping[Literal["weeks", "days", "hours", "minutes", "seconds"], Positive] | None,
        "trainer.limit_train_batches": Limit | None,
        "trainer.limit_val_batches": Limit | None,
        "trainer.limit_test_batches": Limit | None,
        "trainer.overfit_batches": Whole | Probability,
        "trainer.val_check_interval": Limit | None,
        "trainer.check_val_every_n_epoch": Count | None,
        "trainer.num_sanity_val_steps": CountOrAlways | None,
        "trainer.log_every_n_steps": Whole | None,
        "trainer.accumulate_grad_batches": Count,
        "trainer.gradient_clip_val": NotNegative | None,
        "trainer.gradient_clip_algorithm": Literal["norm", "value"] | None,
        "trainer.fast_dev_run": bool | Whole,
        "trainer.reload_dataloaders_every_n_epochs": Whole,
        "trainer.profiler": Literal["simple", "advanced", "pytorch"] | None,
        "trainer.strategy": Annotated[
            Literal["auto", *StrategyRegistry.available_strategies()],
            Field(description="auto, ddp, fsdp or another strategy of Lightning"),
        ],
        **{f"callbacks.{name}.{key}": a for name in ("best", "last", "early_stopping") for key, a in Monitored.items()},
        "callbacks.best.monitor": Metric,
        "callbacks.early_stopping.monitor": Metric,
        "callbacks.last.monitor": Metric | None,
        "callbacks.best.filename": Literal["best"],
        "callbacks.last.filename": Literal["last"],
        "callbacks.ema.decay": Fraction,
        "callbacks.ema.update_every_n_steps": Count,
        "callbacks.ema.update_starting_at_step": Whole | None,
        "callbacks.ema.update_starting_at_epoch": Whole | None,
    }.items()
}
"""The allowed values of settings that no constructor of segstudy takes: of the top level and of other libraries."""


def mistaken_values(cfg: DictConfig) -> list[str]:
    """A line for each setting of SETTINGS whose value is not allowed, and for settings that exclude each other."""
    mistakes = []
    for key, allowed in SETTINGS.items():
        place, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, place)
        if isinstance(node, DictConfig) and name in node:
            mistakes += _mistakes_of(place, node, name, allowed)
        elif key in REQUIRED:
            mistakes.append(f"{key} is not set: add {key}=…")
    parts = {key: OmegaConf.select(cfg, key) for key in PARTS}
    mistakes += [_no_part(key, part) for key, part in parts.items() if not _is_part(part)]
    for key, part in ((f"callbacks.{name}", part) for name, part in cfg.callbacks.items()):
        if not _is_part(part):
            mistakes.append(f"{_no_part(key, part)}\n  → {key}.enabled=false turns it off")
    return mistakes or [*_endless(cfg), *_mistaken_budget(cfg), *_mistaken_loggers(cfg.get("logger"))]


def mistaken_arguments(place: str, node: DictConfig, thing: Callable[..., Any]) -> list[str]:
    """A line for each argument of a part that its constructor's annotation does not allow. Those in SETTINGS are
    checked by `mistaken_values`."""
    allowed = {name: allowed_for(parameter) for name, parameter in settings_of(place, thing)[0].items()}
    given = [name for name in allowed if f"{place}.{name}" not in SETTINGS]
    return [mistake for name in given for mistake in _mistakes_of(place, node, name, allowed[name])]


def _mistakes_of(place: str, node: DictConfig, name: str, allowed: Allowed) -> list[str]:
    """A line if the value of a setting is not allowed. Parts, which have a `_target_`, are checked for themselves."""
    if name not in node or OmegaConf.is_missing(node, name):
        return []
    key = f"{place}.{name}".lstrip(".")
    try:
        value = node[name]
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        return [f"{key}: {first_line(error)}"]
    if _has_parts(value):
        inner = value.items() if isinstance(value, dict) and not _is_part(value) else ()
        return [_no_part(f"{key}.{k}", part) for k, part in inner if part is not None and not _has_parts(part)]
    must = allowed.mistake(value)
    return [f"{key}={shown(value)}: {must}"] if must and not _is_mistaken_setting(node, name, value) else []


def _is_mistaken_setting(node: DictConfig, name: str, value: Any) -> bool:
    """Whether it is `${seed}` or the like, whose value is a mistake there too."""
    if not OmegaConf.is_interpolation(node, name):
        return False
    text = str(OmegaConf.to_container(node)[name])  # type: ignore[call-overload, index]
    return text[2:-1] in SETTINGS and SETTINGS[text[2:-1]].mistake(value) is not None


def _no_part(key: str, value: Any) -> str:
    return f"{key}={shown(value)}: must have a _target_"


def _is_part(value: Any) -> bool:
    return isinstance(value, dict | DictConfig) and "_target_" in value


def _has_parts(value: Any) -> bool:
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return _is_part(value) or any(map(_has_parts, inner))


def _endless(cfg: DictConfig) -> list[str]:
    """A line if nothing ends the training."""
    trainer = cfg.trainer
    limited = trainer.get("max_epochs") != -1 or trainer.get("max_steps", -1) != -1 or trainer.get("max_time")
    if limited or trainer.get("fast_dev_run") or cfg.get("budget"):
        return []
    return ["trainer.max_epochs=-1: the training has no end\n  → trainer.max_steps=N, or trainer.max_time=DD:HH:MM:SS"]


def _mistaken_budget(cfg: DictConfig) -> list[str]:
    """A line if the budget contradicts `trainer.max_time`."""
    budget = cfg.get("budget")
    if budget is not None and cfg.trainer.get("max_time") is not None:
        return [
            f"budget={budget} and trainer.max_time={cfg.trainer.max_time}: a budget gives all runs of a study equally "
            "many steps, a time does not\n  → leave out one of the two"
        ]
    return []


def _mistaken_loggers(loggers: Any) -> list[str]:
    """A line for each logger without a _target_, or whose package is not installed."""
    if loggers is None:
        return []
    if not isinstance(loggers, DictConfig):
        return [f"logger={loggers}: must be a file of conf/logger, or a list of them"]
    mistakes = []
    for name, part in ((str(key), part) for key, part in loggers.items()):
        if not _is_part(part):
            mistakes.append(f"{_no_part(f'logger.{name}', part)}\n  → +logger.NAME._target_=…")
            continue
        packages = LOGGER_PACKAGES.get(str(part["_target_"]).rpartition(".")[2], ())
        if packages and not any(map(find_spec, packages)):
            mistakes.append(f"logger.{name}: {packages[0]} is not installed\n  → pip install 'segstudy[{packages[0]}]'")
    return mistakes


def unused_settings(cfg: DictConfig) -> list[str]:
    """A line for each setting that a run does not use."""
    keys = [key for key in nested_keys(cfg) if not OmegaConf.is_missing(cfg, key)]
    return [
        f"{key} would have no effect: the run sets it itself\n  → {instead}"
        for key in keys
        for pattern, instead in UNUSED
        if re.fullmatch(pattern, key)
    ]

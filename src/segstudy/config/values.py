"""Checks of values: of the wrong type, of settings that no constructor checks, and of settings that a run ignores."""

import collections.abc
import inspect
import math
import re
from collections.abc import Callable
from importlib.util import find_spec
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

from segstudy.config.compose import nested_keys
from segstudy.config.targets import settings_of
from segstudy.errors import did_you_mean
from segstudy.formatting import parse_duration

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

LOGGER_PACKAGES = {"WandbLogger": ("wandb",), "MLFlowLogger": ("mlflow", "mlflow_skinny")}
"""Packages of Lightning's loggers; one of them must be installed. The first one names the extra that installs it."""


def mistaken_values(cfg: DictConfig) -> list[str]:
    """A line for each wrong value that no constructor checks: the top level, learning rates, loggers."""
    mistakes = [f"{key}={cfg[key]}: must be a folder's name" for key in ("study", "runs_dir") if cfg[key] in (None, "")]
    if not isinstance(cfg.compile, bool):
        mistakes.append(f"compile={cfg.compile}: must be true or false")
    if not isinstance(cfg.optim.get("decay_norms", False), bool):
        mistakes.append(f"optim.decay_norms={cfg.optim.decay_norms}: must be true or false")
    if cfg.checkpoint not in ("last", "best"):
        mistakes.append(
            f"checkpoint={cfg.checkpoint}: must be last or best{did_you_mean(str(cfg.checkpoint), ['last', 'best'])}"
        )
    if not isinstance(cfg.seed, int) or isinstance(cfg.seed, bool) or cfg.seed < 0:
        mistakes.append(f"seed={cfg.seed}: must be a whole number, 0 or more")
    for name, rate in (("lr", cfg.optim.get("lr")), ("encoder_lr", cfg.optim.get("encoder_lr") or 0)):
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < math.inf:
            mistakes.append(f"optim.{name}={rate}: must be a number, 0 or more")
    for name, part in cfg.callbacks.items():
        if not isinstance(part, DictConfig):
            mistakes.append(
                f"callbacks.{name}={part}: must have a _target_\n  → callbacks.{name}.enabled=false turns it off"
            )
    precision = str(cfg.trainer.get("precision"))
    if precision.endswith("-true") and precision != "32-true":
        mistakes.append(
            f"trainer.precision={precision}: images, loss and optimizer use float32\n"
            "  → trainer.precision=auto, bf16-mixed, 16-mixed or 32-true"
        )
    return mistakes + _mistaken_budget(cfg) + _mistaken_loggers(cfg.get("logger"))


def _mistaken_budget(cfg: DictConfig) -> list[str]:
    """A line if the budget is no time, or contradicts `trainer.max_time`."""
    budget = cfg.get("budget")
    if budget is None:
        return []
    if not isinstance(budget, str) or parse_duration(budget) is None:
        return [f"budget={budget}: must be a time such as 90s, 8min, 2h or 1h30min"]
    if cfg.trainer.get("max_time") is not None:
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
        if not isinstance(part, DictConfig) or "_target_" not in part:
            mistakes.append(f"logger.{name}={part}: must have a _target_\n  → +logger.NAME._target_=…")
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


def mistaken_kinds(place: str, node: DictConfig, thing: Callable[..., Any]) -> list[str]:
    """A line for each setting of the wrong type where the constructor expects a boolean or a number."""
    known, _ = settings_of(place, thing)
    given = [k for k in map(str, node) if k in known and not OmegaConf.is_missing(node, k)]
    given = [k for k in given if not OmegaConf.is_interpolation(node, k)]  # checked at the place it refers to
    allowed = {k: _not_a_boolean(known[k], node[k]) or _not_a_number(known[k], node[k]) for k in given}
    return [f"{place}.{k}={node[k]}: must be {values}" for k, values in allowed.items() if values]


def mistaken_nulls(place: str, node: DictConfig, thing: Callable[..., Any]) -> list[str]:
    """A line for each setting that is null where the constructor needs a number, a text or a list."""
    known, _ = settings_of(place, thing)
    null = [k for k in map(str, node) if k in known and not OmegaConf.is_missing(node, k) and node[k] is None]
    needed = {k: _needed_types(known[k].annotation) for k in null}
    return [f"{place}.{k}=null: must be {kinds}" for k, kinds in needed.items() if kinds]


def _not_a_boolean(parameter: inspect.Parameter, value: Any) -> str | None:
    """The allowed values of a boolean parameter if `value` is not among them; Hydra reads `no` as a string."""
    kinds = _types(parameter.annotation)
    if not (bool in kinds or isinstance(parameter.default, bool)):
        return None
    words = [k for k in kinds if isinstance(k, str)]
    others = [k for k in kinds if k not in (bool, NoneType, parameter.empty, *words)]
    nothing = value is None and (parameter.default is None or NoneType in kinds)
    if not {*others} <= {int, float, str}:  # objects are also accepted, such as Trainer's logger
        return None
    if isinstance(value, (bool, *others)) or nothing or value in words:
        return None
    return " or ".join(["true", "false", *words, *(k.__name__ for k in others)])


def _not_a_number(parameter: inspect.Parameter, value: Any) -> str | None:
    """The allowed types of a numeric parameter if `value` is another one, such as a fraction for a whole number."""
    kinds = _types(parameter.annotation)
    lists = [k for k in kinds if get_origin(k) is collections.abc.Sequence]
    if not {int, float} & {*kinds} or not {*kinds} - {*lists} <= {int, float, NoneType}:
        return None
    others = (str, bool, DictConfig, *([] if lists else [ListConfig]), *([] if float in kinds else [float]))
    if not isinstance(value, others):
        return None  # null is checked by `mistaken_nulls`
    number = "a number" if float in kinds else "a whole number"
    return number + " or a list of them" * bool(lists)


def _types(annotation: Any) -> list[Any]:
    """The types in an annotation, and the values of a Literal."""
    if isinstance(annotation, str):  # from a module with postponed annotations
        optional = re.sub(r"Optional\[(.*)\]", r"\1|None", annotation.replace(" ", "").replace("typing.", ""))
        names = {"bool": bool, "int": int, "float": float, "str": str, "None": NoneType}
        return [names.get(name, object) for name in optional.split("|")]
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _types(part)]
    return list(get_args(annotation)) if get_origin(annotation) is Literal else [annotation]


def _needed_types(annotation: Any) -> str:
    """The types of an annotation, if all are numbers, texts or lists; "" if it allows null or other types."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    simple = all(k in (int, float, str) or get_origin(k) is collections.abc.Sequence for k in kinds)
    return " or ".join(getattr(k, "__name__", str(k)) for k in kinds) if simple else ""

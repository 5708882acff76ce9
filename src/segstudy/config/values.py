"""Settings that no constructor checks, and settings that a run does not use."""

import math
import re
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segstudy.config.compose import nested_keys
from segstudy.errors import did_you_mean

UNUSED = (
    (r"trainer\.logger", "logger=csv, logger=[tensorboard,csv], or +logger.NAME._target_=…"),
    (r"trainer\.callbacks", "callbacks.NAME._target_=…"),
    (r"trainer\.default_root_dir", "runs_dir=… study=…"),
    (r"trainer\.enable_progress_bar", "callbacks.progress.enabled=…"),
    (r"callbacks\.\w+\.dirpath", "runs_dir=… study=…: checkpoints are in the run's folder"),
    (r"network\.num_classes", "the data says how many there are"),
    (r"bridge\.in_channels|decoder\.(channels|strides)|head\.(in_channels|outputs)", "the parts beside it say so"),
    (r"optim\.optimizer\.(params|lr)", "optim.lr=… optim.encoder_lr=…"),
    (r"schedule\.(optimizer|progress)", "optim.optimizer…"),
)
"""What constructors take but a run gives them itself: a pattern of settings, and what to set instead."""

LOGGER_PACKAGES = {"WandbLogger": ("wandb",), "MLFlowLogger": ("mlflow", "mlflow_skinny")}
"""The packages, one of which a logger of Lightning needs, and which come with an extra of that name."""


def mistaken_values(cfg: DictConfig) -> list[str]:
    """A line for each wrong value of a setting that no constructor takes: the top level, rates, loggers."""
    mistakes = []
    if not isinstance(cfg.compile, bool):
        mistakes.append(f"compile={cfg.compile}: it is true or false")
    if not isinstance(cfg.optim.get("decay_norms", False), bool):
        mistakes.append(f"optim.decay_norms={cfg.optim.decay_norms}: it is true or false")
    if cfg.checkpoint not in ("last", "best"):
        mistakes.append(
            f"checkpoint={cfg.checkpoint}: it is last or best{did_you_mean(str(cfg.checkpoint), ['last', 'best'])}"
        )
    if not isinstance(cfg.seed, int) or isinstance(cfg.seed, bool) or cfg.seed < 0:
        mistakes.append(f"seed={cfg.seed}: it is a whole number from 0 on")
    for name, rate in (("lr", cfg.optim.get("lr")), ("encoder_lr", cfg.optim.get("encoder_lr") or 0)):
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < math.inf:
            mistakes.append(f"optim.{name}={rate}: it is a number from 0 on")
    for name, part in cfg.callbacks.items():
        if not isinstance(part, DictConfig):
            mistakes.append(f"callbacks.{name}={part}: it is a part\n  → callbacks.{name}.enabled=false turns it off")
    return mistakes + _mistaken_loggers(cfg.get("logger"))


def _mistaken_loggers(loggers: Any) -> list[str]:
    """A line for each logger that is no part, or whose package is not installed."""
    if loggers is None:
        return []
    if not isinstance(loggers, DictConfig):
        return [f"logger={loggers}: it is a file of conf/logger, or a list of them"]
    mistakes = []
    for name, part in ((str(key), part) for key, part in loggers.items()):
        if not isinstance(part, DictConfig) or "_target_" not in part:
            mistakes.append(f"logger.{name}={part}: a logger has a _target_\n  → +logger.NAME._target_=…")
            continue
        packages = LOGGER_PACKAGES.get(str(part["_target_"]).rpartition(".")[2], ())
        if packages and not any(map(find_spec, packages)):
            mistakes.append(f"logger.{name}: {packages[0]} is not installed\n  → pip install 'segstudy[{packages[0]}]'")
    return mistakes


def unused_settings(cfg: DictConfig) -> list[str]:
    """A line for each setting that a run does not use."""
    keys = [key for key in nested_keys(cfg) if not OmegaConf.is_missing(cfg, key)]
    return [
        f"{key} would not be used: a run sets it itself\n  → {instead}"
        for key in keys
        for pattern, instead in UNUSED
        if re.fullmatch(pattern, key)
    ]

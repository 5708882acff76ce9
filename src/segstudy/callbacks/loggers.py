"""TensorBoard event files; final metrics and pictures for all loggers; errors in loggers."""

import secrets
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from segstudy.callbacks.diagnostic import report_failure


class EventFiles(TensorBoardLogger):
    """Writes TensorBoard's event files alone: Lightning's `hparams.yaml` would repeat config.yaml and follow links."""

    def __init__(self, save_dir: str):
        # A random suffix, so that nobody can have placed a link at the file's path.
        super().__init__(save_dir, name="", version="", filename_suffix=f".{secrets.token_hex(8)}")

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


def log_final_metrics(trainer: L.Trainer, step: int, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Log the settings of the run and its test metrics (as `final/<name>`) to each logger."""
    final = {f"final/{name}": value for name, value in metrics.items()}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):  # shows both in one table
            logger.log_hyperparams(dict(settings), final)
        else:
            logger.log_hyperparams(dict(settings))
            logger.log_metrics(final, step=step)
        logger.save()


def log_image(trainer: L.Trainer, name: str, image: np.ndarray) -> None:
    """Log a picture, uint8 (H,W,3), to each logger that supports it: TensorBoard, Weights & Biases, MLflow."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, image, f"{name}/step_{step:07d}.png")
        elif hasattr(logger, "log_image"):
            logger.log_image(name, [image], step=step)


def guard_loggers(trainer: L.Trainer, not_measured: dict[str, str]) -> None:
    """From now on, record errors of loggers in `not_measured` and go on: the run folder holds all results."""
    for logger in trainer.loggers:
        for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
            setattr(logger, name, _guarded(getattr(logger, name), type(logger).__name__, not_measured))


def _guarded(method: Any, logger: str, not_measured: dict[str, str]) -> Any:
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # each service raises its own types
            if logger not in not_measured:
                not_measured[logger] = report_failure(logger, error)

    return call

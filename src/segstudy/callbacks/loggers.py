"""TensorBoard's event files; final metrics and pictures for all loggers; loggers that fail."""

import secrets
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from segstudy.callbacks.diagnostic import report_failure


class EventFiles(TensorBoardLogger):
    """TensorBoard's event files alone: Lightning's `hparams.yaml` would repeat config.yaml, and follow a link."""

    def __init__(self, save_dir: str):
        # With a suffix of its own, so that no link waits for the file that is written.
        super().__init__(save_dir, name="", version="", filename_suffix=f".{secrets.token_hex(8)}")

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


def log_final_metrics(trainer: L.Trainer, step: int, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Give each logger the run's settings and its test's metrics, as `final/<name>`."""
    final = {f"final/{name}": value for name, value in metrics.items()}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):  # its table of settings has a column for each
            logger.log_hyperparams(dict(settings), final)
        else:
            logger.log_hyperparams(dict(settings))
            logger.log_metrics(final, step=step)
        logger.save()


def log_image(trainer: L.Trainer, name: str, image: np.ndarray) -> None:
    """Give a picture, uint8 (H,W,3), to each logger that takes pictures: TensorBoard, Weights & Biases, MLflow."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, image, f"{name}/step_{step:07d}.png")
        elif hasattr(logger, "log_image"):
            logger.log_image(name, [image], step=step)


def guard_loggers(trainer: L.Trainer, not_measured: dict[str, str]) -> None:
    """From here on, a logger's error is noted in `not_measured` and ends nothing: the run's folder has it all."""
    for logger in trainer.loggers:
        for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
            setattr(logger, name, _guarded(getattr(logger, name), type(logger).__name__, not_measured))


def _guarded(method: Any, logger: str, not_measured: dict[str, str]) -> Any:
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # each service raises its own
            if logger not in not_measured:
                not_measured[logger] = report_failure(logger, error)

    return call

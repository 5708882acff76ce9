"""Progress: a Rich bar in a terminal, and one printed line per epoch."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from segstudy.callbacks.max_steps import planned_epochs
from segstudy.console import SafeConsole, tell_study
from segstudy.formatting import format_duration, format_number


class Progress(RichProgressBar):
    """A Rich bar while an epoch runs (in a terminal only), and after each epoch a line with loss, mIoU and speed."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        if not sys.stdout.isatty():
            self.disable()
        self.lines = SafeConsole()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.began = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *rest: Any) -> None:
        super().on_train_batch_end(trainer, module, *rest)
        tell_study("step", trainer.global_step, trainer.estimated_stepping_batches)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        if trainer.is_global_zero:
            # While the bar is shown, only its own console can print above it.
            console = self.progress.console if self.progress is not None else self.lines
            console.print(self._line(trainer), highlight=False, soft_wrap=True)

    def get_metrics(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}{_of_all(self.trainer)}".ljust(len(self.validation_description))

    def _line(self, trainer: L.Trainer) -> str:
        def figure(name: str, digits: int = 3) -> str:
            value: Any = trainer.callback_metrics.get(name)
            return format_number(None if value is None else float(value), digits)

        return (
            f"epoch {trainer.current_epoch + 1}{_of_all(trainer)}  train loss {figure('train/loss')}  "
            f"val loss {figure('val/loss')}  val mIoU {figure('val/miou')}  accuracy {figure('val/pixel_accuracy')}  "
            f"{figure('speed/images_per_second', 1)} images/s  {format_duration(time.monotonic() - self.began)}"
        )


def _of_all(trainer: L.Trainer) -> str:
    epochs = planned_epochs(trainer)
    return "" if epochs is None else f"/{epochs}"

"""Checks the activations and gradients of every layer in one training batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from segstudy.callbacks.max_steps import planned_epochs
from segstudy.console import SafeConsole
from segstudy.files import subfolder
from segstudy.inspection.activations import LayerStatistics, Probe, print_table, sample, write_table
from segstudy.ranges import Whole, checked


@checked
class Inspector(L.Callback):
    """Inspects one training batch in the first epoch, in every `every`-th, and in the last (unless `max_time` ends it).

    It is the first batch that an optimizer step follows; the hooks only read, and are removed then. Gradients are those
    of the step: unscaled, before clipping. With accumulation they are of all its batches, activations of the last one.
    Writes `inspector/epoch_001.csv` and TensorBoard histograms, and prints the flagged layers. every=0: only the first
    and the last epoch.
    """

    def __init__(self, every: Whole = 10):
        self.every = every
        self.probe: Probe | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        stepping = min(trainer.accumulate_grad_batches, trainer.num_training_batches) - 1
        if batch_idx == stepping and trainer.is_global_zero and self._is_due(trainer):
            self.probe = Probe(module.network, histograms=True)  # type: ignore[arg-type]

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        if self.probe is None:
            return
        probe, self.probe = self.probe, None
        probe.remove()
        rows, epoch = probe.rows(), trainer.current_epoch + 1
        path = subfolder(Path(trainer.default_root_dir), "inspector") / f"epoch_{epoch:03d}.csv"
        write_table(rows, path)
        self._histograms(trainer, probe)
        self._print_flagged(trainer, rows, epoch, path)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if self.probe is not None:
            self.probe.remove()

    def _is_due(self, trainer: L.Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        return epoch in (1, planned_epochs(trainer)) or (self.every > 0 and epoch % self.every == 0)

    def _print_flagged(self, trainer: L.Trainer, rows: Sequence[LayerStatistics], epoch: int, path: Path) -> None:
        # While the progress bar is shown, only its own console can print above it.
        bar = getattr(trainer.progress_bar_callback, "progress", None)
        console = bar.console if bar is not None else SafeConsole()
        flagged = [row for row in rows if row.flagged]
        if flagged:
            print_table(flagged, f"epoch {epoch}: {len(flagged)} of {len(rows)} layers flagged", console)
            console.print(f"all layers: {path}", highlight=False, soft_wrap=True)
        else:
            console.print(f"inspector, epoch {epoch}: nothing flagged in {len(rows)} layers", highlight=False)

    def _histograms(self, trainer: L.Trainer, probe: Probe) -> None:
        gradients = {
            name: sample(layer.weight.grad)  # type: ignore[union-attr, arg-type]
            for name, layer in probe.layers.items()
            if getattr(getattr(layer, "weight", None), "grad", None) is not None
        }
        for kind, samples in (("activations", probe.samples), ("gradients", gradients)):
            for name, values in samples.items():
                values = values[values.isfinite()].cpu()
                for logger in trainer.loggers:
                    if isinstance(logger, TensorBoardLogger) and len(values):
                        logger.experiment.add_histogram(f"{kind}/{name}", values, trainer.global_step)

"""Learning curves of a run: a table, a picture, and TensorBoard's custom scalars."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from segstudy.callbacks.diagnostic import Diagnostic
from segstudy.drawing import save
from segstudy.errors import DamagedFile
from segstudy.files import atomic_write
from segstudy.metrics import defined_failures
from segstudy.runs.history import read_history, write_history

PANELS = {
    "loss": ("train/loss", "val/loss"),
    "mIoU": ("train/miou", "val/miou"),
    "pixel accuracy": ("train/pixel_accuracy", "val/pixel_accuracy"),
}


class History(Diagnostic):
    """Writes every logged metric of each epoch to `history.csv`, and at the end `pictures/curves.png`.

    A new run also writes TensorBoard's layout of custom scalars: which metrics share a chart.
    `seconds`: time since training began, with validation and pictures between epochs.
    A continued run adds to the same file and the same time. An epoch that is trained again replaces its row; its time
    before the interruption is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self.began: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Of a checkpoint: the file may be lost or damaged when the run is continued."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.rows:  # a checkpoint of an older version does not hold them
            with suppress(DamagedFile):  # of a run that begins again
                self.rows = read_history(_history_file(trainer))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.ckpt_path is None:
                logger.experiment.add_custom_scalars(custom_scalars_layout(len(module.classes), module.background))  # type: ignore[arg-type]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Not before: the epoch of a continued run is unknown until here.
        earlier = [row for row in self.rows if row["epoch"] <= trainer.current_epoch]
        spent = earlier[-1].get("seconds") if earlier else 0.0
        # The history of an older version has no seconds; those of the continued part alone would be wrong.
        self.began = None if spent is None else time.monotonic() - spent

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if "_step" not in k}
        if self.began is not None:
            figures["seconds"] = time.monotonic() - self.began
        self.rows = [r for r in self.rows if r["epoch"] < epoch] + [{"epoch": epoch} | figures]
        write_history(self.rows, _history_file(trainer))

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Also if the run was killed after its last epoch, and nothing was left to train."""
        if trainer.is_global_zero and len(self.rows) > 1:
            folder = Path(trainer.default_root_dir)
            write_history(self.rows, _history_file(trainer))
            with self.tolerate_errors("curves"), atomic_write(folder, "pictures/curves.png") as file:
                save(draw_curves(self.rows), file)


def custom_scalars_layout(num_classes: int, background: int | None) -> dict[str, dict[str, list[Any]]]:
    """Layout of custom scalars: training and validation share a chart; each failure mode has its own."""
    layout = {"learning": {title: ["Multiline", list(names)] for title, names in PANELS.items()}}
    if failures := defined_failures(num_classes, background):
        layout["failure modes"] = {name: ["Multiline", [f"val/{name}"]] for name in failures}
    return layout


def draw_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, mIoU and accuracy over the epochs: one panel each, with training and validation."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, colour in zip(names, ("#d98e2b", "#3f78b5"), strict=True):
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=name.split("/")[0])
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    return figure


def _history_file(trainer: Any) -> Path:
    return Path(trainer.default_root_dir) / "history.csv"

"""A second prediction at the test, measured beside the plain one."""

from typing import Any

import lightning as L
from torch import Tensor

from segstudy.callbacks.diagnostic import Diagnostic
from segstudy.metrics import Confusion, summary


class ExtraEvaluation(Diagnostic):
    """At the test, also measures what `probabilities` makes of each batch, at network size.

    Its figures are kept apart, as `metrics_<name>` of the record: a network is compared without them, and a run is done
    without them.
    """

    name: str

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, float] = {}

    def probabilities(
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        """(B,C,H,W) of a batch, whose plain logits are given."""
        raise NotImplementedError("a second prediction says how it is made")

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.counts = Confusion(len(module.classes)).to(module.device)  # type: ignore[arg-type]

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Tensor, batch: dict[str, Tensor], *_: Any
    ) -> None:
        if self.name in self.not_measured:
            return
        with self.spared(self.name):
            labels = self.probabilities(trainer, module, outputs, batch).argmax(1)
            self.counts.update(labels, batch["mask"])

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.gather_failures(trainer)
        if self.name not in self.not_measured:
            self.figures = summary(self.counts.compute())

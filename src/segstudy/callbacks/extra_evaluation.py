"""Base class of callbacks that evaluate a second prediction of each image, e.g. by test-time augmentation."""

from typing import Any

import lightning as L
from torch import Tensor

from segstudy.callbacks.diagnostic import Diagnostic
from segstudy.metrics import Confusion, summary


class ExtraEvaluation(Diagnostic):
    """Evaluates the predictions that `probabilities` returns for each batch, at network size.

    Optional. Stored in the record as `metrics_<name>`; never used to compare variants.
    """

    name: str

    def probabilities(
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        """Class probabilities (B,C,H,W) of a batch. logits: the plain prediction."""
        raise NotImplementedError("a subclass defines probabilities()")

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.counts = Confusion(len(module.classes)).to(module.device)  # type: ignore[arg-type]

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Tensor, batch: dict[str, Tensor], *_: Any
    ) -> None:
        if self.name in self.not_measured:
            return
        with self.tolerate_errors(self.name):
            labels = self.probabilities(trainer, module, outputs, batch).argmax(1)
            self.counts.update(labels, batch["mask"])

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.gather_failures(trainer)
        if self.name not in self.not_measured:
            self.entries[f"metrics_{self.name}"] = summary(self.counts.compute())

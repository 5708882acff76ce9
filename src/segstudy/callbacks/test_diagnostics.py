"""Metrics of the tested network on training images, and its receptive field."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from segstudy.callbacks.diagnostic import Diagnostic
from segstudy.callbacks.per_image_errors import middle
from segstudy.callbacks.training_metrics import metrics_on_training_images
from segstudy.data.datamodule import data_of
from segstudy.inspection.receptive_field import effective_receptive_field, field_side, receptive_fields


class TestDiagnostics(Diagnostic):
    """At the end of the test, fills two `entries` of the record: `metrics_fit` and `receptive_field`.

    metrics_fit: metrics on training images without augmentation, as many as test images, at most `images`; how far
    they exceed the test metrics shows the overfitting.
    receptive_field, in pixels at network size: `theoretical` (None: the whole image, or too large to measure),
    `without_pooling`, and `effective`: the side of the square that would hold 95 % of the gradient of the middle logit
    (mean over the middles, no larger than in training, of up to eight test images).
    """

    __test__ = False  # not a test class for pytest

    def __init__(self, images: int = 500):
        super().__init__()
        self.images = images
        self.middles: list[Tensor] = []

    def on_test_batch_start(  # type: ignore[override]
        self, trainer: L.Trainer, module: L.LightningModule, batch: dict[str, Tensor], batch_idx: int, *_: Any
    ) -> None:
        images = middle(batch["image"], data_of(trainer).size)
        wanted = max(1, min(8, 8 * 256**2 // images[0, 0].numel()))  # gradients take memory
        if not self.middles or images.shape[1:] == self.middles[0].shape:
            self.middles += images[: wanted - len(self.middles)].clone()

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        data = data_of(trainer)
        images = min(self.images, len(data.roles["fit"]), len(data.roles["report"]))
        with self.tolerate_errors("metrics_fit"):
            self.entries["metrics_fit"] = {"images": images} | metrics_on_training_images(trainer, module, images)
        if trainer.is_global_zero:
            with self.tolerate_errors("receptive_field"):
                self.entries["receptive_field"] = self._receptive_field(module)
        self.middles = []

    def _receptive_field(self, module: L.LightningModule) -> dict[str, float | None]:
        network: torch.nn.Module = module.network  # type: ignore[assignment]
        effective = field_side(effective_receptive_field(network, torch.stack(self.middles).float()))
        with torch.inference_mode(False), torch.enable_grad():
            height, width = self.middles[0].shape[1:]
            field = receptive_fields(network, (height, width), maps=False)[-1]
        return {"theoretical": field.extent, "without_pooling": field.local, "effective": effective}

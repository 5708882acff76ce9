"""Test-time augmentation, measured beside the plain test."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.metrics import Confusion, summary


class TestTimeAugmentation(L.Callback):
    """At the test, also predicts from the mean probability over views: sizes, and each of them mirrored.

    Its figures (at network size) are kept apart, as `metrics_tta` of the record: a network is compared without them.
    """

    __test__ = False  # no test, whatever pytest thinks of the name
    name = "tta"

    def __init__(self, flip: bool = True, scales: Sequence[float] = (1.0,)):
        if not scales or min(scales) <= 0:
            raise ValueError(f"callbacks.tta.scales is a list of factors above 0, not {list(scales)}")
        self.flip, self.scales = flip, list(scales)
        self.figures: dict[str, float] = {}

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.counts = Confusion(len(module.classes)).to(module.device)  # type: ignore[arg-type]

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Tensor, batch: dict[str, Tensor], *_: Any
    ) -> None:
        with trainer.precision_plugin.forward_context():
            probabilities = mean_over_views(module, batch["image"], self.scales, self.flip)
        self.counts.update(probabilities.argmax(1), batch["mask"])

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.figures = summary(self.counts.compute())


def mean_over_views(network: torch.nn.Module, image: Tensor, scales: Sequence[float], flip: bool) -> Tensor:
    """Mean probability float32 (B,C,H,W) of `network` over the image in each size, and mirrored if `flip`."""
    total, views = torch.zeros(()), 0
    for scale in scales:
        size = [max(1, round(side * scale)) for side in image.shape[2:]]
        scaled = image if scale == 1 else F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        for mirrored in (False, True)[: 1 + flip]:
            logits = network(scaled.flip(3)).flip(3) if mirrored else network(scaled)
            logits = F.interpolate(logits.float(), size=image.shape[2:], mode="bilinear", align_corners=False)
            total, views = total.to(logits.device) + logits.softmax(1), views + 1
    return total / views

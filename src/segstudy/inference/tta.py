"""Test-time augmentation, measured beside the plain test."""

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.callbacks.extra_evaluation import ExtraEvaluation


class TTAEvaluation(ExtraEvaluation):
    """At the test, also predicts from the mean probability over views: sizes, and each of them mirrored."""

    __test__ = False  # no test, whatever pytest thinks of the name
    name = "tta"

    def __init__(self, flip: bool = True, scales: Sequence[float] = (1.0,)):
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"callbacks.tta.scales is a list of factors above 0, not {list(scales)}")
        self.flip, self.scales = flip, list(scales)

    def probabilities(
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return mean_over_views(module, batch["image"], self.scales, self.flip)


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

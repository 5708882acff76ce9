"""Test-time augmentation: the mean probability over views of an image."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.callbacks.extra_evaluation import ExtraEvaluation
from segstudy.errors import ConfigError
from segstudy.ranges import Factors, checked


@dataclass(frozen=True)
class TestTimeAugmentation:
    """The views of an image: each scale (a factor of the size), and with `flip` also the mirror image of each."""

    __test__ = False  # for pytest: not a test, despite the name

    flip: bool
    scales: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, text: str) -> "TestTimeAugmentation":
        """From `flip`, factors, or both: flip,0.75,1,1.25. Raises ConfigError for anything else."""
        words = [w.strip() for w in text.split(",")]
        try:
            scales = tuple(float(w) for w in words if w != "flip")
        except ValueError:
            scales = (math.nan,)
        if not all(0 < s <= 16 for s in scales):
            raise ConfigError(
                f"--tta {text}: must be 'flip' and factors above 0, at most 16\n  → --tta flip,0.75,1,1.25"
            )
        return cls("flip" in words, scales or (1.0,))

    def mean_probability(self, network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """The network's probabilities, averaged over the views: float32 (B,C,H,W)."""
        total, views = torch.zeros(()), 0
        for scale in self.scales:
            size = [max(1, round(side * scale)) for side in image.shape[2:]]
            scaled = image if scale == 1 else F.interpolate(image, size=size, mode="bilinear", align_corners=False)
            for mirrored in (False, True)[: 1 + self.flip]:
                logits = network(scaled.flip(3)).flip(3) if mirrored else network(scaled)
                logits = F.interpolate(logits.float(), size=image.shape[2:], mode="bilinear", align_corners=False)
                total, views = total.to(logits.device) + logits.softmax(1), views + 1
        return total / views


@checked
class TTAEvaluation(ExtraEvaluation):
    """Extra evaluation of a run's test: probabilities averaged over views."""

    __test__ = False  # for pytest
    name = "tta"

    def __init__(self, flip: bool = True, scales: Factors = (1.0,)):
        super().__init__()
        self.views = TestTimeAugmentation(flip, tuple(scales))

    def probabilities(
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return self.views.mean_probability(module, batch["image"])

"""Boundary refinement by a CRF, measured beside the plain test."""

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor

from segstudy.callbacks.extra_evaluation import ExtraEvaluation
from segstudy.inference.crf import CRF, refine


class CRFEvaluation(ExtraEvaluation):
    """At the test, also refines each image's probabilities with a CRF over the image (`inference/crf.py`)."""

    name = "crf"

    def __init__(
        self,
        iterations: int = 5,
        radius: int = 5,
        appearance: float = 10.0,
        smoothness: float = 3.0,
        position: float = 80.0,
        colour: float = 13.0,
        near: float = 3.0,
    ):
        super().__init__()
        try:
            self.crf = CRF(iterations, radius, appearance, smoothness, position, colour, near)
        except ValueError as error:
            raise ValueError(f"callbacks.crf: {error}") from error

    def probabilities(
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        data = trainer.datamodule  # type: ignore[attr-defined]
        return refine(logits.float().softmax(1), as_pixels(batch["image"], data.mean, data.std), self.crf)


def as_pixels(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised float images (B,3,H,W) → the uint8 (B,H,W,3) that they were made from."""
    shift, scale = (image.new_tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return ((image * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

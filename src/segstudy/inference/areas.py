"""What a network says of one photo, in figures: each class's area and confidence, and where several networks differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segstudy.labels import scores_at


@dataclass(frozen=True)
class Area:
    """A class that occurs in a photo. label: its number; share: of the pixels; confidence: mean over them, in 0…1."""

    label: int
    name: str
    share: float
    confidence: float


def labels_and_confidence(scores: Tensor, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 (H,W) of logits (C,h,w), and the probability float32 (H,W) of each.

    The logits are interpolated (bilinear) if `shape` is another size, as in a run's test; the softmax comes after that.
    """
    scores = scores_at(scores, shape).float()
    best, labels = scores.max(0)
    confidence = (best - scores.logsumexp(0)).exp().clamp(max=1)  # rounding may lead a little above 1
    return labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy()


def areas(labels: np.ndarray, confidence: np.ndarray, classes: Sequence[str]) -> list[Area]:
    """The classes that occur in labels (H,W), the largest first; their shares sum to 1. confidence: float (H,W)."""
    pixels = np.bincount(labels.ravel(), minlength=len(classes))
    sums = np.bincount(labels.ravel(), weights=confidence.ravel(), minlength=len(classes))
    there = sorted(np.flatnonzero(pixels).tolist(), key=lambda c: -pixels[c])
    return [Area(c, classes[c], float(pixels[c] / labels.size), float(sums[c] / pixels[c])) for c in there]


def answers(labels: Sequence[np.ndarray]) -> np.ndarray:
    """How many different labels each pixel has among several predictions (H,W): int64 (H,W), 1 where all agree."""
    ordered = np.sort(np.stack(labels), axis=0)
    return 1 + (ordered[1:] != ordered[:-1]).sum(0)

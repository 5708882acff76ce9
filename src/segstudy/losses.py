"""Losses: `loss(logits, mask)` → a float32 scalar.

logits (B,C,H,W) of any float type; mask (B,H,W) in 0…C−1, or 255 for ignored pixels. All compute in float32 over the
pixels that are not ignored. If there are none, the loss is 0, with a gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.errors import ConfigError
from segstudy.labels import IGNORE
from segstudy.ranges import NOT_ALL_ZERO, Fraction, NotNegative, Positive, PositiveShare, Probability, Weights, checked

Balanced = Literal["balanced"]
"""Computed from the class frequencies of the data."""


class Loss(nn.Module):
    """Base class: calls `compute` with the pixels that are not ignored: logits (N,C) float32 and labels (N,), N ≥ 1."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        # Autocast would turn a dot product back into half precision, where sums over 512² pixels overflow.
        with torch.autocast(logits.device.type, enabled=False):
            counted = mask != IGNORE
            pixels = logits.permute(0, 2, 3, 1)[counted].float()
            if len(pixels) == 0:
                return pixels.sum()  # 0, still connected to the network
            return self.compute(pixels, mask[counted])

    def compute(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError("a loss defines compute(logits (N,C), labels (N,))")


@checked
class CrossEntropy(Loss):
    """Cross-entropy: weighted mean over the pixels that are not ignored.

    class_weights: C numbers, None, or (in a config) "balanced": computed from the class frequencies of the data.
    background_weight: weight of class 0 if class_weights is None.
    """

    def __init__(
        self,
        class_weights: Weights | Balanced | None = None,
        background_weight: NotNegative = 1.0,
        label_smoothing: Fraction = 0.0,
    ):
        super().__init__()
        self.class_weights = _listed(class_weights)
        self.background_weight, self.label_smoothing = background_weight, label_smoothing

    def compute(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = _weights(self.class_weights, self.background_weight, logits)
        if weight is not None and not weight[labels].any():
            return 0 * logits.sum()  # all classes of the batch have weight 0: torch would divide 0 by 0
        # PyTorch's own mean of millions of pixels takes a sixth of a step of ResNet-34's U-Net on a GPU.
        each = F.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=self.label_smoothing)
        return each.mean() if weight is None else each.sum() / weight[labels].sum()


@checked
class Focal(Loss):
    """Mean of (1 − p)^gamma · cross-entropy over the pixels that are not ignored; p: probability of the true class.

    Source: Lin et al. 2017, equation 4; with class_weights equation 5, where weights are not normalised either.
    """

    def __init__(self, gamma: NotNegative = 2.0, class_weights: Weights | Balanced | None = None):
        super().__init__()
        self.gamma = gamma
        self.class_weights = _listed(class_weights)

    def compute(self, logits: Tensor, labels: Tensor) -> Tensor:
        nll = F.cross_entropy(logits, labels, reduction="none")
        # Clamped: with gamma below 1 the slope at p = 1 is infinite, and 0 · ∞ is NaN.
        focal = (-torch.expm1(-nll)).clamp(min=1e-7) ** self.gamma * nll
        weight = _weights(self.class_weights, 1.0, logits)
        return (focal if weight is None else focal * weight[labels]).mean()


@checked
class OHEM(Loss):
    """Mean cross-entropy of the pixels whose true class has p < threshold, but of at least the hardest `min_kept`.

    min_kept: a share of the pixels. Source: Shrivastava et al. 2016, in the per-pixel variant common in segmentation.
    """

    def __init__(self, threshold: PositiveShare = 0.7, min_kept: Probability = 0.1):
        super().__init__()
        self.threshold, self.min_kept = threshold, min_kept

    def compute(self, logits: Tensor, labels: Tensor) -> Tensor:
        nll = F.cross_entropy(logits, labels, reduction="none")
        least = max(1, int(self.min_kept * len(nll)))
        hard = nll[torch.exp(-nll.detach()) < self.threshold]
        return (hard if len(hard) >= least else nll.topk(least).values).mean()


@checked
class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of two classes, on the logit of class 1 minus that of class 0; mean over the pixels.

    pos_weight: weight of the pixels of class 1. Raises ValueError for any other number of classes.
    """

    def __init__(self, pos_weight: Positive = 1.0):
        super().__init__()
        self.pos_weight = pos_weight

    def compute(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[1] != 2:
            raise ValueError(f"loss=bce needs two classes, the data has {logits.shape[1]}; use loss=ce")
        weight = logits.new_tensor(self.pos_weight)
        return F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], labels.float(), pos_weight=weight)


@checked
class Tversky(Loss):
    """1 − (TP + s) / (TP + alpha·FP + beta·FN + s) of soft counts over the batch, averaged over the classes present.

    smooth: s. Classes without truth in the batch are left out: counted as 0, they would make the mean over 150 classes
    very small. Source: Salehi et al. 2017, equation 3.
    """

    def __init__(
        self,
        alpha: NotNegative = 0.5,
        beta: NotNegative = 0.5,
        include_background: bool = True,
        smooth: NotNegative = 0.0,
    ):
        super().__init__()
        if alpha == beta == 0:
            raise ConfigError("alpha and beta must not both be 0: the loss would not depend on the network")
        self.alpha, self.beta = alpha, beta
        self.include_background, self.smooth = include_background, smooth

    def compute(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        probabilities = logits.softmax(1)
        of_truth = probabilities.gather(1, labels[:, None])[:, 0]
        # 1024 partial sums: a single float32 sum is wrong by 0.3 % at 512² pixels, and by more at larger sizes.
        parts = torch.arange(len(labels), device=logits.device) % 1024 * classes + labels
        tp = of_truth.new_zeros(1024 * classes).index_add(0, parts, of_truth).view(1024, classes).sum(0)
        truth = torch.bincount(labels, minlength=classes).float()
        fp, fn = probabilities.sum(0) - tp, truth - tp
        present = truth > 0
        if not self.include_background:
            present[0] = False
        score = (tp + self.smooth) / (tp + self.alpha * fp + self.beta * fn + self.smooth).clamp(min=1e-7)
        return ((1 - score) * present).sum() / present.sum().clamp(min=1)


@checked
class Dice(Tversky):
    """1 − soft Dice over the batch, averaged over the classes present; in [0, 1].

    smooth is added to numerator and denominator of 2·TP / (P + T).
    Source: Milletari et al. 2016 (V-Net), section 3, without the squares in the denominator.
    """

    def __init__(self, include_background: bool = True, smooth: NotNegative = 0.0):
        super().__init__(0.5, 0.5, include_background, smooth / 2)


@checked
class Jaccard(Tversky):
    """1 − soft IoU over the batch, averaged over the classes present; in [0, 1]."""

    def __init__(self, include_background: bool = True, smooth: NotNegative = 0.0):
        super().__init__(1.0, 1.0, include_background, smooth)


@checked
class Lovasz(Loss):
    """Lovász-softmax: the convex surrogate of 1 − IoU over the batch, averaged over the classes present.

    Source: Berman et al. 2018, algorithm 1.
    """

    def __init__(self, include_background: bool = True):
        super().__init__()
        self.include_background = include_background

    def compute(self, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities = logits.softmax(1)
        losses = [0 * logits.sum()]
        for c in labels.unique().tolist():
            if c == 0 and not self.include_background:
                continue
            truth = labels == c
            errors, order = (truth.float() - probabilities[:, c]).abs().sort(descending=True)
            losses.append((errors * _lovasz_gradient(truth[order])).sum())  # a dot product is less accurate
        return torch.stack(losses).sum() / max(1, len(losses) - 1)


@checked
class WeightedSum(nn.Module):
    """Σ weights[name] · terms[name]; the terms are any losses. Raises ValueError if the names differ."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Annotated[Mapping[str, NotNegative], NOT_ALL_ZERO]):
        super().__init__()
        if set(terms) != set(weights):
            raise ValueError(f"loss.terms has {sorted(terms)}, loss.weights has {sorted(weights)}: use equal names")
        self.terms, self.weights = nn.ModuleDict(terms), dict(weights)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return torch.stack([self.weights[name] * term(logits, mask) for name, term in self.terms.items()]).sum()


def _listed(class_weights: Sequence[float] | Balanced | None) -> list[float] | None:
    if class_weights == "balanced":
        raise ConfigError(
            "class_weights=balanced is for configs\n  → from Python: segstudy.class_weights.balanced_weights(pixels)"
        )
    return None if class_weights is None else list(class_weights)


def _weights(class_weights: list[float] | None, background: float, logits: Tensor) -> Tensor | None:
    classes = logits.shape[1]
    if class_weights is None:
        if background == 1:
            return None
        class_weights = [background] + [1.0] * (classes - 1)
    if len(class_weights) != classes:
        raise ValueError(f"loss.class_weights has {len(class_weights)} entries, the data has {classes} classes")
    return logits.new_tensor(class_weights)


def _lovasz_gradient(truth: Tensor) -> Tensor:
    """How much each pixel raises the Jaccard loss, added in the order of the errors: bool (N,) → (N,), ≥ 0.

    From counts: a pixel of the class lowers the intersection I by 1, and the loss 1 − I/U grows by 1/U; any other pixel
    raises the union U by 1, and the loss grows by I / (U·(U − 1)). Computed as a difference of two nearly equal float32
    ratios, it would be 0 for a fifth of 16·256² pixels.
    """
    positives = truth.cumsum(0, dtype=torch.int32)
    intersection = positives[-1] - positives
    union = (torch.arange(1, len(truth) + 1, dtype=torch.int32, device=truth.device) + intersection).float()
    return torch.where(truth, 1, intersection / (union - 1).clamp_(min=1)) / union

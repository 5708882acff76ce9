"""Operating curve: error counts of a network for different offsets of its background logit.

A loss with a small weight on background moves a network along this curve, without making it better or worse. So missed
and hallucinated pixels are also compared at equal spill: with both networks set to the same false-positive rate on
background.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segstudy.labels import IGNORE
from segstudy.measures.error_categories import (
    BACKGROUND,
    CATEGORIES,
    CONFUSED,
    FOREGROUND,
    FOREIGN,
    GHOST,
    MISSED,
    OVERSHOOT,
)
from segstudy.measures.stored_rows import divide
from segstudy.measures.top_two import TopTwo, top_two

OFFSETS = (-4.0, -2.3, -1.0, 0.0, 1.0, 2.3, 4.0)
"""Added to the background logit; 2.3 = ln 10 gives background ten times the weight."""

BINS = 800
"""Number of bins of margins. Compared with sorted pixels, missed at equal spill is exact to .003 (16,000 pixels), for
logits with a spread from .01 to 5,000; interpolation between the seven offsets would be wrong by up to .01."""

HALF = 0.01 * np.sinh(np.linspace(0, np.arcsinh(1e7), BINS // 2 + 1))

EDGES = np.concatenate([-HALF[:0:-1], HALF]).astype(np.float32)
"""Limits of the bins (BINS + 1), to ±100,000: uniform in the inverse hyperbolic sine; .0004 wide at 0, 4 % of a large
margin."""

MARGIN_CATEGORIES = ("foreground", "confused", "foreign", "overshoot", "ghost")
"""Error categories of pixels that are not predicted as background."""


def offset_sums(
    logits: Tensor, mask: Tensor, background: int | None, present: np.ndarray | None = None, top: TopTwo | None = None
) -> dict[str, np.ndarray]:
    """Counts of one image at each of OFFSETS, int32; {} without a background.

    `offset_cells` (7,7): pixels by offset and error category (`error_categories.CATEGORIES`); `offset_hit`,
    `offset_predicted` (7,C): true positives and predicted pixels; `offset_truth` (C,); `offset_margins` (BINS,5):
    pixels by margin (best other logit − background logit) and MARGIN_CATEGORIES.
    logits (C,H,W) of any float type; mask (H,W) in 0…C−1 or 255; present: classes in the image (None: those of mask);
    top: `top_two` of the logits, if the caller has it.
    At offset 0 the labels are those of argmax, ties included. With two classes, offset o means the threshold
    p(foreground) > 1/(1 + e^−o).
    """
    if background is None:
        return {}
    best, margin = _best(logits, background, top or top_two(logits))
    counted = (mask != IGNORE).flatten().nonzero()[:, 0]
    labels, best, margin = (t.flatten()[counted] for t in (mask, best, margin))
    limits, edges = (torch.as_tensor(x, dtype=torch.float32, device=margin.device) for x in (OFFSETS, EDGES))
    joint = _joint(labels, best, torch.bucketize(margin, limits), len(logits))
    as_background = np.cumsum(joint, 0)[:-1]  # (offset, truth, best): pixels predicted as background …
    kept = joint.sum(0) - as_background  # … and as the best other class
    truth = joint.sum((0, 2))
    lost = as_background.sum(2)
    true_positives = kept.diagonal(axis1=1, axis2=2).copy()
    true_positives[:, background] = lost[:, background]
    predicted = kept.sum(1)
    predicted[:, background] = lost.sum(1)
    in_image = truth > 0 if present is None else np.isin(np.arange(len(truth)), present)
    others = np.arange(len(truth)) != background
    categories = np.empty((len(OFFSETS), 7), np.int64)
    categories[:, BACKGROUND] = lost[:, background]
    categories[:, FOREGROUND] = true_positives[:, others].sum(1)
    categories[:, MISSED] = lost[:, others].sum(1)
    categories[:, CONFUSED] = kept[:, others][:, :, in_image].sum((1, 2)) - categories[:, FOREGROUND]
    categories[:, FOREIGN] = kept[:, others][:, :, ~in_image].sum((1, 2))
    categories[:, OVERSHOOT] = kept[:, background, in_image].sum(1)
    categories[:, GHOST] = kept[:, background, ~in_image].sum(1)
    margins = _by_category(labels, best, (torch.bucketize(margin, edges) - 1).clamp(0, BINS - 1), background, in_image)
    sums = {"cells": categories, "hit": true_positives, "predicted": predicted, "truth": truth, "margins": margins}
    return {f"offset_{name}": value.astype(np.int32) for name, value in sums.items()}


def _best(logits: Tensor, background: int, top: TopTwo) -> tuple[Tensor, Tensor]:
    """The best class other than background, and its margin: its logit − the background logit. Both (H,W).

    A pixel is background if its margin ≤ the offset. With equal logits argmax takes the first class, so a class before
    the background must win ties: its margin is raised to the next larger number.
    """
    lost = top.label == background
    best = torch.where(lost, top.runner_up, top.label)
    margin = torch.where(lost, top.second, top.highest) - logits[background].float()
    if background == 0:
        return best, margin
    return best, torch.where(best < background, margin.nextafter(torch.full_like(margin, torch.inf)), margin)


def _joint(labels: Tensor, best: Tensor, above: Tensor, classes: int) -> np.ndarray:
    """Pixels by the number of offsets at which they stay foreground, by truth, and by best class: int64 (8,C,C).

    Only the background logit changes, so one pass serves all offsets.
    """
    shape = (len(OFFSETS) + 1, classes, classes)
    code = (above * classes + labels) * classes + best
    return np.bincount(code.cpu().numpy(), minlength=int(np.prod(shape))).reshape(shape)


def _by_category(labels: Tensor, best: Tensor, bins: Tensor, background: int, in_image: np.ndarray) -> np.ndarray:
    """Pixels by bin of their margin and by category if predicted as `best`: int64 (BINS, 5)."""
    absent = (~torch.as_tensor(in_image, device=best.device)[best]).long()
    category = torch.where(labels == background, 3 + absent, torch.where(labels == best, 0, 1 + absent))
    code = (bins * len(MARGIN_CATEGORIES) + category).cpu().numpy()
    return np.bincount(code, minlength=BINS * len(MARGIN_CATEGORIES)).reshape(BINS, len(MARGIN_CATEGORIES))


def curve(
    sums: Mapping[str, np.ndarray], supported: np.ndarray | None = None
) -> list[tuple[float, float, float, float, float]]:
    """Rows (offset, missed, spilled, hallucinated, mIoU) from the sums of `offset_sums` over all images; [] without.

    supported (C,): bool, the classes of the mIoU; None: all with truth. NaN when the denominator is 0, and for
    hallucinated with two classes, where no foreign class exists.
    """
    if "offset_cells" not in sums:
        return []
    missed, spilled, hallucinated = _shares(sums["offset_cells"], len(sums["offset_truth"]))
    true_positives, truth = sums["offset_hit"].astype(float), sums["offset_truth"].astype(float)
    kept = (truth > 0) if supported is None else supported & (truth > 0)
    iou = true_positives[:, kept] / (truth + sums["offset_predicted"] - true_positives)[:, kept]
    miou = iou.mean(1) if kept.any() else np.full(len(iou), np.nan)
    rows = np.stack([OFFSETS, missed, spilled, hallucinated, miou], 1)
    return [(float(o), float(m), float(s), float(h), float(i)) for o, m, s, h, i in rows]


def _shares(categories: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares: missed of foreground, spilled of background, hallucinated of all; (offsets,) each, NaN for 0/0."""
    categories = categories.astype(float)
    object_ = categories[:, [FOREGROUND, MISSED, CONFUSED, FOREIGN]].sum(1)
    ground = categories[:, [BACKGROUND, OVERSHOOT, GHOST]].sum(1)
    spill, absent = categories[:, OVERSHOOT] + categories[:, GHOST], categories[:, FOREIGN] + categories[:, GHOST]
    whole = object_ + ground if classes > 2 else np.zeros_like(ground)
    return divide(categories[:, MISSED], object_), divide(spill, ground), divide(absent, whole)


@dataclass(frozen=True)
class EqualSpill:
    """Missed and hallucinated of two variants when both spill the same share of the background.

    offset: added to variant a's background logit to reach the spill of b, which is unchanged. NaN: without background.
    """

    spill: float
    offset: float
    missed_a: float
    missed_b: float
    hallucinated_a: float
    hallucinated_b: float


def at_equal_spill(margins_a: np.ndarray, margins_b: np.ndarray, classes: int) -> EqualSpill:
    """Shift variant a's background logit until it spills as much as b, from `offset_margins` (BINS, 5) of all images.

    Shares are interpolated within a bin. If several offsets give that spill, the one nearest to 0 is taken.
    """
    missed, spilled, hallucinated = _along_edges(margins_a, classes)
    at_0 = [float(share[BINS // 2]) for share in _along_edges(margins_b, classes)]
    spill = at_0[1]
    enough, little = np.flatnonzero(spilled >= spill), np.flatnonzero(spilled <= spill)  # spill falls along the edges
    if not (len(enough) and len(little)):
        return EqualSpill(spill, math.nan, math.nan, at_0[0], math.nan, at_0[2])
    before, after = enough[-1], little[0]
    part = 0.0
    if before < after:
        part = (spilled[before] - spill) / (spilled[before] - spilled[after])
    else:
        before = after = after + int(np.abs(EDGES[after : before + 1]).argmin())
    offset, missed_a, hallucinated_a = (
        float(y[before] + part * (y[after] - y[before])) for y in (EDGES, missed, hallucinated)
    )
    return EqualSpill(spill, offset, missed_a, at_0[0], hallucinated_a, at_0[2])


def _along_edges(margins: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Missed, spilled and hallucinated (BINS + 1,) with each of EDGES as offset: from no to all pixels background."""
    as_background = np.concatenate([np.zeros((1, len(MARGIN_CATEGORIES))), np.cumsum(margins, 0)])
    kept = as_background[-1] - as_background
    categories = np.empty((len(as_background), len(CATEGORIES)))
    categories[:, [FOREGROUND, CONFUSED, FOREIGN, OVERSHOOT, GHOST]] = kept
    categories[:, MISSED], categories[:, BACKGROUND] = as_background[:, :3].sum(1), as_background[:, 3:].sum(1)
    return _shares(categories, classes)

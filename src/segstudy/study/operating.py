"""Where a network stands between timid and bold: its counts when the background's logit is raised or lowered.

A loss that weighs the background down moves a network along this curve without making it better or worse, so missed
and hallucinated pixels of two networks are compared at equal spill too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segstudy.losses import IGNORE
from segstudy.study.failures import CELLS

OFFSETS = (-4.0, -2.3, -1.0, 0.0, 1.0, 2.3, 4.0)
"""Added to the background's logit; 2.3 is ln 10: a background weighed ten times as much."""
BACKGROUND, FOREGROUND, MISSED, CONFUSED, FOREIGN, OVERSHOOT, GHOST = range(len(CELLS))


def offset_sums(logits: Tensor, mask: Tensor, background: int | None) -> dict[str, np.ndarray]:
    """Counts of one image at each of OFFSETS: `offset_cells` (7 offsets, 7 cells) in the order of `failures.CELLS`,
    `offset_hit` and `offset_predicted` (7,C) by class, and `offset_truth` (C,), the same for all; int32.

    logits (C,H,W) of any float type; mask (H,W) in 0…C−1 or 255. Empty without a background. At 0 the labels are those
    of the argmax, with its rule for ties. With two classes the offset is the threshold: p(foreground) > 1/(1 + e^−o).
    """
    if background is None:
        return {}
    joint = _joint(logits, mask, background)
    given_up = np.cumsum(joint, 0)[:-1]  # (offset, truth, best): called background …
    kept = joint.sum(0) - given_up  # … and called the best other class
    truth = joint.sum((0, 2))
    lost = given_up.sum(2)
    hit = kept.diagonal(axis1=1, axis2=2).copy()
    hit[:, background] = lost[:, background]
    predicted = kept.sum(1)
    predicted[:, background] = lost.sum(1)
    there = truth > 0
    others = np.arange(len(truth)) != background
    cells = np.empty((len(OFFSETS), 7), np.int64)
    cells[:, BACKGROUND] = lost[:, background]
    cells[:, FOREGROUND] = hit[:, others].sum(1)
    cells[:, MISSED] = lost[:, others].sum(1)
    cells[:, CONFUSED] = kept[:, others][:, :, there].sum((1, 2)) - cells[:, FOREGROUND]
    cells[:, FOREIGN] = kept[:, others][:, :, ~there].sum((1, 2))
    cells[:, OVERSHOOT] = kept[:, background, there].sum(1)
    cells[:, GHOST] = kept[:, background, ~there].sum(1)
    sums = {"cells": cells, "hit": hit, "predicted": predicted, "truth": truth}
    return {f"offset_{name}": value.astype(np.int32) for name, value in sums.items()}


def _joint(logits: Tensor, mask: Tensor, background: int) -> np.ndarray:
    """Counted pixels by the number of offsets at which they stay foreground, truth, and best class but background:
    int64 (8,C,C). Only the background's logit changes, so one pass serves all offsets."""
    classes = len(logits)
    others = logits.float().index_fill(0, torch.tensor([background], device=logits.device), -torch.inf)
    highest, best = others.max(0)
    margin = highest - logits[background].float()
    offsets = torch.tensor(OFFSETS, device=logits.device)
    # Of two equal logits the argmax takes the first class: a tie is foreground only where that comes before.
    above = torch.where(
        best < background, torch.bucketize(margin, offsets, right=True), torch.bucketize(margin, offsets)
    )
    code = (above * classes + mask.clamp(max=classes - 1)) * classes + best
    chosen = code[mask != IGNORE].cpu().numpy()
    shape = (len(OFFSETS) + 1, classes, classes)
    return np.bincount(chosen, minlength=int(np.prod(shape))).reshape(shape)


def curve(
    sums: Mapping[str, np.ndarray], supported: np.ndarray | None = None
) -> list[tuple[float, float, float, float, float]]:
    """Rows (offset, missed, spilled, hallucinated, mIoU) from the sums of `offset_sums` over all images; none without.

    supported (C,): bool, the classes of the mIoU; None: all with truth. A share of nothing is NaN, and so is
    hallucinated with two classes: there is no third one.
    """
    if "offset_cells" not in sums:
        return []
    missed, spilled, hallucinated = _shares(sums["offset_cells"], len(sums["offset_truth"]))
    hit, truth = sums["offset_hit"].astype(float), sums["offset_truth"].astype(float)
    kept = (truth > 0) if supported is None else supported & (truth > 0)
    iou = hit[:, kept] / (truth + sums["offset_predicted"] - hit)[:, kept]
    miou = iou.mean(1) if kept.any() else np.full(len(iou), np.nan)
    rows = np.stack([OFFSETS, missed, spilled, hallucinated, miou], 1)
    return [(float(o), float(m), float(s), float(h), float(i)) for o, m, s, h, i in rows]


def _shares(cells: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Missed of the foreground, spilled of the background, hallucinated of all: (offsets,) each, NaN of nothing."""
    cells = cells.astype(float)
    object_ = cells[:, [FOREGROUND, MISSED, CONFUSED, FOREIGN]].sum(1)
    ground = cells[:, [BACKGROUND, OVERSHOOT, GHOST]].sum(1)
    spill, absent = cells[:, OVERSHOOT] + cells[:, GHOST], cells[:, FOREIGN] + cells[:, GHOST]
    whole = object_ + ground if classes > 2 else np.zeros_like(ground)
    return _ratio(cells[:, MISSED], object_), _ratio(spill, ground), _ratio(absent, whole)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)


@dataclass(frozen=True)
class EqualSpill:
    """Missed and hallucinated of two variants where both spill the same share of the background.

    offset: what variant a's background logit needs for that; b is as it was trained. NaN: not within a's curve.
    """

    spill: float
    offset: float
    missed_a: float
    missed_b: float
    hallucinated_a: float
    hallucinated_b: float


def at_equal_spill(sums_a: Mapping[str, np.ndarray], sums_b: Mapping[str, np.ndarray]) -> EqualSpill:
    """Variant a brought to the spill that b has at offset 0, from the sums of `offset_sums` over all images.

    Between a's offsets the shares are interpolated on a logit scale, on which such curves are nearly straight.
    """
    (_, missed_b, spill, hallucinated_b, _) = curve(sums_b)[OFFSETS.index(0.0)]
    offsets, missed, spilled, hallucinated, _ = np.array(curve(sums_a)).T
    # Spill falls along the offsets; interpolation wants it rising.
    offset, missed_a, hallucinated_a = (
        _between(spill, spilled[::-1], values[::-1], share)
        for values, share in ((offsets, False), (missed, True), (hallucinated, True))
    )
    return EqualSpill(spill, offset, missed_a, missed_b, hallucinated_a, hallucinated_b)


def _between(at: float, x: np.ndarray, y: np.ndarray, share: bool) -> float:
    """y where x, which rises, is `at`; NaN out of x's range. share: whether y is a share too."""
    if not x[0] <= at <= x[-1]:
        return float("nan")
    if share:
        return float(_from_logit(np.interp(_logit(at), _logit(x), _logit(y))))
    return float(np.interp(_logit(at), _logit(x), y))


def _logit(share: np.ndarray | float) -> np.ndarray:
    """ln(p / (1 − p)), for p within 10⁻⁹…1 − 10⁻⁹."""
    inside = np.clip(share, 1e-9, 1 - 1e-9)
    return np.log(inside / (1 - inside))


def _from_logit(value: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(value)))

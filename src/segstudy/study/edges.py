"""How well edges are drawn: bands and contours of each class, blocks of the decoder's grid, roughness."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segstudy.losses import IGNORE

BAND = 0.02
"""Of the diagonal: width of Boundary IoU's band (Cheng et al. 2021) and of the "edge" of confidence figures."""
TOLERANCE = 0.0075
"""Of the diagonal: how far a contour may be off for boundary F (Csurka et al. 2013)."""
FILLED = 5
"""Pixels: so near to a counted pixel, 255 takes its nearest label before contours are drawn."""
STEPS = (2, 4, 8)
"""The grids that blockiness looks for: a decoder's steps."""


class Filled(NamedTuple):
    """A truth whose 255 took the nearest label up to 5 pixels away: labels (H,W), where there is one now (H,W), and the
    summed distance and number of the pixels that were filled."""

    labels: np.ndarray
    drawn: np.ndarray
    distance: float
    pixels: int


def edge_sums(labels: np.ndarray, truth: Filled, background: int | None) -> dict[str, np.ndarray]:
    """Sums of one image for boundary F, roughness and blockiness, at the size of the labels (H,W)."""
    sums = contour_sums(truth.labels, labels, truth.drawn, background)
    sums["void_distance"], sums["void_pixels"] = np.array(truth.distance), np.array(truth.pixels)
    true, predicted = changes(truth.labels, truth.drawn), changes(labels, truth.drawn)
    sums["cracks"] = np.array(sum(int(c.sum()) for c in predicted))
    sums["true_cracks"] = np.array(sum(int(c.sum()) for c in true))
    sums["phases"] = phases(predicted)
    sums["changes"] = np.array([int(c.sum()) for c in predicted])
    return sums


def band_sums(truth: np.ndarray, copied: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Boundary IoU's intersection and union, pixels of each class: int64 (C,).

    The band of a mask: its pixels within 2 % of the diagonal of one that is not in it, or of the frame, by steps to
    any of eight neighbours. Source: Cheng et al., CVPR 2021.
    """
    reach = max(1, round(BAND * float(np.hypot(*truth.shape))))
    both, either = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for c in np.union1d(np.unique(truth), np.unique(copied)):
        if c != IGNORE:
            a, b = band(truth == c, reach), band(copied == c, reach)
            both[c], either[c] = (a & b).sum(), (a | b).sum()
    return {"band_both": both, "band_either": either}


def band(mask: np.ndarray, reach: int) -> np.ndarray:
    """The mask without its inside: pixels at most `reach` steps from outside it."""
    inside = ndimage.minimum_filter(mask.view(np.uint8), 2 * reach + 1, mode="constant", cval=0)
    return mask & ~inside.view(bool)


def near_edges(truth: np.ndarray) -> np.ndarray:
    """Counted pixels within 2 % of the diagonal of a change of class, bool (H,W); void near labels is filled first."""
    filled = fill_void(truth)
    across, down = changes(filled.labels, filled.drawn)
    edge = np.zeros(truth.shape, bool)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    width = 2 * max(1, round(BAND * float(np.hypot(*truth.shape)))) + 1
    return ndimage.maximum_filter(edge.view(np.uint8), width, mode="constant").view(bool) & (truth != IGNORE)


def fill_void(truth: np.ndarray) -> Filled:
    """The truth (H,W) with 255 filled where a label is near."""
    void = truth == IGNORE
    if void.all() or not void.any():
        return Filled(truth, ~void, 0.0, 0)
    distance, nearest = ndimage.distance_transform_edt(void, return_indices=True)
    fill = void & (distance <= FILLED)
    filled = np.where(fill, truth[tuple(nearest)], truth)
    return Filled(filled, ~void | fill, float(distance[fill].sum()), int(fill.sum()))


def half_width(distance: float, pixels: float) -> float:
    """Half the width of the void between classes, in pixels, from the summed distances of `fill_void`.

    Across a strip of 2w pixels the distances to its nearer side are 1…w…1, their mean (w + 1)/2.
    """
    return 2 * distance / pixels - 1 if pixels else 0.0


def contour_sums(
    filled: np.ndarray, labels: np.ndarray, drawn: np.ndarray, background: int | None
) -> dict[str, np.ndarray]:
    """Boundary F summed over the classes of truth or prediction, and how many they are; background has none of its own.

    F = 2PR/(P + R): P the share of the predicted contour within the tolerance of the true one, R the reverse;
    0 for a class that only one of them has. Source: Csurka et al., BMVC 2013, section 3.
    """
    tolerance = TOLERANCE * float(np.hypot(*filled.shape))
    total, number = 0.0, 0
    for c in np.union1d(np.unique(filled[drawn]), np.unique(labels[drawn])):
        if c == background:
            continue
        true, predicted = contour(filled == c, drawn), contour(labels == c, drawn)
        if not (true.any() or predicted.any()):
            continue
        number += 1
        if true.any() and predicted.any():
            precision = (ndimage.distance_transform_edt(~true)[predicted] <= tolerance).mean()
            recall = (ndimage.distance_transform_edt(~predicted)[true] <= tolerance).mean()
            total += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"contour_f": np.array(total), "contours": np.array(number)}


def contour(mask: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a drawn neighbour (of four) outside it; the frame is no edge."""
    outside = ~mask & drawn
    beside = np.zeros_like(mask)
    beside[1:] |= outside[:-1]
    beside[:-1] |= outside[1:]
    beside[:, 1:] |= outside[:, :-1]
    beside[:, :-1] |= outside[:, 1:]
    return mask & drawn & beside


def changes(labels: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where labels change from a pixel to the next, both drawn: bool (H,W−1) across and (H−1,W) down."""
    across = (labels[:, 1:] != labels[:, :-1]) & drawn[:, 1:] & drawn[:, :-1]
    down = (labels[1:] != labels[:-1]) & drawn[1:] & drawn[:-1]
    return across, down


def phases(changed: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Σ e^{2πi x/s} over the changes across and down, for each step s: float (2 axes, 3 steps, real and imaginary)."""
    sums = np.zeros((2, len(STEPS), 2))
    for axis, where in enumerate(changed):
        at = where.sum(axis)  # how many at each column or row
        for s, step in enumerate(STEPS):
            turn = np.exp(2j * np.pi * np.arange(1, len(at) + 1) / step) @ at
            sums[axis, s] = turn.real, turn.imag
    return sums


def blockiness(phases: np.ndarray, number: np.ndarray) -> np.ndarray:
    """How far label changes keep to one phase of a grid of 2, 4 and 8 pixels: float (3,), 0 anywhere … 1 all on it.

    phases (2,3,2) and number (2,) are the split's sums. R = √max(0, |Σ|²/N² − 1/N), the root mean square of both axes;
    NaN under 100 changes an axis.
    """
    if number.min() < 100:
        return np.full(len(STEPS), np.nan)
    strength = (phases**2).sum(2) / number[:, None] ** 2 - 1 / number[:, None]
    return np.sqrt(np.maximum(0, strength).mean(0))

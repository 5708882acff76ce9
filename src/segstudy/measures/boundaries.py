"""Quality of boundaries: Boundary IoU, boundary F, roughness, and blockiness of the decoder's grid."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segstudy.labels import IGNORE
from segstudy.measures.windows import Box, enlarged, grown, shrunk, within

BAND = 0.02
"""Width of Boundary IoU's band (Cheng et al. 2021) and of calibration's region "edge", as a share of the diagonal."""

TOLERANCE = 0.0075
"""Tolerance of boundary F (Csurka et al. 2013), as a share of the diagonal."""

FILLED = 5
"""In pixels: void at most twice as wide (in large images: twice the tolerance) is filled with the nearest labels before
edges are found."""

STEPS = (2, 4, 8)
"""Grid spacings that blockiness tests, in pixels: the upsampling steps of a decoder."""


class Filled(NamedTuple):
    """A truth whose narrow void is filled with the nearest labels.

    labels (H,W): 255 in wide void; drawn (H,W): True elsewhere. distance (H,W): pixels to the nearest label, 0 on a
    labelled pixel. edge: length of the edges between classes, in pairs of pixels; unsure: the part of it in void wider
    than twice the tolerance of boundary F.
    """

    labels: np.ndarray
    drawn: np.ndarray
    distance: np.ndarray
    unsure: int
    edge: int


def edge_sums(
    labels: np.ndarray, truth: Filled, boxes: Mapping[int, Box], background: int | None
) -> dict[str, np.ndarray]:
    """Sums of one image for boundary F, roughness and blockiness.

    labels (H,W): the prediction; boxes: around the pixels of each class in both.
    """
    drawn = truth.drawn & narrow(truth.distance, tolerance(labels.shape))
    sums = contour_sums(truth.labels, labels, drawn, boxes, background)
    true, predicted = changes(truth.labels, truth.drawn), changes(labels, truth.drawn)
    number = np.array([c.sum() for c in predicted])
    return sums | {
        "edge_length": np.array(truth.edge),
        "edge_unsure": np.array(truth.unsure),
        "cracks": np.array(number.sum()),
        "true_cracks": np.array(_length(true)),
        "phases": phases(predicted),
        "changes": number,
    }


def tolerance(shape: tuple[int, ...]) -> float:
    """Tolerance of boundary F in pixels."""
    return TOLERANCE * math.hypot(*shape)


def band_sums(
    truth: np.ndarray, copied: np.ndarray, boxes: Mapping[int, Box], num_classes: int
) -> dict[str, np.ndarray]:
    """Intersection and union of Boundary IoU in pixels, for each class: int64 (C,).

    The band of a mask: its pixels at most 2 % of the diagonal from a pixel outside it or from the image border, counted
    in steps to any of eight neighbours. boxes: around the pixels of each class in both.
    Source: Cheng et al., CVPR 2021.
    """
    reach = pixels_of(BAND, truth.shape)
    both, either = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for c, box in boxes.items():
        if c != IGNORE:
            a, b = band(truth[box] == c, reach), band(copied[box] == c, reach)
            both[c], either[c] = (a & b).sum(), (a | b).sum()
    return {"band_both": both, "band_either": either}


def band(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels of the mask at most `reach` steps from its outside."""
    return mask & ~shrunk(mask, reach)


def near_edges(truth: Filled) -> np.ndarray:
    """Pixels, not ignored, within 2 % of the diagonal of an edge between classes, bool (H,W)."""
    across, down = changes(truth.labels, truth.drawn)
    edge = np.zeros(truth.labels.shape, bool)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return grown(edge, pixels_of(BAND, edge.shape)) & (truth.distance == 0)


def pixels_of(share: float, shape: tuple[int, ...]) -> int:
    """A share of the diagonal in whole pixels, at least 1."""
    return max(1, round(share * math.hypot(*shape)))


def fill_void(truth: np.ndarray) -> Filled:
    """Fill narrow void of the truth (H,W), and measure how much of its edges is certain."""
    void = truth == IGNORE
    if void.all():
        return Filled(truth, ~void, np.full(truth.shape, np.inf), 0, 0)
    if not void.any():
        return Filled(truth, ~void, np.zeros(truth.shape), 0, _length(changes(truth, ~void)))
    whole, distance, nearest = nearest_labels(truth, void)
    limit = tolerance(truth.shape)
    drawn = narrow(distance, max(FILLED, limit))
    halves = np.concatenate([half_widths(whole, distance, nearest, axis) for axis in (0, 1)])
    return Filled(np.where(drawn, whole, IGNORE), drawn, distance, int((halves > limit).sum()), len(halves))


def nearest_labels(labels: np.ndarray, void: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest label outside the void of each pixel (H,W), its distance (H,W) and its position (2,H,W)."""
    distance, nearest = ndimage.distance_transform_edt(void, return_indices=True)
    return labels[tuple(nearest)], distance, nearest


def narrow(distance: np.ndarray, half_width: float) -> np.ndarray:
    """Pixels without void, or in void at most 2·half_width pixels wide (in no larger disc of void): bool (H,W).

    distance (H,W): to the nearest label.
    """
    reach = half_width + 0.5  # the middle of 2w void pixels is w from a label, that of 2w + 1 pixels w + 1
    inside = distance > reach
    if not inside.any():
        return ~inside
    return ndimage.distance_transform_edt(~inside) > reach


def half_widths(whole: np.ndarray, distance: np.ndarray, nearest: np.ndarray, axis: int) -> np.ndarray:
    """Half the width of the void, in pixels, at each change of the nearest label along an axis; 0 without void.

    whole (H,W): the nearest labels; nearest (2,H,W): their positions. Counts only changes whose two nearest labels lie
    in directions at least a right angle apart: where an edge ends at void of one side, such as padding, the nearest
    labels also change, along a line that is no edge.
    """
    before, after = (slice(None, -1), slice(1, None)) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
    at = whole[before] != whole[after]
    apart = sum((n[before][at] - n[after][at]).astype(float) ** 2 for n in nearest)
    one, other = distance[before][at], distance[after][at]
    return ((one + other) / 2)[apart >= one**2 + other**2]


def contour_sums(
    filled: np.ndarray, labels: np.ndarray, drawn: np.ndarray, boxes: Mapping[int, Box], background: int | None
) -> dict[str, np.ndarray]:
    """Boundary F summed over the classes of truth or prediction except background, and the number of these classes.

    F = 2PR/(P + R). P: share of the predicted contour within the tolerance of the true one; R: the reverse.
    0 for a class that only one of them has. Source: Csurka et al., BMVC 2013, section 3.
    """
    near = tolerance(filled.shape)
    total, number = 0.0, 0
    for c, box in boxes.items():
        if c == background:
            continue
        place = enlarged(box, 1)
        true, predicted = contour(filled[place] == c, drawn[place]), contour(labels[place] == c, drawn[place])
        if not (true.any() or predicted.any()):
            continue
        number += 1
        if true.any() and predicted.any():
            precision, recall = within(true, near)[predicted].mean(), within(predicted, near)[true].mean()
            total += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"contour_f": np.array(total), "contours": np.array(number)}


def contour(mask: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a drawn neighbour (of four) outside it; the image border is no edge."""
    outside = ~mask & drawn
    touches_outside = np.zeros_like(mask)
    touches_outside[1:] |= outside[:-1]
    touches_outside[:-1] |= outside[1:]
    touches_outside[:, 1:] |= outside[:, :-1]
    touches_outside[:, :-1] |= outside[:, 1:]
    return mask & drawn & touches_outside


def changes(labels: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where labels differ between neighbours that are both drawn: bool (H,W−1) across and (H−1,W) down."""
    across = (labels[:, 1:] != labels[:, :-1]) & drawn[:, 1:] & drawn[:, :-1]
    down = (labels[1:] != labels[:-1]) & drawn[1:] & drawn[:-1]
    return across, down


def _length(changed: tuple[np.ndarray, np.ndarray]) -> int:
    return sum(int(c.sum()) for c in changed)


def phases(changed: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Σ e^{2πi x/s} over the positions x of changes, for each step s: float (2 axes, 3 steps, real and imaginary)."""
    sums = np.zeros((2, len(STEPS), 2))
    for axis, where in enumerate(changed):
        at = where.sum(axis)  # changes at each column or row
        for s, step in enumerate(STEPS):
            turn = np.exp(2j * np.pi * np.arange(1, len(at) + 1) / step) @ at
            sums[axis, s] = turn.real, turn.imag
    return sums


def blockiness(phases: np.ndarray, number: np.ndarray) -> np.ndarray:
    """How strongly label changes lie on a grid of 2, 4 and 8 pixels: float (3,), from 0 (anywhere) to 1 (all on it).

    phases (2,3,2) and number (2,): sums over the split. R = √max(0, |Σ|²/N² − 1/N), as root mean square of both axes;
    NaN if an axis has fewer than 100 changes.
    """
    if number.min() < 100:
        return np.full(len(STEPS), np.nan)
    strength = (phases**2).sum(2) / number[:, None] ** 2 - 1 / number[:, None]
    return np.sqrt(np.maximum(0, strength).mean(0))

"""Object outcomes (missed, mixed, wrong label, partial, right), and the number of pieces of a predicted object."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from segstudy.labels import IGNORE
from segstudy.measures.windows import Box

OUTCOMES = ("missed", "mixed", "wrong label", "partial", "right")

EIGHT_CONNECTED = np.ones((3, 3), bool)
"""Components are 8-connected."""

# All thresholds, as shares. The report has histograms of found and purity, which show the effect of the thresholds.
SMALLEST = 0.002  # of the image: smaller components are specks (79 % of VOC-animals' components, .2 % of its pixels)

FOUND_AT_ALL, FOUND_WHOLE = 0.25, 0.75  # of the object

PURE = 0.8  # of the found part

PIECE = 0.01  # of the object: smaller pieces of a prediction do not count

SIZES = (0.01, 0.1)  # of the image: small below the first, large above the second

BINS = 20  # of the histograms


def object_sums(
    truth: np.ndarray, copied: np.ndarray, boxes: Mapping[int, Box], background: int | None
) -> dict[str, np.ndarray]:
    """Sums over the objects of an image: 8-connected components of a class in the truth, at least .2 % of the image.

    truth, copied (H,W): truth and prediction, with the truth's 255 in both; boxes: around the pixels of each class in
    the truth. `outcomes` (5,): by OUTCOMES; `found_histogram` and `purity_histogram` (20,): over 0…1; `pieces`,
    `class_pieces` and `coherence`: summed over the `found_objects`; `size_missed` and `size_pixels` (3,): over all
    components, by their share of the image.
    Without a background every object counts as found, so `found_histogram` and the sums by size stay 0.
    """
    sums = _empty()
    counted = int((truth != IGNORE).sum())
    for c, box in boxes.items():
        if c in (IGNORE, background):
            continue
        numbers, _ = ndimage.label(truth[box] == c, EIGHT_CONNECTED)
        for number, place in enumerate(ndimage.find_objects(numbers), 1):
            inside = numbers[place] == number
            area = int(inside.sum())
            labels = copied[box][place]
            if background is not None:
                size = int(np.searchsorted(SIZES, area / counted, side="right"))
                sums["size_missed"][size] += int((labels[inside] == background).sum())
                sums["size_pixels"][size] += area
            if area >= SMALLEST * counted:
                _add(sums, inside, labels, c, background)
    return sums


def _empty() -> dict[str, np.ndarray]:
    vectors = {"outcomes": 5, "found_histogram": BINS, "purity_histogram": BINS}
    vectors |= {"size_missed": len(SIZES) + 1, "size_pixels": len(SIZES) + 1}
    scalars = ("found_objects", "pieces", "class_pieces", "coherence")
    return {k: np.zeros(n) for k, n in vectors.items()} | {k: np.zeros(()) for k in scalars}


def _add(sums: dict[str, np.ndarray], inside: np.ndarray, labels: np.ndarray, c: int, background: int | None) -> None:
    """Add one object. inside: its pixels in its box, bool (h,w); labels (h,w): predicted there; c: its class."""
    area = int(inside.sum())
    found_area = inside if background is None else inside & (labels != background)
    found = int(found_area.sum()) / area
    votes = np.bincount(labels[found_area], minlength=1)
    top = int(votes.argmax())
    purity = votes[top] / max(1, votes.sum())
    sums["outcomes"][outcome_of(found, purity, top == c)] += 1
    if background is not None:
        sums["found_histogram"][min(BINS - 1, int(found * BINS))] += 1
    if found:
        sums["purity_histogram"][min(BINS - 1, int(purity * BINS))] += 1
    pieces = _pieces(found_area, area)
    if len(pieces):
        sums["found_objects"] += 1
        sums["pieces"] += len(pieces)
        sums["class_pieces"] += len(_pieces(inside & (labels == c), area))
        sums["coherence"] += pieces.max() / int(found_area.sum())


def outcome_of(found: float, purity: float, top_is_right: bool) -> int:
    """The outcome, as index in OUTCOMES; the first rule that applies.

    found: share of the object predicted as any object class; purity: share of the most frequent label in that part;
    top_is_right: whether that label is the object's class.
    """
    if found < FOUND_AT_ALL:
        return 0
    if purity < PURE:
        return 1
    if not top_is_right:
        return 2
    return 3 if found < FOUND_WHOLE else 4


def _pieces(part: np.ndarray, area: int) -> np.ndarray:
    """Sizes of the components of `part` that have at least 1 % of the object's area."""
    numbers, _ = ndimage.label(part, EIGHT_CONNECTED)
    sizes = np.bincount(numbers.ravel())[1:]
    return sizes[sizes >= PIECE * area]

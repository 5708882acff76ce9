"""Error categories of the pixels of an image, as sums: a study adds them over images and divides once (`metrics.py`).

The truth's 255 is copied into the prediction before pieces of objects or bands are found: else the ring of void around
objects would merge or cut pieces and move edges. Where a measure must look across the ring (an overshoot belongs to the
object inside it; a contour runs through it), the truth's 255 is filled with the nearest label instead.
"""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from segstudy.labels import IGNORE
from segstudy.measures.boundaries import Filled, band_sums, edge_sums, fill_void, pixels_of
from segstudy.measures.objects import EIGHT_CONNECTED, object_sums
from segstudy.measures.windows import Box, class_boxes, enlarged, grown, union

CATEGORIES = ("background", "foreground", "missed", "confused", "foreign", "overshoot", "ghost")
"""Every pixel not ignored is one of these. background, foreground: correct. missed: foreground predicted as background
(false negative). confused, foreign: foreground predicted as another class that is, or is not, in the image. overshoot,
ghost: background predicted as a class that is, or is not, in the image (false positive of the foreground).
Hallucinated pixels are those of foreign and ghost: predicted as a class that is not in the image."""

BACKGROUND, FOREGROUND, MISSED, CONFUSED, FOREIGN, OVERSHOOT, GHOST = range(len(CATEGORIES))

VISIBLE = 0.001
"""An absent class counts as predicted if it covers at least this share of the image."""

BAND = 0.01
"""Share of the diagonal: an error within it of both true-positive and true-negative pixels is a boundary error."""


def image_errors(
    truth: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    background: int | None,
    present: np.ndarray | None = None,
    filled: Filled | None = None,
) -> dict[str, np.ndarray]:
    """All sums of one image. truth, labels uint8 (H,W): classes 0…C−1, 255 in truth ignored; background: a class or
    None.

    present: the classes in the image at its original size; None: those of the truth. filled: `fill_void` of the truth,
    if the caller has it.
    Without a background, the sums that need one are 0, so their metrics are not defined.
    """
    counted = truth != IGNORE
    copied = np.where(counted, labels, IGNORE)
    categories = error_categories(truth, labels, background, present)
    filled = filled or fill_void(truth)
    boxes = union(class_boxes(filled.labels), class_boxes(labels))
    return {
        "cells": np.bincount(categories[counted], minlength=len(CATEGORIES)),
        **absent_classes(truth, copied, background, present),
        **error_locations(truth, labels, filled.labels, boxes, background),
        **object_sums(truth, copied, boxes, background),
        **band_sums(truth, copied, boxes, num_classes),
        **edge_sums(labels, filled, boxes, background),
    }


def error_categories(
    truth: np.ndarray, labels: np.ndarray, background: int | None, present: np.ndarray | None = None
) -> np.ndarray:
    """The category of each pixel as index in CATEGORIES, uint8 (H,W); 255 where the truth is 255.

    Without a background there are no missed, overshoot or ghost pixels. present: as in `image_errors`.
    """
    is_present = np.zeros(256, bool)
    is_present[np.unique(truth) if present is None else present] = True
    if background is not None:
        is_present[background] = False
    in_image = is_present[labels]
    object_, found = truth != background, labels != background
    categories = np.select(
        [~object_ & ~found, truth == labels, object_ & ~found, object_ & in_image, object_, in_image],
        [BACKGROUND, FOREGROUND, MISSED, CONFUSED, FOREIGN, OVERSHOOT],
        GHOST,
    ).astype(np.uint8)
    categories[truth == IGNORE] = IGNORE
    return categories


def absent_classes(
    truth: np.ndarray, copied: np.ndarray, background: int | None, present: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """`absent`: number of predicted classes that are not in the image and cover at least .1 % of it. `image`: 1, or 0
    if all pixels are ignored."""
    counted = int((truth != IGNORE).sum())
    predicted = np.bincount(copied[copied != IGNORE], minlength=256)
    predicted[np.unique(truth) if present is None else present] = 0
    if background is not None:
        predicted[background] = 0
    absent = (predicted > 0) & (predicted >= VISIBLE * counted)
    return {"absent": np.array(int(absent.sum())), "image": np.array(int(counted > 0))}


def error_locations(
    truth: np.ndarray, labels: np.ndarray, filled: np.ndarray, boxes: Mapping[int, Box], background: int | None
) -> dict[str, np.ndarray]:
    """False positives and false negatives of all classes but background, by location (3,): boundary, extent, segment.

    boundary: within 1 % of the diagonal of both a true-positive and a true-negative pixel of the class; else extent:
    its segment (component of the prediction, or of the truth with 255 filled) has a true-positive pixel; else segment.
    boxes: around the pixels of each class in truth, labels and filled.
    After Bernhard et al., WACV 2024 ("What's outside the intersection?"), our own implementation.
    """
    reach = pixels_of(BAND, truth.shape)
    places = {"false_positives": np.zeros(3, np.int64), "false_negatives": np.zeros(3, np.int64)}
    counted = truth != IGNORE
    for c, box in boxes.items():
        if c in (IGNORE, background):
            continue
        place = enlarged(box, reach)
        in_truth, in_labels, in_filled = (array[place] == c for array in (truth, labels, filled))
        known = counted[place]
        right = in_truth & in_labels
        for name, segments, wrong in (
            ("false_positives", in_labels, known & in_labels & ~in_truth),
            ("false_negatives", in_filled, in_truth & ~in_labels),
        ):
            if not right.any():  # no pixel is near a true positive, and no segment has one
                places[name][2] += int(wrong.sum())
            elif wrong.any():
                places[name] += _located(wrong, segments, right, known & ~in_truth & ~in_labels, reach)
    return places


def _located(
    wrong: np.ndarray, segments: np.ndarray, right: np.ndarray, left: np.ndarray, reach: int
) -> tuple[int, int, int]:
    """Numbers of wrong pixels by location. right, left (H,W): true-positive and true-negative pixels of the class."""
    far = wrong & ~(grown(right, reach) & grown(left, reach))
    numbers, count = ndimage.label(segments, EIGHT_CONNECTED)
    touches = np.zeros(count + 1, bool)
    touches[numbers[right]] = True
    extent, apart = int(touches[numbers[far]].sum()), int(far.sum())
    return int(wrong.sum()) - apart, extent, apart - extent

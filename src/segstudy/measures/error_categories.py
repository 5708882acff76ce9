"""Error categories of an image's pixels, as sums: a study adds them up over images and divides once (`metrics.py`).

255 of the truth is copied into the prediction before objects' pieces or bands are taken: else the void ring of a data
set merges and cuts pieces and shifts edges. Where something must reach across the ring (an overshoot belongs to the
object inside it; a contour runs in it), the truth's 255 is filled with the nearest label instead.
"""

import numpy as np
from scipy import ndimage

from segstudy.labels import IGNORE
from segstudy.measures.boundaries import band_sums, edge_sums, fill_void, grown, pixels_of
from segstudy.measures.objects import EIGHT_CONNECTED, object_sums

CATEGORIES = ("background", "foreground", "missed", "confused", "foreign", "overshoot", "ghost")
"""Every counted pixel is one of these. background, foreground: right. missed: foreground predicted as background
(false negative). confused, foreign: foreground predicted as another class that is, or is not, in the image. overshoot,
ghost: background predicted as a class that is, or is not, in the image (false positive of the foreground).
Hallucinated pixels are those of foreign and ghost: predicted as a class that is not in the image."""

BACKGROUND, FOREGROUND, MISSED, CONFUSED, FOREIGN, OVERSHOOT, GHOST = range(len(CATEGORIES))

VISIBLE = 0.001
"""Share of an image from which on an absent class counts as predicted there."""

BAND = 0.01
"""Of the diagonal: an error this near to true-positive and to true-negative pixels is one of the boundary."""


def image_errors(
    truth: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    background: int | None,
    present: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """All sums of one image. truth, labels (H,W) with classes 0…C−1, 255 in truth ignored; background: a class or None.

    present: the classes in the image at its original size; those of the truth if not given.
    Sums that need a background are 0 without one, so that their metrics are not defined.
    """
    counted = truth != IGNORE
    copied = np.where(counted, labels, IGNORE)
    categories = error_categories(truth, labels, background, present)
    filled = fill_void(truth)
    return {
        "cells": np.bincount(categories[counted], minlength=len(CATEGORIES)),
        "shape": np.array(truth.shape),
        **absent_classes(truth, copied, background, present),
        **error_locations(truth, labels, filled.labels, background),
        **object_sums(truth, copied, background),
        **band_sums(truth, copied, num_classes),
        **edge_sums(labels, filled, background),
    }


def error_categories(
    truth: np.ndarray, labels: np.ndarray, background: int | None, present: np.ndarray | None = None
) -> np.ndarray:
    """Each pixel's place in CATEGORIES, uint8 (H,W); 255 where the truth is 255.

    Without a background there are no missed, overshoot or ghost pixels. present: as in `image_errors`.
    """
    there = np.zeros(256, bool)
    there[np.unique(truth) if present is None else present] = True
    if background is not None:
        there[background] = False
    known = there[labels]
    object_, found = truth != background, labels != background
    categories = np.select(
        [~object_ & ~found, truth == labels, object_ & ~found, object_ & known, object_, known],
        [BACKGROUND, FOREGROUND, MISSED, CONFUSED, FOREIGN, OVERSHOOT],
        GHOST,
    ).astype(np.uint8)
    categories[truth == IGNORE] = IGNORE
    return categories


def absent_classes(
    truth: np.ndarray, copied: np.ndarray, background: int | None, present: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """How many classes that are not in the image cover at least .1 % of it, and 1 for an image that is counted."""
    counted = int((truth != IGNORE).sum())
    predicted = np.bincount(copied[copied != IGNORE], minlength=256)
    predicted[np.unique(truth) if present is None else present] = 0
    if background is not None:
        predicted[background] = 0
    absent = (predicted > 0) & (predicted >= VISIBLE * counted)
    return {"absent": np.array(int(absent.sum())), "image": np.array(int(counted > 0))}


def error_locations(
    truth: np.ndarray, labels: np.ndarray, filled: np.ndarray, background: int | None
) -> dict[str, np.ndarray]:
    """False positives and negatives of the classes but background by where they lie: boundary, extent, segment; (3,).

    boundary: within 1 % of the diagonal of both a right pixel of the class and a pixel rightly left to others; else
    extent: its segment (component of the prediction or of the truth, 255 filled) holds a right pixel; else segment.
    After Bernhard et al., WACV 2024 ("What's outside the intersection?"), in our own code and reading.
    """
    reach = pixels_of(BAND, truth.shape)
    places = {"false_positives": np.zeros(3, np.int64), "false_negatives": np.zeros(3, np.int64)}
    counted = truth != IGNORE
    for c in np.union1d(np.unique(truth), np.unique(labels[counted])):
        if c in (IGNORE, background):
            continue
        is_true, is_predicted = truth == c, counted & (labels == c)
        right = is_true & is_predicted
        if np.array_equal(is_true, is_predicted):
            continue
        left = counted & ~is_true & ~is_predicted
        near = grown(right, reach) & grown(left, reach)
        for name, segments, wrong in (
            ("false_positives", labels == c, is_predicted & ~is_true),
            ("false_negatives", filled == c, is_true & ~is_predicted),
        ):
            numbers, count = ndimage.label(segments, EIGHT_CONNECTED)
            touches = np.zeros(count + 1, bool)
            touches[numbers[right]] = True
            inside = touches[numbers]
            places[name] += [
                int((wrong & near).sum()),
                int((wrong & ~near & inside).sum()),
                int((wrong & ~near & ~inside).sum()),
            ]
    return places

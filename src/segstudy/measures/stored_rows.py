"""Confusion matrices from the sparse rows (image, truth, prediction, pixels) that a test stores; safe division."""

from collections.abc import Sequence

import numpy as np


def sum_rows(rows: np.ndarray, axes: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Pixels summed by the columns `axes` (0 image, 1 truth, 2 prediction): int64 of `shape`, a length for each."""
    counts = np.zeros(tuple(shape), np.int64)
    np.add.at(counts, tuple(rows[:, axis] for axis in axes), rows[:, 3])
    return counts


def confusion_per_image(rows: np.ndarray, num_classes: int, images: int | None = None) -> np.ndarray:
    """The confusion matrix of each image, truth by prediction: int64 (N,C,C)."""
    images = images if images is not None else int(rows[:, 0].max()) + 1
    return sum_rows(rows, (0, 1, 2), (images, num_classes, num_classes))


def divide(above: np.ndarray | int, below: np.ndarray | int) -> np.ndarray:
    """above / below; NaN where the denominator is 0."""
    below = np.asarray(below, float)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)

"""Confusion counts of images from the sparse rows that a test stores."""

import numpy as np


def confusion_per_image(rows: np.ndarray, num_classes: int, images: int | None = None) -> np.ndarray:
    """Sparse rows (image, truth, prediction, pixels) → int64 (N,C,C)."""
    images = images if images is not None else int(rows[:, 0].max()) + 1
    counts = np.zeros((images, num_classes, num_classes), np.int64)
    counts[rows[:, 0], rows[:, 1], rows[:, 2]] = rows[:, 3]
    return counts


def total_confusion(rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Sparse rows → the split's confusion matrix, int64 (C,C)."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (rows[:, 1], rows[:, 2]), rows[:, 3])
    return counts

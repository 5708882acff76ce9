"""Pixel counts of each image and class, from which every IoU and accuracy follows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segstudy.files import read_arrays, reading
from segstudy.measures.stored_rows import divide, sum_rows
from segstudy.runs.headline import SIZES, Size


@dataclass(frozen=True)
class Counts:
    """Pixels of each image (or batch) and class, int64 (N,C): true positives, pixels of the truth, pixels predicted.

    confusion (C,C): truth × prediction over all images; None if not known. Pixels of 255 are not counted.
    """

    true_positives: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    confusion: np.ndarray | None = None

    @classmethod
    def from_rows(cls, rows: np.ndarray, images: int, num_classes: int) -> "Counts":
        """From the sparse rows (image, truth, prediction, pixels) of a run's `counts.npz`."""
        shape = images, num_classes
        right = rows[rows[:, 1] == rows[:, 2]]
        return cls(
            sum_rows(right, (0, 1), shape), sum_rows(rows, (0, 1), shape), sum_rows(rows, (0, 2), shape),
            sum_rows(rows, (1, 2), (num_classes, num_classes)),
        )  # fmt: skip

    @property
    def union(self) -> np.ndarray:
        return self.truth + self.predicted - self.true_positives

    @property
    def iou(self) -> np.ndarray:
        """float64 (N,C); NaN where the union is 0."""
        return divide(self.true_positives, self.union)

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> "Counts":
        return Counts(change(self.true_positives), change(self.truth), change(self.predicted))

    def batches(self, size: int) -> "Counts":
        """Sums over batches of `size` images, in order; the last batch may be smaller."""
        return self._each(lambda a: np.add.reduceat(a, np.arange(0, len(a), size), axis=0))

    def whole(self) -> "Counts":
        """Sums over all images, as one row."""
        return self.batches(len(self.truth))

    def counted(self) -> "Counts":
        """Without images (or batches) whose pixels are all ignored."""
        there = self.truth.sum(1) > 0
        return self._each(lambda a: a[there])

    def without(self, c: int) -> "Counts":
        return self._each(lambda a: np.delete(a, c, axis=1))

    def constant(self, c: int) -> "Counts":
        """Counts of a constant predictor of class `c` on the same truth."""
        predicted, right = np.zeros_like(self.truth), np.zeros_like(self.truth)
        predicted[:, c], right[:, c] = self.truth.sum(1), self.truth[:, c]
        return Counts(right, self.truth, predicted)

    def foreground(self, background: int) -> "Counts":
        """Counts for two classes: 0 background, 1 all others together."""
        pixels, right = self.truth.sum(1), self.true_positives[:, background]
        truth, predicted = (
            np.stack([a[:, background], pixels - a[:, background]], 1) for a in (self.truth, self.predicted)
        )
        # A foreground pixel with the label of another foreground class is right here.
        return Counts(np.stack([right, truth[:, 1] - predicted[:, 0] + right], 1), truth, predicted)


def read_counts(file: Path, num_classes: int) -> tuple[list[str], dict[Size, Counts]]:
    """Names of a test's images, and their counts at each size. Raises DamagedFile."""
    with reading(file):
        held = read_arrays(file)
        names = [str(name) for name in held["names"]]
        below = len(names), num_classes, num_classes, 2**40
        for size in SIZES:
            rows = held[size]
            if rows.dtype.kind != "i" or rows.shape[1:] != (4,) or (rows < 0).any() or (rows >= below).any():
                raise ValueError(f"{size} holds no counts of {len(names)} images and {num_classes} classes")
        return names, {size: Counts.from_rows(held[size], len(names), num_classes) for size in SIZES}

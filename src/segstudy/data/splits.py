"""Dividing images with a seed: the same share of each stratum on every side, and no group on two sides.

A group is a drive, a patient, a place: images that know each other. Without groups every image is its own.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from segstudy.seeds import derive, permutation


def rarest_class(pixels: np.ndarray) -> list[int]:
    """Each image's rarest class, from the labels counted in it (N,C): what a division keeps in proportion."""
    return np.where(pixels > 0, pixels.sum(0).astype(float), np.inf).argmin(1).tolist()


def hold_out(strata: Sequence, groups: Sequence[str], share: float, seed: int, name: str) -> np.ndarray:
    """Which images are held out: bool (N), about `share` of each stratum, whole groups.

    strata: of each image. groups: of each image, "" for its own. name: of the stream of random numbers.
    """
    held, debt = np.zeros(len(strata), bool), 0.0
    for members in _sorted_groups(strata, groups, derive(seed, name)):
        debt += share * len(members)
        if debt >= len(members) / 2 and debt > 0:  # evenly spaced along the strata
            held[members] = True
            debt -= len(members)
    return held


def folds(strata: Sequence, groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """The fold of each image: int (N) in 0…count−1, of nearly equal sizes, whole groups."""
    fold, sizes = np.zeros(len(strata), int), np.zeros(count, int)
    for members in _sorted_groups(strata, groups, derive(seed, "folds")):
        smallest = int(sizes.argmin())
        fold[members] = smallest
        sizes[smallest] += len(members)
    return fold


def _sorted_groups(strata: Sequence, groups: Sequence[str], seed: int) -> list[np.ndarray]:
    """The groups as positions of their images, shuffled, then sorted by their commonest stratum."""
    names = [group or f"\0{i}" for i, group in enumerate(groups)]
    unique, of = np.unique(names, return_inverse=True)
    order = permutation(len(unique), seed, 0).numpy()
    members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    units = [members[u] for u in order]
    return sorted(units, key=lambda m: Counter(strata[i] for i in m).most_common(1)[0][0])

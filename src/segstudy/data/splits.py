"""Seeded, stratified splits that keep groups together: hold-out and folds.

A group is a set of correlated images (same drive, patient or place). Without groups, each image is its own. Not
scikit-learn's StratifiedGroupKFold: it would be a dependency for 40 lines, and change the splits of earlier runs.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from segstudy.seeds import derive, permutation


def rarest_class(pixels: np.ndarray) -> list[int]:
    """The rarest class of each image, from its pixels of each class (N,C): the strata of a split."""
    return np.where(pixels > 0, pixels.sum(0).astype(float), np.inf).argmin(1).tolist()


def hold_out(strata: Sequence, groups: Sequence[str], share: float, seed: int, name: str) -> np.ndarray:
    """Select about `share` of each stratum, in whole groups: bool (N).

    strata, groups: of each image; group "" for none. name: of the random stream.
    """
    held, missing = np.zeros(len(strata), bool), 0.0  # missing: images still to select, to reach the share
    for members in _sorted_groups(strata, groups, derive(seed, name)):
        missing += share * len(members)
        if missing >= len(members) / 2 and missing > 0:  # spaces the selection evenly over the sorted strata
            held[members] = True
            missing -= len(members)
    return held


def folds(strata: Sequence, groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """The fold of each image, int (N) in 0…count−1: folds of nearly equal size, of whole groups."""
    fold, sizes = np.zeros(len(strata), int), np.zeros(count, int)
    for members in _sorted_groups(strata, groups, derive(seed, "folds")):
        smallest = int(sizes.argmin())
        fold[members] = smallest
        sizes[smallest] += len(members)
    return fold


def _sorted_groups(strata: Sequence, groups: Sequence[str], seed: int) -> list[np.ndarray]:
    """The positions of the images of each group; groups shuffled, then sorted by their most frequent stratum."""
    names = [group or f"\0{i}" for i, group in enumerate(groups)]
    unique, group_of = np.unique(names, return_inverse=True)
    order = permutation(len(unique), seed, 0).numpy()
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    shuffled = [members[g] for g in order]
    return sorted(shuffled, key=lambda m: Counter(strata[i] for i in m).most_common(1)[0][0])

"""Influence of each image on a ratio of sums, and the standard error that follows from it."""

from collections.abc import Hashable, Sequence

import numpy as np

from segstudy.errors import DataError

Groups = Sequence[Hashable] | np.ndarray


def influence(
    top: np.ndarray, bottom: np.ndarray, keep: np.ndarray | None = None, leave_one_out: bool = False
) -> tuple[float, np.ndarray]:
    """The metric's value and the influence (N,) of each image: n times what the image adds to the value.

    top, bottom (N,) or (N,C); keep (C,), all columns if not given. With R_c = Σtop/Σbottom, B_c = Σbottom and K the
    kept columns, the value is the mean of R_c over K, influence_i = n/|K| · Σ_c (top_ic − R_c·bottom_ic)/B_c, which
    sum to 0. With leave_one_out, influence_i = (n − 1)·(value − value without image i), the jackknife's:
    B_c − bottom_ic in place of B_c. The same for many images; for few, the former makes the standard error too small
    (results/statistics.md).
    A kept column whose bottom sums to 0 is left out; if none is left (or n = 0), the value and all influences are NaN.
    IoU loses no column that way where K holds classes with truth.
    If one image alone has a bottom in some column, all influences are NaN: how that column varies is unknown.
    """
    top, bottom = _columns(top), _columns(bottom)
    if top.shape != bottom.shape:
        raise DataError(f"numerators {top.shape} and denominators {bottom.shape} of a metric differ in shape")
    images, sums = len(top), bottom.sum(0)
    used = check_columns(keep, top.shape[1]) & (sums != 0)
    if not used.any():
        return float("nan"), np.full(images, np.nan)
    top, bottom, sums = top[:, used], bottom[:, used], sums[used]
    ratios = top.sum(0) / sums
    if ((bottom != 0).sum(0) == 1).any():
        return float(ratios.mean()), np.full(images, np.nan)
    rest, count = (sums - bottom, images - 1) if leave_one_out else (sums, images)
    return float(ratios.mean()), count / used.sum() * ((top - ratios * bottom) / rest).sum(1)


def image_error(influences: np.ndarray, groups: Groups | None = None) -> float:
    """Standard error over images: SD(influences)/√n, with n − 1 in the SD. NaN for fewer than two images or groups.

    With groups (N labels), images of a group may depend on each other:
    SE² = G/(G − 1) · Σ_g (Σ_{i in g} influence_i)² / n² for G groups, the cluster-robust variance of a ratio. One group
    per image gives the same as none.
    Source: Liang and Zeger 1986; the factor G/(G − 1) as in Cameron and Miller 2015, section II.
    """
    influences = np.asarray(influences, float)
    sums = influences if groups is None else np.bincount(number_groups(groups, len(influences)), weights=influences)
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt(len(sums) * sums.var(ddof=1)) / len(influences))


def _columns(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, float)
    return x[:, None] if x.ndim == 1 else x


def check_columns(keep: np.ndarray | None, columns: int) -> np.ndarray:
    keep = np.ones(columns, bool) if keep is None else np.asarray(keep, bool)
    if keep.shape != (columns,):
        raise DataError(f"a metric has {columns} columns, but {keep.shape} of them were named as kept or not")
    return keep


def number_groups(groups: Groups, images: int) -> np.ndarray:
    """Labels of any kind → 0…G−1, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    labels = np.array([numbers.setdefault(label, len(numbers)) for label in groups], int)
    if len(labels) != images:
        raise DataError(f"each image needs one group: {images} images, {len(labels)} labels")
    return labels

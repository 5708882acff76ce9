"""Influence of each image on a ratio of sums, and the standard error from these influences."""

from collections.abc import Hashable, Sequence

import numpy as np

from segstudy.errors import DataError

Groups = Sequence[Hashable] | np.ndarray


def influence(
    top: np.ndarray, bottom: np.ndarray, keep: np.ndarray | None = None, leave_one_out: bool = False
) -> tuple[float, np.ndarray]:
    """A metric's value and the influence (N,) of each image: n times what the image adds to the value.

    top, bottom: (N,) or (N,C). keep: (C,), the set K of columns (default: all). With R_c = Σtop/Σbottom and
    B_c = Σbottom, the value is the mean of R_c over K, and influence_i = n/|K| · Σ_c (top_ic − R_c·bottom_ic)/B_c;
    these sum to 0. With leave_one_out, influence_i = (n − 1)·(value − value without image i) (jackknife):
    B_c − bottom_ic replaces B_c. For many images both are equal; for few, the first makes the standard error too small
    (results/statistics.md).
    A kept column whose bottom sums to 0 is left out; if none is left, or n = 0, value and influences are NaN. (Classes
    with truth always have a bottom above 0 for IoU.)
    If a column has a bottom in one image only, all influences are NaN, because its variance is unknown.
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

    groups: N labels; images of one group may depend on each other. Then
    SE² = G/(G − 1) · Σ_g (Σ_{i in g} influence_i)² / n² for G groups, the cluster-robust variance of a ratio. With one
    group for each image the result is the same as without groups.
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
        raise DataError(
            f"a metric has {columns} columns, but keep has the shape {keep.shape}; each column needs one entry"
        )
    return keep


def number_groups(groups: Groups, images: int) -> np.ndarray:
    """Labels of any kind → 0…G−1, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    labels = np.array([numbers.setdefault(label, len(numbers)) for label in groups], int)
    if len(labels) != images:
        raise DataError(f"each image needs one group: {images} images, {len(labels)} labels")
    return labels

"""Bootstrap over images: a check of the standard errors from influences."""

import numpy as np

from segstudy.study.statistics.influence import Groups, check_columns, number_groups

DISAGREEMENT = 0.15  # relative difference of the standard errors; a larger one is reported

WIDTH = 512  # columns of one matrix product of the bootstrap: 40 MB at 10,000 draws


def bootstrap(
    tops: np.ndarray, bottoms: np.ndarray, keep: np.ndarray | None = None,
    draws: int = 10_000, seed: int = 0, groups: Groups | None = None,
) -> np.ndarray:  # fmt: skip
    """Values (draws,R) of R runs on images resampled with replacement, the same draws for all runs.

    tops, bottoms: (R,N,C) or (R,N). groups: whole groups are drawn. The set of columns is fixed; a draw in which a
    column's bottom is 0 is NaN. Source: Efron 1979, with multinomial weights.
    """
    tops, bottoms = _runs(tops), _runs(bottoms)
    runs, images, columns = tops.shape
    clusters = np.arange(images) if groups is None else number_groups(groups, images)
    weights = image_weights(clusters, draws, seed)
    used = check_columns(keep, columns) & (bottoms.sum(1) != 0)
    values = np.zeros((draws, runs))
    step = max(1, WIDTH // (2 * runs))
    for first in range(0, columns, step):
        part = slice(first, first + step)
        drawn = [
            (weights @ np.moveaxis(x[:, :, part], 1, 0).reshape(images, -1)).reshape(draws, runs, -1)
            for x in (tops, bottoms)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            values += np.where(used[:, part], drawn[0] / drawn[1], 0).sum(2)
    with np.errstate(invalid="ignore"):
        return values / used.sum(1)  # 0/0 where no column is left


def image_weights(clusters: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """How often each image is in each draw, float64 (draws,N). Whole clusters are drawn. clusters (N,): 0…G−1."""
    count = int(clusters.max()) + 1
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    return weights[:, clusters].astype(np.float64)  # float32 cannot hold sums of pixels


def cross_check(se: float, draws: np.ndarray) -> float:
    """SD of the draws divided by the standard error over images, minus 1; reported if beyond ±`DISAGREEMENT`.

    NaN if the standard error is NaN or 0, or if more than 1 % of the draws are NaN.
    For a mean over seeds or a difference, draws is the same mean or difference of the bootstrap's columns.
    """
    there = draws[~np.isnan(draws)]
    if not se > 0 or len(there) < 0.99 * len(draws):
        return float("nan")
    return float(np.std(there, ddof=1)) / se - 1


def _runs(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, float)
    return x[:, :, None] if x.ndim == 2 else x

"""A metric's 95 % interval, over images and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from segstudy.errors import DataError
from segstudy.formatting import counted, format_interval, format_number
from segstudy.study.statistics.influence import Groups, image_error


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its 95 % interval; NaN: not defined. seeds: number of trainings in the mean."""

    value: float
    low: float
    high: float
    seeds: int = 1

    def __str__(self) -> str:
        """0.619 (0.588 to 0.650)."""
        return f"{format_number(self.value)} {format_interval(self.low, self.high)}".strip()


LEVEL = 0.95

FEW_IMAGES, FEW_GROUPS = 50, 10

TINY = 1e-12  # a smaller standard error is rounding error


def estimate(values: Sequence[float], influences: Sequence[np.ndarray], groups: Groups | None = None) -> Estimate:
    """The mean over seeds with its 95 % interval over images and seeds; influences: (N,) for each seed.

    SE² = SE²_images(mean influence) + s²/S, with a t quantile and Satterthwaite's degrees of freedom (of the parts:
    images or groups − 1, seeds − 1). One seed: images only.
    If a seed's value is NaN, the estimate is NaN. If SE is 0, such as for a share that is 0 in every image, the
    interval is NaN.
    """
    parts = [image_component(mean_influences(influences), groups), *seed_components(values)]
    value, (se, df) = float(np.mean(values)), combine(parts)
    return Estimate(value, *t_interval(value, se or np.nan, df, LEVEL), seeds=len(values))


def small_sample_warning(images: int, groups: int | None = None) -> str | None:
    """A warning for fewer than 50 images or 10 groups (None: images are independent); None otherwise."""
    few = []
    if images < FEW_IMAGES:
        few.append(f"{counted(images, 'image')}: too few images for a 95 % interval to be trusted")
    if groups is not None and groups < FEW_GROUPS:
        few.append(f"interval from {groups} {'group' if groups == 1 else 'groups'}: rough")
    return "; ".join(few) or None


def mean_influences(influences: Sequence[np.ndarray]) -> np.ndarray:
    lengths = {len(influences) for influences in influences}
    if len(lengths) != 1:
        raise DataError(f"all seeds must be measured on the same images: {sorted(lengths) or 'no'} images were found")
    return np.mean(influences, 0)


VarianceComponent = tuple[float, float]
"""A variance and its degrees of freedom."""


def image_component(influences: np.ndarray, groups: Groups | None) -> VarianceComponent:
    df = (len(influences) if groups is None else len(set(groups))) - 1
    return image_error(influences, groups) ** 2, df


def seed_components(values: Sequence[float] | np.ndarray) -> list[VarianceComponent]:
    if len(values) < 2:
        return []
    return [(float(np.var(values, ddof=1)) / len(values), len(values) - 1)]


def combine(parts: Sequence[VarianceComponent]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of independent components (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in parts)
    if total < TINY**2:
        return 0.0, np.inf
    # Squares of the variances themselves would underflow.
    inverse = sum((variance / total) ** 2 / df for variance, df in parts if variance > 0)
    return float(np.sqrt(total)), 1 / inverse if inverse > 0 else np.inf


def t_interval(value: float, se: float, df: float, level: float) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + level) / 2, df)) * se
    return value - half, value + half

"""Estimates and differences of metrics, with intervals over images and seeds.

A metric is the mean, over a fixed set of columns (classes), of a ratio of sums over images. Its variance over images
comes from the influence of each image; the variance over seeds is added to it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from scipy import stats

from segstudy.errors import DataError
from segstudy.study.statistics.influence import Groups, image_error

Verdict = Literal["better", "worse", "equal", "undecided", "ahead", "behind"]
"""Of one variant against another. "ahead" and "behind" are of two trained networks, where a variant has one seed."""


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its 95 % interval; NaN: not defined. seeds: of how many trainings it is the mean."""

    value: float
    low: float
    high: float
    seeds: int = 1


Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.95

FEW_IMAGES, FEW_GROUPS = 50, 10

TINY = 1e-12  # a standard error below it is rounding: nothing varies


@dataclass(frozen=True)
class MetricSamples:
    """A metric of one variant: its value and the influences (N,) of the images, for each seed.

    seeds: which they are, in the same order; two variants can be paired where they have the same ones.
    """

    values: Sequence[float]
    influences: Sequence[np.ndarray]
    seeds: Sequence[Hashable] = ()


@dataclass(frozen=True)
class Comparison:
    """A metric of b minus that of a, with standard error, degrees of freedom, two-sided p and 95 % interval.

    seeds: of a and of b. image_se: the part of `se` that more images would lessen. NaN: not defined (n/a).
    """

    delta: float
    se: float
    df: float
    p: float
    low: float
    high: float
    seeds: tuple[int, int]
    image_se: float = float("nan")


def estimate(values: Sequence[float], influences: Sequence[np.ndarray], groups: Groups | None = None) -> Estimate:
    """The mean over seeds with its 95 % interval over images and seeds; influences: (N,) for each seed.

    SE² = SE²_images(mean influence) + s²/S, t quantile with Satterthwaite's degrees of freedom from those of the parts
    (images or groups − 1, seeds − 1). One seed: images only.
    A seed whose value is NaN makes the estimate NaN: a mean over the others would be of other trainings.
    The interval is NaN where nothing varies (SE = 0), such as a share that is 0 in every image.
    """
    parts = [_image_component(_mean_influences(influences), groups), *_seed_components(values)]
    value, (se, df) = float(np.mean(values)), _combine(parts)
    return Estimate(value, *t_interval(value, se or np.nan, df, LEVEL), seeds=len(values))


def compare(a: MetricSamples, b: MetricSamples, groups: Groups | None = None, paired: bool = False) -> Comparison:
    """b minus a, both on the same images in the same order.

    SE² = SE²_images(mean influence of b − that of a) + s²_a/S_a + s²_b/S_b. With `paired` and the same seeds of b as of
    a (two or more), the seeds' part is that of the differences seed by seed. A side with one seed adds nothing: the
    result then holds for that trained network, not for the variant.
    """
    seeds = (len(a.values), len(b.values))
    phi_a, phi_b = _mean_influences(a.influences), _mean_influences(b.influences)
    if phi_a.shape != phi_b.shape:
        raise DataError(f"variants can only be compared on the same images: {len(phi_a)} and {len(phi_b)} were found")
    images = _image_component(phi_b - phi_a, groups)
    if paired and seeds[0] == seeds[1] and list(a.seeds) == list(b.seeds):
        parts = [images, *_seed_components(np.subtract(b.values, a.values))]
    else:
        parts = [images, *_seed_components(a.values), *_seed_components(b.values)]
    return from_components(float(np.mean(b.values) - np.mean(a.values)), parts, seeds)


def from_components(delta: float, parts: Sequence["VarianceComponent"], seeds: tuple[int, int]) -> Comparison:
    """A comparison from a difference and the parts (variance, degrees of freedom) of its error, images first.

    Where nothing varies (SE = 0), a difference other than 0 has no p and no interval.
    """
    se, df = _combine(parts)
    se = np.nan if se == 0 and delta != 0 else se
    interval = t_interval(delta, se, df, LEVEL)
    return Comparison(delta, se, df, _p(delta, se, df), *interval, seeds, float(parts[0][0] ** 0.5))


def average(sides: Sequence[MetricSamples]) -> MetricSamples:
    """The mean over variants, seed by seed, of as many seeds as all have: one side of a comparison of settings.

    Where the variants' seeds differ, a place's seed is all of theirs, so that no other side is paired with it.
    """
    count = min(len(side.values) for side in sides)
    values = [float(np.mean([side.values[s] for side in sides])) for s in range(count)]
    named = zip(*(side.seeds for side in sides), strict=False)
    seeds: list[Hashable] = [each[0] if len(set(each)) == 1 else each for each in named]
    return MetricSamples(values, [np.mean([side.influences[s] for side in sides], 0) for s in range(count)], seeds)


def small_sample_warning(images: int, groups: int | None = None) -> str | None:
    """The warning beside intervals from fewer than 50 images or 10 groups (None: images are independent)."""
    few = []
    if images < FEW_IMAGES:
        few.append(f"{images} images: too few images for a 95 % interval to be trusted")
    if groups is not None and groups < FEW_GROUPS:
        few.append(f"interval from {groups} {'group' if groups == 1 else 'groups'}: rough")
    return "; ".join(few) or None


def _mean_influences(influences: Sequence[np.ndarray]) -> np.ndarray:
    lengths = {len(influences) for influences in influences}
    if len(lengths) != 1:
        raise DataError(f"all seeds must be measured on the same images: {sorted(lengths) or 'no'} images were found")
    return np.mean(influences, 0)


VarianceComponent = tuple[float, float]
"""A variance and its degrees of freedom."""


def _image_component(influences: np.ndarray, groups: Groups | None) -> VarianceComponent:
    df = (len(influences) if groups is None else len(set(groups))) - 1
    return image_error(influences, groups) ** 2, df


def _seed_components(values: Sequence[float] | np.ndarray) -> list[VarianceComponent]:
    if len(values) < 2:
        return []
    return [(float(np.var(values, ddof=1)) / len(values), len(values) - 1)]


def _combine(parts: Sequence[VarianceComponent]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of independent parts (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in parts)
    if total < TINY**2:
        return 0.0, np.inf
    # Shares, not squares of variances: these would underflow.
    inverse = sum((variance / total) ** 2 / df for variance, df in parts if variance > 0)
    return float(np.sqrt(total)), 1 / inverse if inverse > 0 else np.inf


def t_interval(value: float, se: float, df: float, level: float) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + level) / 2, df)) * se
    return value - half, value + half


def _p(delta: float, se: float, df: float) -> float:
    if se == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(delta) / se, df))

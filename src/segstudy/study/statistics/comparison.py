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
from segstudy.study.statistics.influence import Groups
from segstudy.study.statistics.interval import (
    LEVEL,
    VarianceComponent,
    combine,
    image_component,
    mean_influences,
    seed_components,
    t_interval,
)

Verdict = Literal["better", "worse", "equal", "undecided", "ahead", "behind"]
"""Of one variant against another; "ahead" and "behind" if a variant has one seed (two trained networks only)."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class MetricSamples:
    """A metric of one variant: its value and the influences (N,) of the images, for each seed.

    seeds: in the same order as values; two variants with equal seeds can be paired.
    """

    values: Sequence[float]
    influences: Sequence[np.ndarray]
    seeds: Sequence[Hashable] = ()


@dataclass(frozen=True)
class Comparison:
    """A metric of b minus that of a, with standard error, degrees of freedom, two-sided p and 95 % interval.

    seeds: numbers of seeds of a and b. image_se: the part of `se` due to images. NaN: not defined (n/a).
    """

    delta: float
    se: float
    df: float
    p: float
    low: float
    high: float
    seeds: tuple[int, int]
    image_se: float = float("nan")


def compare(a: MetricSamples, b: MetricSamples, groups: Groups | None = None, paired: bool = False) -> Comparison:
    """b minus a on the same images in the same order.

    SE² = SE²_images(mean influence of b − mean influence of a) + s²_a/S_a + s²_b/S_b. If `paired`, and a and b have the
    same seeds (two or more), the variance of the differences seed by seed replaces the last two terms. A side with one
    seed adds no term: the result then holds for that trained network, not for the variant.
    """
    seeds = (len(a.values), len(b.values))
    phi_a, phi_b = mean_influences(a.influences), mean_influences(b.influences)
    if phi_a.shape != phi_b.shape:
        raise DataError(f"variants can only be compared on the same images: {len(phi_a)} and {len(phi_b)} were found")
    images = image_component(phi_b - phi_a, groups)
    if paired and seeds[0] == seeds[1] and list(a.seeds) == list(b.seeds):
        parts = [images, *seed_components(np.subtract(b.values, a.values))]
    else:
        parts = [images, *seed_components(a.values), *seed_components(b.values)]
    return from_components(float(np.mean(b.values) - np.mean(a.values)), parts, seeds)


def from_components(delta: float, parts: Sequence["VarianceComponent"], seeds: tuple[int, int]) -> Comparison:
    """A comparison from a difference and its variance components, images first.

    If SE is 0 and the difference is not, p and interval are NaN.
    """
    se, df = combine(parts)
    se = np.nan if se == 0 and delta != 0 else se
    p = 1.0 if se == 0 else float(2 * stats.t.sf(abs(delta) / se, df))
    return Comparison(delta, se, df, p, *t_interval(delta, se, df, LEVEL), seeds, float(parts[0][0] ** 0.5))


def average(sides: Sequence[MetricSamples]) -> MetricSamples:
    """The mean over variants, seed by seed: one side of a comparison of settings. Uses as many seeds as all have.

    If the variants' seeds differ, the tuple of them is the seed, so that it is paired with no other side.
    """
    count = min(len(side.values) for side in sides)
    values = [float(np.mean([side.values[s] for side in sides])) for s in range(count)]
    named = zip(*(side.seeds for side in sides), strict=False)
    seeds: list[Hashable] = [each[0] if len(set(each)) == 1 else each for each in named]
    return MetricSamples(values, [np.mean([side.influences[s] for side in sides], 0) for s in range(count)], seeds)

"""Marks single classes and metrics whose difference is significant at a false discovery rate of 10 %. No verdicts."""

from collections.abc import Mapping, Sequence

import numpy as np

from segstudy.study.analysis.plan import Side
from segstudy.study.analysis.samples import ComparisonSettings, RunsByVariant, samples_of_ratio
from segstudy.study.results import TestResult
from segstudy.study.statistics.comparison import MetricSamples
from segstudy.study.statistics.multiplicity import benjamini_hochberg

FALSE_DISCOVERY_RATE = 0.1
"""Expected share of false positives among the marked differences."""

MARK = "◆"


def significant_differences(
    seeds: RunsByVariant,
    ratios: Mapping[str, Mapping[str, MetricSamples | None]],
    pairs: Sequence[tuple[Side, Side]],
    setting: ComparisonSettings,
) -> dict[tuple[str, str], set[str]]:
    """For each planned pair, the names of the supported classes and metrics that differ at a false discovery rate of
    10 %, controlled over all pairs, classes and metrics together.
    ratios: the samples of each variant's METRICS. Source: Benjamini and Hochberg 1995.
    """
    held = {name: _defined(runs, ratios[name], setting) for name, runs in seeds.items()}
    found: list[tuple[tuple[str, str], str, float]] = []
    for a, b in pairs:
        shared = set.intersection(*(set(held[name]) for name in (*a.variants, *b.variants)))
        for what in sorted(shared):
            left, right = ([held[name][what] for name in side.variants] for side in (a, b))
            found.append(((a.name, b.name), what, setting.compare(left, right).p))
    marks: dict[tuple[str, str], set[str]] = {(a.name, b.name): set() for a, b in pairs}
    kept = benjamini_hochberg([p for _, _, p in found], FALSE_DISCOVERY_RATE)
    for (pair, what, _), significant in zip(found, kept, strict=True):
        if significant:
            marks[pair].add(what)
    return marks


def _defined(
    runs: Sequence[TestResult], ratios: Mapping[str, MetricSamples | None], setting: ComparisonSettings
) -> dict[str, MetricSamples]:
    """Samples of the IoU of each supported class and of each ratio of sums that is defined."""
    named = {
        name: samples_of_ratio(runs, lambda t, c=c: (t.counts.true_positives[:, c], t.counts.union[:, c]))  # type: ignore[misc]
        for c, name in enumerate(runs[0].classes)
        if setting.scored[c] and setting.verdicts
    }
    return {name: m for name, m in {**named, **ratios}.items() if m is not None and not np.isnan(m.values).any()}

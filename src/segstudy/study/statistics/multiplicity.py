"""Several comparisons at once: simultaneous intervals, verdicts, false discovery rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from segstudy.errors import ConfigError
from segstudy.study.statistics.comparison import Comparison, Key, Verdict
from segstudy.study.statistics.interval import t_interval

POWER = 0.8  # of showing a true difference as large as `detectable`


@dataclass(frozen=True)
class Decision:
    """The result of one of several comparisons. p and the wide interval, which decides the verdict, are corrected for
    the number of comparisons (Bonferroni)."""

    p: float
    wide_low: float
    wide_high: float
    verdict: Verdict
    detectable: float


def decide(comparisons: Mapping[Key, Comparison], margin: float = 0.005, alpha: float = 0.05) -> dict[Key, Decision]:
    """Verdicts of all planned comparisons from simultaneous intervals.

    The probability that any interval misses its true difference, or that any verdict is wrong, is at most alpha.

    * equal: the interval lies within ±margin, even if it excludes 0 (two one-sided tests, Schuirmann 1987).
    * better, worse: the interval excludes 0.
    * ahead, behind: the same if a side has only one seed. This holds for the two trained networks, not for the
      variants; "equal" is not given.
    * undecided: all other cases, also if a metric is NaN (such pairs are not counted in the correction).

    detectable: the true difference that such a study shows with a power of 80 %.
    Raises ConfigError for a margin below 0 or an alpha outside 0…1.
    """
    if not margin >= 0 or not 0 < alpha < 1:
        raise ConfigError(f"margin must be 0 or more and alpha between 0 and 1; got margin={margin}, alpha={alpha}")
    number = sum(not np.isnan(c.p) for c in comparisons.values())
    decisions = {}
    for key, c in comparisons.items():
        low, high = simultaneous_interval(c, number, alpha)
        verdict = _verdict(low, high, margin, min(c.seeds) == 1)
        detectable = (high - low) / 2 + float(stats.t.ppf(POWER, c.df)) * c.se
        decisions[key] = Decision(float(np.minimum(1.0, number * c.p)), low, high, verdict, detectable)
    return decisions


def simultaneous_interval(comparison: Comparison, number: int, alpha: float = 0.05) -> tuple[float, float]:
    """The comparison's interval of level 1 − alpha/number, with a t quantile of its own degrees of freedom.

    `number` such intervals hold together with probability 1 − alpha, whatever their correlation. NaN without a standard
    error. Source: Bonferroni's inequality (Dunn 1961).
    """
    if np.isnan(comparison.p):
        return float("nan"), float("nan")
    return t_interval(comparison.delta, comparison.se, comparison.df, 1 - alpha / number)


def benjamini_hochberg(p: Sequence[float] | np.ndarray, level: float = 0.1) -> np.ndarray:
    """Which of many p-values are significant at a false discovery rate of `level`: bool, like p; False for NaN.

    Source: Benjamini and Hochberg 1995.
    """
    p = np.asarray(p, float)
    known = ~np.isnan(p)
    significant = np.zeros(p.shape, bool)
    significant[known] = stats.false_discovery_control(p[known]) <= level
    return significant


def _verdict(low: float, high: float, margin: float, one_seed: bool) -> Verdict:
    inside = -margin <= low and high <= margin
    if inside and not one_seed:
        return "equal"
    if inside or not (low > 0 or high < 0):
        return "undecided"
    if low > 0:
        return "ahead" if one_seed else "better"
    return "behind" if one_seed else "worse"

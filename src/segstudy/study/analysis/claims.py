"""Test the claims of an experiment file against the data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segstudy.console import format_fraction, format_range, format_signed
from segstudy.measures import operating_curve
from segstudy.study.analysis import time_to_accuracy
from segstudy.study.analysis.findings import ClaimResult, Difference
from segstudy.study.analysis.metrics import IMAGE_METRICS, by_name
from segstudy.study.analysis.plan import PER_TRAINING, Claim, Plan, Side
from segstudy.study.analysis.samples import (
    ComparisonSettings,
    RunsByVariant,
    history,
    samples,
    samples_of_metric,
    samples_of_miou,
)
from segstudy.study.results import TestResult
from segstudy.study.statistics import comparison, multiplicity
from segstudy.study.statistics.bootstrap import image_weights
from segstudy.study.statistics.comparison import Comparison, MetricSamples

DRAWS = 400
"""Bootstrap draws of the images for a claim at equal spill, which is no ratio of sums."""


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with its comparison (None: not measured, and `words` say why) and the interval that decides.

    wide: the simultaneous interval; family: of which comparisons, in words ("95 %": of this one alone).
    """

    claim: Claim
    compared: Comparison | None
    words: str = ""
    wide: tuple[float, float] = (math.nan, math.nan)
    family: str = ""


def judge_claims(
    plan: Plan, seeds: RunsByVariant, setting: ComparisonSettings, differences: Sequence[Difference] = ()
) -> list[ClaimResult]:
    """Each claim of the plan with its outcome, by simultaneous intervals.

    A claim on the mIoU of a planned pair takes the interval of that pair's verdict, so that both agree; the
    others that have an interval are one family.
    """
    changes = {name: runs[0].record.get("changes", [name]) for name, runs in seeds.items()}
    planned = {(d.a, d.b): (d.wide_low, d.wide_high) for d in differences if d.metric == "miou"}
    planned |= {(b, a): (-high, -low) for (a, b), (low, high) in planned.items()}
    held = [_judge(claim, changes, seeds, setting, planned, len(differences)) for claim in plan.claims]
    family = [h for h in held if h.compared is not None and not h.family and not np.isnan(h.compared.p)]
    said = f"all {len(family)} claims" if len(family) > 1 else "95 %"
    return [
        _outcome(replace(h, wide=multiplicity.simultaneous_interval(h.compared, len(family)), family=said), setting)
        if h.compared is not None and not h.family
        else _outcome(h, setting)
        for h in held
    ]


def _judge(
    claim: Claim,
    changes: Mapping[str, Sequence[str]],
    seeds: RunsByVariant,
    setting: ComparisonSettings,
    planned: Mapping[tuple[str, str], tuple[float, float]],
    pairs: int,
) -> JudgedClaim:
    """A claim's comparison; with its interval where that is of a planned pair."""
    against, variant = Side.of(claim.against, changes), Side.of(claim.variant, changes)
    if not (against.variants and variant.variants):
        absent = claim.variant if against.variants else claim.against
        return JudgedClaim(claim, None, f"no run of {absent!r} in this study")
    runs = [[seeds[name] for name in side.variants] for side in (against, variant)]
    found = _compare(claim, runs, setting)
    if found is None or np.isnan(found.delta):
        words = f"{claim.figure} is not defined for this data, or was not measured"
        if claim.figure == "epochs_to_90":
            words = f"not every training reached a val mIoU of {format_fraction(setting.target)}, 90 % of the best"
        tests = [t for side in runs for each in side for t in each]
        if claim.at == "equal_spill" and any("offset_margins" not in t.sums for t in tests if t.background is not None):
            words = "its runs were tested by an older version, or are masks → segstudy evaluate RUN --retest"
        return JudgedClaim(claim, None, words)
    pair = against.name, variant.name
    if claim.figure == "miou" and pair in planned:
        return JudgedClaim(claim, found, "", planned[pair], f"all {pairs} planned pairs" if pairs > 1 else "95 %")
    return JudgedClaim(claim, found)


def _outcome(held: JudgedClaim, setting: ComparisonSettings) -> ClaimResult:
    """Supported or refuted where the wide interval lies on one side of the limit, else undecided."""
    claim, compared = held.claim, held.compared
    if compared is None:
        return ClaimResult(claim.say, "not measured", held.words)
    where = " at equal spill" if claim.at == "equal_spill" else ""
    words = f"{claim.figure}{where}: {claim.variant} − {claim.against} = {format_signed(compared.delta)}"
    if claim.figure in PER_TRAINING and min(compared.seeds) == 1:
        return ClaimResult(claim.say, "undecided", f"{words}; its interval is over seeds, and one seed has none")
    if np.isnan(compared.p):
        return ClaimResult(claim.say, "undecided", f"{words}; no interval: one image decides it, or nothing varies")
    words += f" ({format_range(compared.low, compared.high)}"
    words += f"; {held.family}: {format_range(*held.wide)})" if held.family != "95 %" else ")"
    if claim.no_worse:
        words += f"; claimed: at most {format_fraction(claim.margin)} worse"
    if claim.figure == "miou" and not setting.verdicts:
        return ClaimResult(claim.say, "undecided", f"{words}; no verdict: every class is in too few images")
    sign = 1 if claim.direction == "higher" else -1
    low, high = sorted((sign * held.wide[0], sign * held.wide[1]))
    limit = -claim.margin if claim.no_worse else claim.margin
    outcome = "supported" if low > limit else "refuted" if high < limit else "undecided"
    if min(compared.seeds) == 1 and outcome != "undecided":
        words += (
            f". {outcome.capitalize()} for these trained networks. One seed per variant is not enough to say it of "
            "the variants: add seed=0,1,2"
        )
        outcome = "undecided"
    return ClaimResult(claim.say, outcome, words)  # type: ignore[arg-type]


def _compare(
    claim: Claim, sides: Sequence[Sequence[Sequence[TestResult]]], setting: ComparisonSettings
) -> Comparison | None:
    """The claimed metric of `variant` minus that of `against`; either side may be the mean of several variants."""
    if claim.at == "equal_spill":
        against, variant = ([t for runs in side for t in runs] for side in sides)
        found = _at_equal_spill(claim.figure, against, variant, setting.clusters)
        # Trainings of several variants are not seeds of one: a side has as many seeds as its smallest variant.
        first, second = (min(len(runs) for runs in side) for side in sides)
        return found and replace(found, seeds=(first, second))
    a, b = ([_samples(claim.figure, runs, setting) for runs in side] for side in sides)
    known_a, known_b = ([m for m in side if m is not None] for side in (a, b))
    return setting.compare(known_a, known_b) if (len(known_a), len(known_b)) == (len(a), len(b)) else None


def _samples(metric: str, runs: Sequence[TestResult], setting: ComparisonSettings) -> MetricSamples | None:
    if metric == "miou":
        return samples_of_miou(runs, setting.scored)
    if metric == "epochs_to_90":
        values = [time_to_accuracy.time_to_target(history(t), setting.target).epochs for t in runs]
        # Scatter over seeds alone is known.
        return MetricSamples(values, [np.zeros(len(t.names)) for t in runs], [t.seed for t in runs])
    if metric in IMAGE_METRICS:
        return samples(runs, IMAGE_METRICS[metric])
    return samples_of_metric(runs, by_name(metric), setting.scored)


def _at_equal_spill(
    metric: str, against: Sequence[TestResult], variant: Sequence[TestResult], clusters: Sequence[str] | None
) -> Comparison | None:
    """`missed` or `hallucinated` at equal spill: the background logit of `against` is shifted until it spills as much
    background as `variant`. Standard error: bootstrap over images, and the variance over trainings."""
    if any("offset_margins" not in t.sums for t in (*against, *variant)):
        return None
    classes, images = len(against[0].classes), len(against[0].names)
    labels = np.unique(np.arange(images) if clusters is None else np.array(clusters), return_inverse=True)[1]
    draws = image_weights(labels, DRAWS)
    weights = np.concatenate([np.ones((1, images)), draws])  # the first row is the images as they are
    a, b = ([_resampled_sums(t.sums["offset_margins"], weights) for t in side] for side in (against, variant))

    def delta(one: np.ndarray, other: np.ndarray) -> float:
        spill = operating_curve.at_equal_spill(one, other, classes)
        return getattr(spill, f"{metric}_b") - getattr(spill, f"{metric}_a")

    all_a, all_b = np.sum(a, 0), np.sum(b, 0)
    value, *values = (delta(one, other) for one, other in zip(all_a, all_b, strict=True))
    parts = [(float(np.var(values, ddof=1)), math.inf if clusters is None else labels.max().item())]
    for each in ([delta(t[0], all_b[0]) for t in a], [delta(all_a[0], t[0]) for t in b]):
        if len(each) > 1:
            parts.append((float(np.var(each, ddof=1)) / len(each), len(each) - 1))
    return comparison.from_components(value, parts, (len(against), len(variant)))


def _resampled_sums(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums (N, …) over the images, weighted by each row of weights (D,N): (D, …)."""
    return (weights @ sums.reshape(len(sums), -1)).reshape(-1, *sums.shape[1:])

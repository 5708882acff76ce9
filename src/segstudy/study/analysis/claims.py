"""Test the claims of an experiment file on the results."""

import math
from collections.abc import Sequence

import numpy as np

from segstudy.formatting import format_number, format_range, format_signed
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
from segstudy.study.results import NOT_COMPARED, TestResult
from segstudy.study.statistics import comparison, multiplicity
from segstudy.study.statistics.bootstrap_check import image_weights
from segstudy.study.statistics.comparison import Comparison, MetricSamples

DRAWS = 400
"""Bootstrap draws for a claim at equal spill: its metric is not a ratio of sums, so it has no influences."""


def judge_claims(
    plan: Plan, seeds: RunsByVariant, setting: ComparisonSettings, differences: Sequence[Difference] = ()
) -> list[ClaimResult]:
    """Each claim of the plan with its outcome, read from a simultaneous interval.

    A claim on the mIoU of a planned pair uses the interval of that pair's verdict, so that both agree. The intervals of
    all other claims are corrected together.
    """
    changes = {name: runs[0].record.get("changes", [name]) for name, runs in seeds.items()}
    planned = {(d.a, d.b): (d.wide_low, d.wide_high) for d in differences}
    planned |= {(b, a): (-high, -low) for (a, b), (low, high) in planned.items()}
    held = []
    for claim in plan.claims:
        against, variant = Side.of(claim.against, changes), Side.of(claim.variant, changes)
        wide = planned.get((against.name, variant.name)) if claim.figure == "miou" else None
        held.append((claim, _compare(claim, against, variant, seeds, setting), wide))
    others = [c for _, c, wide in held if isinstance(c, Comparison) and wide is None and not np.isnan(c.p)]
    results = []
    for claim, compared, wide in held:
        if isinstance(compared, str):
            results.append(ClaimResult(claim.say, "not measured", compared))
        elif wide is not None:
            results.append(_outcome(claim, compared, wide, _family(len(differences), "planned pairs"), setting))
        else:
            wide = multiplicity.simultaneous_interval(compared, len(others))
            results.append(_outcome(claim, compared, wide, _family(len(others), "claims"), setting))
    return results


def _family(number: int, what: str) -> str:
    return f"all {number} {what}" if number > 1 else ""


def _compare(
    claim: Claim, against: Side, variant: Side, seeds: RunsByVariant, setting: ComparisonSettings
) -> Comparison | str:
    """The claimed metric of `variant` minus that of `against`, or the reason why it was not measured."""
    if not (against.variants and variant.variants):
        absent = claim.variant if against.variants else claim.against
        return f"no run of {absent!r} in this study"
    a, b = ([seeds[name] for name in side.variants] for side in (against, variant))
    found = _compare_at_equal_spill(claim.figure, a, b, setting) if claim.at == "equal_spill" else None
    if claim.at == "trained":
        left, right = ([_samples(claim.figure, runs, setting) for runs in side] for side in (a, b))
        known_left, known_right = ([m for m in side if m is not None] for side in (left, right))
        if (len(known_left), len(known_right)) == (len(left), len(right)):
            found = setting.compare(known_left, known_right)
    if found is not None and not np.isnan(found.delta):
        return found
    tests = [t for runs in (*a, *b) for t in runs]
    if not all(t.sums for t in tests):
        return NOT_COMPARED
    if claim.at == "equal_spill" and any("offset_margins" not in t.sums for t in tests if t.background is not None):
        return "an older version tested its runs, or they are masks → segstudy evaluate RUN --retest"
    if claim.figure == "epochs_to_90":
        return f"not every training reached a val mIoU of {format_number(setting.target)}, 90 % of the best"
    return f"{claim.figure} is not defined for these data, or was not measured"


def _outcome(
    claim: Claim, compared: Comparison, wide: tuple[float, float], family: str, setting: ComparisonSettings
) -> ClaimResult:
    """Supported or refuted if the wide interval lies on one side of the limit, else undecided.

    family: text that names the comparisons the wide interval is corrected for; "": only this one.
    """
    where = " at equal spill" if claim.at == "equal_spill" else ""
    words = f"{claim.figure}{where}: {claim.variant} − {claim.against} = {format_signed(compared.delta)}"
    if claim.figure in PER_TRAINING and min(compared.seeds) == 1:
        return ClaimResult(claim.say, "undecided", f"{words}; its interval needs several seeds")
    if np.isnan(compared.p):
        return ClaimResult(claim.say, "undecided", f"{words}; no interval: one image alone counts, or nothing varies")
    words += f" ({format_range(compared.low, compared.high)}"
    words += f"; {family}: {format_range(*wide)})" if family else ")"
    if claim.no_worse:
        words += f"; claimed: at most {format_number(claim.margin)} worse"
    if claim.figure == "miou" and not setting.verdicts:
        return ClaimResult(claim.say, "undecided", f"{words}; no verdict: every class is in too few images")
    sign = 1 if claim.direction == "higher" else -1
    low, high = sorted(sign * end for end in wide)
    limit = -claim.margin if claim.no_worse else claim.margin
    outcome = "supported" if low > limit else "refuted" if high < limit else "undecided"
    if min(compared.seeds) == 1 and outcome != "undecided":
        words += (
            f". {outcome.capitalize()} for these trained networks. One seed per variant is not enough to say it of "
            "the variants: add seed=0,1,2"
        )
        outcome = "undecided"
    return ClaimResult(claim.say, outcome, words)  # type: ignore[arg-type]


def _samples(metric: str, runs: Sequence[TestResult], setting: ComparisonSettings) -> MetricSamples | None:
    if metric == "miou":
        return samples_of_miou(runs, setting.scored)
    if metric == "epochs_to_90":
        values = [time_to_accuracy.time_to_target(history(t), setting.target)[0] for t in runs]
        # It has a variance over seeds, but none over images.
        return MetricSamples(values, [np.zeros(len(t.names)) for t in runs], [t.seed for t in runs])
    if metric in IMAGE_METRICS:
        return samples(runs, IMAGE_METRICS[metric])
    return samples_of_metric(runs, by_name(metric), setting.scored)


def _compare_at_equal_spill(
    metric: str, a: Sequence[Sequence[TestResult]], b: Sequence[Sequence[TestResult]], setting: ComparisonSettings
) -> Comparison | None:
    """Compare `missed` or `hallucinated` at equal spill: the background logit of `a` is shifted until `a` spills as
    much background as `b`. Variance: bootstrap over images, plus the variance over trainings."""
    against, variant = ([t for runs in side for t in runs] for side in (a, b))
    if any("offset_margins" not in t.sums for t in (*against, *variant)):
        return None
    classes, images = len(against[0].classes), len(against[0].names)
    labels = np.unique(
        np.arange(images) if setting.clusters is None else np.array(setting.clusters), return_inverse=True
    )[1]
    draws = image_weights(labels, DRAWS)
    weights = np.concatenate([np.ones((1, images)), draws])  # the first row is the images as they are
    sums_a, sums_b = ([np.tensordot(weights, t.sums["offset_margins"], 1) for t in side] for side in (against, variant))

    def delta(one: np.ndarray, other: np.ndarray) -> float:
        spill = operating_curve.at_equal_spill(one, other, classes)
        return getattr(spill, f"{metric}_b") - getattr(spill, f"{metric}_a")

    all_a, all_b = np.sum(sums_a, 0), np.sum(sums_b, 0)
    value, *values = (delta(one, other) for one, other in zip(all_a, all_b, strict=True))
    parts = [(float(np.var(values, ddof=1)), math.inf if setting.clusters is None else labels.max().item())]
    for each in ([delta(t[0], all_b[0]) for t in sums_a], [delta(all_a[0], t[0]) for t in sums_b]):
        if len(each) > 1:
            parts.append((float(np.var(each, ddof=1)) / len(each), len(each) - 1))
    # Trainings of different variants are not seeds of one variant: count the seeds of the smallest.
    return comparison.from_components(value, parts, (min(map(len, a)), min(map(len, b))))

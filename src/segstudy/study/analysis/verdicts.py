"""Sentences for the verdict on a planned difference and for the result of a study."""

import math
from collections.abc import Sequence

import numpy as np

from segstudy.formatting import format_number, format_percent, format_range, format_signed
from segstudy.study.analysis.findings import Difference, Group
from segstudy.study.statistics.comparison import Comparison, Verdict
from segstudy.study.statistics.multiplicity import Decision


def verdict_sentence(
    a: str, b: str, metric: str, comparison: Comparison, decision: Decision,
    margin: float = 0.005, seed_deviation: float | None = None,
) -> str:  # fmt: skip
    """The verdict on variant b against variant a as a sentence, with the simultaneous interval.

    seed_deviation: standard deviation over seeds in this study; the sentence names it where a side has one seed.
    """
    if np.isnan(comparison.delta):
        return f"undecided: {metric} is not defined (n/a) for {a} or {b}"
    if np.isnan(decision.wide_low):
        return (
            f"undecided: {b} − {a} in {metric} is {format_signed(comparison.delta)}, without an interval: all "
            "images show the same difference, or a class occurs in one image only"
        )
    low, high = decision.wide_low, decision.wide_high
    smallest, largest = (-high, -low) if comparison.delta < 0 else (low, high)
    size = f"{format_number(abs(comparison.delta))} ({format_range(smallest, largest)}"  # the seeds follow
    interval = format_range(low, high)
    seeds = _seed_words(*comparison.seeds)
    if decision.verdict in ("better", "worse"):
        return f"{b} is {decision.verdict} than {a} in {metric} by {size}; {seeds})"
    if decision.verdict == "equal":
        text = f"{b} and {a} are equal in {metric} within ±{format_number(margin)} ({interval}; {seeds})"
        return text + "; the difference is significant, but too small to matter" * (not low <= 0 <= high)
    if decision.verdict in ("ahead", "behind"):
        place = "ahead of" if decision.verdict == "ahead" else "behind"
        return (
            f"checkpoint {b} is {place} checkpoint {a} in {metric} by {size}, {_variance_sources(*comparison.seeds)}). "
            f"{_one_training(a, b, decision.verdict, comparison.seeds, seed_deviation)}"
        )
    if min(comparison.seeds) == 1 and -margin <= low and high <= margin:
        return (
            f"undecided: checkpoints {b} and {a} are equal in {metric} within ±{format_number(margin)} ({interval}, "
            f"{_variance_sources(*comparison.seeds)}). "
            f"{_one_training(a, b, decision.verdict, comparison.seeds, seed_deviation)}"
        )
    return (
        f"undecided: {b} − {a} in {metric} is {format_signed(comparison.delta)} ({interval}; {seeds}); "
        f"{what_would_decide(comparison, decision)}"
    )


def what_would_decide(comparison: Comparison, decision: Decision) -> str:
    """The smallest difference that could have been shown, and what would halve it; "" without an interval."""
    if np.isnan(decision.detectable):
        return ""
    if decision.detectable > 1:
        return "this study could not have shown any difference: more seeds or images are needed"
    between = ", between these checkpoints" if min(comparison.seeds) == 1 else ""
    smallest = f"the smallest difference this study could have shown is {format_number(decision.detectable)}{between}"
    return f"{smallest}; {how_to_halve(comparison)}"


def how_to_halve(comparison: Comparison, most: float = 20) -> str:
    """How many seeds, or how many times the images, would halve the smallest detectable difference.

    Proposes at most `most` times as many.
    """
    images = comparison.image_se**2
    seeds = max(comparison.se**2 - images, 0.0)
    target = comparison.se**2 / 4
    if target == 0:
        return "more seeds or images would not reduce it"
    ways = []
    if images < target and seeds / (target - images) <= most:
        a, b = (int(np.ceil(round(count * seeds / (target - images), 6))) for count in comparison.seeds)
        ways.append(f"{a} seeds" if a == b else f"{a} and {b} seeds")
    if seeds < target and images / (target - seeds) <= most:
        ways.append(f"{images / (target - seeds):.0f} times the images")
    if ways:
        return f"about {' (or '.join(ways)}{')' * (len(ways) - 1)} would halve it"
    return "only four times as many seeds and four times as many images together would halve it"


COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _seed_words(a: int, b: int) -> str:
    first, second = (COUNTS[n] if n < len(COUNTS) else str(n) for n in (a, b))
    if a == b:
        return f"{first} seed{'s' * (a != 1)} each" + ", images only" * (a == 1)
    return f"{first} and {second} seeds"


def _variance_sources(a: int, b: int) -> str:
    return "images only" if a == b == 1 else f"images and the seeds of the other variant; {_seed_words(a, b)}"


def _one_training(a: str, b: str, verdict: Verdict, seeds: tuple[int, int], deviation: float | None) -> str:
    known = "unknown here" if deviation is None else f"{format_number(deviation)} in this study"
    claim = {"ahead": "better", "behind": "worse", "undecided": f"equal to {a}"}[verdict]
    return (
        f"One training {_which(a, b, seeds)}: this does not show that variant {b} is {claim}. "
        f"Standard deviation over seeds: {known}"
    )


def _which(a: str, b: str, seeds: tuple[int, int]) -> str:
    """The side with one training."""
    return "each" if seeds == (1, 1) else f"of {a if seeds[0] == 1 else b}"


REASONS = {
    "objects_right": ("gives fewer objects the right label", "gives more objects the right label"),
    "objects_wrong_label": ("gives fewer objects a wrong label", "gives more objects a wrong label"),
    "objects_mixed": ("gives fewer objects a mix of labels", "gives more objects a mix of labels"),
    "objects_partial": ("finds fewer objects only in part", "finds more objects only in part"),
    "objects_missed": ("misses fewer objects", "misses more objects"),
    "missed": ("misses less of the objects' area", "misses more of the objects' area"),
    "mislabelled": ("gives less of the objects' area a wrong label", "gives more of the objects' area a wrong label"),
    "spilled": ("spills less onto the background", "spills more onto the background"),
}
"""Metric → what a variant does with a smaller and with a larger share."""


def result_sentence(group: Group) -> str:
    """The result of a group in one sentence: its main difference, and the error that explains it best."""
    if len(group.variants) == 1:
        (v,) = group.variants
        return f"{v.name} is the only variant, with mIoU {v.miou}: a second variant is needed for a comparison."
    d = group.main_difference
    if d is None:
        best = max(group.variants, key=lambda v: -1 if math.isnan(v.miou.value) else v.miou.value)
        why = "The planned differences are not defined (n/a)" if group.differences else "No planned pair is complete"
        highest = "" if math.isnan(best.miou.value) else f"; {best.name} has the highest mIoU, {best.miou}"
        return f"{why}{highest}."
    low, high = (-d.wide_high, -d.wide_low) if d.delta < 0 else (d.wide_low, d.wide_high)
    size = f"{format_number(abs(d.delta))} mIoU ({format_range(low, high)}"  # the seeds follow
    reason = _reason(group, d)
    because = f": {reason}" if reason else ""
    if d.verdict in ("better", "worse"):
        return f"{d.b} is {d.verdict} than {d.a} by {size}; {_seed_words(*d.seeds)}){because}."
    if d.verdict in ("ahead", "behind"):
        masks = not any(v.folders for v in group.variants)
        where = "In these predictions" if masks else f"With one training {_which(d.a, d.b, d.seeds)}"
        more = "predictions of more trainings" if masks else "more seeds (seed=0,1,2)"
        place = "ahead of" if d.verdict == "ahead" else "behind"
        return f"{where}, {d.b} is {place} {d.a} by {size}){because}; {more} would show whether this holds."
    interval = f"({format_range(d.wide_low, d.wide_high)}; {_seed_words(*d.seeds)})"
    if d.verdict == "equal":
        return f"{d.b} and {d.a} are equal in mIoU within ±{format_number(group.margin)} {interval}."
    found = f"{format_signed(d.delta)} mIoU" + (
        f" {interval}" if math.isfinite(d.wide_low) else ", without an interval"
    )
    needed = f"; {d.needed}" if d.needed else ""
    return f"Nothing is decided yet: the largest difference, {d.b} − {d.a}, is {found}{needed}."


def _reason(group: Group, d: Difference) -> str:
    """The significant error share that changed most in the verdict's direction, and one that changed against it at
    least half as much; "" without any."""
    of = {v.name: v.metrics for v in group.variants}
    names = [name for name in REASONS if name in group.significant.get((d.a, d.b), ())]
    if not names or not {d.a, d.b} <= of.keys():
        return ""
    shares = {name: (of[d.a][name].value, of[d.b][name].value) for name in names}
    sign = 1 if d.delta > 0 else -1
    gains = {n: round((b - a) * (sign if n == "objects_right" else -sign), 3) for n, (a, b) in shares.items()}
    best, worst = max(names, key=lambda name: gains[name]), min(names, key=lambda name: gains[name])
    if gains[best] <= 0:
        return ""
    texts = [
        f"it {REASONS[name][b > a]} ({format_percent(b)} instead of {format_percent(a)})"
        for name, (a, b) in ((name, shares[name]) for name in (best, worst))
    ]
    return texts[0] if -gains[worst] < gains[best] / 2 else ", but ".join(texts)


def first_sentence(groups: Sequence[Group]) -> str:
    """The result in one sentence a group."""
    return " ".join(group.sentence for group in groups) or "No finished run could be compared."

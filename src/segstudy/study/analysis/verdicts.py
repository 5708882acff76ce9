"""Sentences for the verdict on a planned difference and for the result of a study."""

import math
from collections.abc import Sequence

import numpy as np

from segstudy.formatting import format_number, format_range, format_signed
from segstudy.study.analysis.findings import Group
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
    between = ", between these checkpoints" if min(comparison.seeds) == 1 else ""
    return (
        f"undecided: {b} − {a} in {metric} is {format_signed(comparison.delta)} ({interval}; {seeds}); the smallest "
        f"difference this study could have shown is {format_number(decision.detectable)}{between}; "
        f"{how_to_halve(comparison)}"
    )


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
    of = "each" if seeds == (1, 1) else f"of {a if seeds[0] == 1 else b}"
    known = "unknown here" if deviation is None else f"{format_number(deviation)} in this study"
    claim = {"ahead": "better", "behind": "worse", "undecided": f"equal to {a}"}[verdict]
    return f"One training {of}: this does not show that variant {b} is {claim}. Standard deviation over seeds: {known}"


VERDICTS = {
    "better": "is better than",
    "worse": "is worse than",
    "equal": "equals",
    "undecided": "is not shown to differ from",
    "ahead": "(this training) is ahead of",
    "behind": "(this training) is behind",
}


def first_sentence(groups: Sequence[Group]) -> str:
    """The result in one sentence a group."""
    sentences = []
    for group in groups:
        best = max(group.variants, key=lambda v: -1 if math.isnan(v.miou.value) else v.miou.value)
        text = (
            f"Of {len(group.variants)} variants, {best.name} has the highest {group.miou_name}: "
            if len(group.variants) > 1
            else f"{best.name} is the only variant. Its {group.miou_name}: "
        ) + format_number(best.miou.value)
        compared = [f"{d.b} {VERDICTS[d.verdict]} {d.a} ({format_signed(d.delta)})" for d in group.differences]
        sentences.append("; ".join([text, *filter(None, [", ".join(compared)])]) + ".")
    return " ".join(sentences) or "No finished run could be compared."

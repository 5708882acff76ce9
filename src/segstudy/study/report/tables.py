"""The tables of a report as text."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segstudy.formatting import (
    MISSING,
    NOT_DEFINED,
    format_duration,
    format_interval,
    format_millions,
    format_number,
    format_signed,
)
from segstudy.study.analysis.findings import Group, Variant
from segstudy.study.analysis.metrics import METRICS
from segstudy.study.analysis.significance import MARK
from segstudy.study.report import text


class Table(NamedTuple):
    """A head and rows of text. The first `words` columns hold text, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def main_table(group: Group) -> Table:
    """The variants with their mIoU, planned differences, outcomes and cost."""
    miou = f"{'as published: ' * group.published}{group.miou_name} (95 %)"
    head = ("variant", miou, "difference", "objects", "parameters", "GFLOP", "images/s", "time")
    return Table(head, [_main_row(group, v) for v in group.variants], 4)


def _main_row(group: Group, v: Variant) -> list[str]:
    verdicts = "; ".join(f"{text.format_verdict(d)} against {d.a}" for d in text.verdicts_of(group, v))
    seeds = text.trainings(v)
    miou = f"{v.miou}, {seeds} seed{'s' * (seeds != 1)}"
    return [text.full_name(v), miou, verdicts or MISSING, text.format_outcomes(v), *_cost(v)]


def _cost(v: Variant) -> list[str]:
    parameters, gflop, speed, seconds = (
        text.mean_over_runs(v, key) for key in ("parameters", "gflop", "images_per_second", "seconds")
    )
    return [format_millions(parameters), format_number(gflop, 1), format_number(speed, 1), format_duration(seconds)]


def claims(group: Group) -> Table:
    return Table(("claim", "outcome", "because"), [(c.text, c.outcome, c.words) for c in group.claims], 3)


def differences(group: Group) -> Table:
    head = ("metric", "variant", "against", "verdict", "difference", "95 % interval", "corrected interval",
            "corrected p", "detectable")  # fmt: skip
    rows = [
        [
            "mIoU", d.b, d.a, d.verdict, format_signed(d.delta),
            format_interval(d.low, d.high) or NOT_DEFINED, format_interval(d.wide_low, d.wide_high) or NOT_DEFINED,
            format_number(d.p), "none" if d.detectable > 1 else f"±{format_number(d.detectable)}",
        ]
        for d in group.differences
    ]  # fmt: skip
    return Table(head, rows, 4)


def explanations(group: Group) -> Table:
    """Possible explanations of the differences, means over the trainings: receptive fields, missed objects by size,
    training mIoU, time to accuracy."""
    head = ("variant", "theoretical receptive field", "effective receptive field, px", "missed: small",
            "missed: medium", "missed: large", "training mIoU, all classes", "reported mIoU, all classes",
            "epochs to 90 %", "seconds to 90 %")  # fmt: skip
    measured = group.target > 0 or any("metrics_fit" in r for v in group.variants for r in v.records)
    return Table(head, [_explanation(v) for v in group.variants] if measured else [])


def _explanation(variant: Variant) -> list[str]:
    def metric(name: str) -> float | None:
        return estimate.value if (estimate := variant.metrics.get(name)) else None

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    fields = [f for r in variant.records if (f := r.get("receptive_field"))]
    theoretical = [f["theoretical"] for f in fields]
    reach = MISSING if not fields else "whole image" if None in theoretical else f"{theoretical[0]} px"
    fit = [m["miou"] for r in variant.records if (m := r.get("metrics_fit"))]
    return [
        variant.name, reach, format_number(mean([f["effective"] for f in fields]), 0),
        *(format_number(metric(f"missed_{size}")) for size in ("small", "medium", "large")),
        format_number(mean(fit)), format_number(variant.miou_all.value),
        format_number(metric("epochs_to_90"), 1), format_number(metric("seconds_to_90"), 0),
    ]  # fmt: skip


def metrics(group: Group) -> Table:
    """All metrics and costs of all variants except time to accuracy; significant planned differences are marked."""
    rows = [
        [label, *(str(getattr(v, key)) for v in group.variants)]
        for key, label in {
            "miou": group.miou_name,
            "miou_all": "mIoU of all classes with truth",
            "miou_original": "mIoU of all classes with truth, original size",
        }.items()
        if label != "mIoU"  # the next row says the same
        and any(math.isfinite(getattr(v, key).value) for v in group.variants)
    ]
    defined = {m.name: f"{m.title}: {m.says}" for m in METRICS}
    for name in dict.fromkeys(name for v in group.variants for name in v.metrics if not name.endswith("_to_90")):
        significant = {b for (_, b), names in group.significant.items() if name in names}
        cells = [str(v.metrics.get(name, MISSING)) + MARK * (v.name in significant) for v in group.variants]
        rows.append([defined.get(name) or name.replace("_", " "), *cells])
    costs = zip(*(_cost(v) for v in group.variants), strict=True)
    rows += [[name, *values] for name, values in zip(("parameters", "GFLOP", "images/s", "time"), costs, strict=True)]
    return Table(("metric", *_names(group)), rows)


def confusions(group: Group, most: int = 10) -> Table:
    """The most frequent confusions over the variants, as shares of the truth's pixels."""
    shares = [{(truth, predicted): s for truth, predicted, s in v.confused if math.isfinite(s)} for v in group.variants]
    largest = {pair: max(s.get(pair, 0.0) for s in shares) for of_variant in shares for pair in of_variant}
    rows = [
        [" → ".join(pair), *(format_number(s.get(pair)) for s in shares)]
        for pair in sorted(largest, key=lambda pair: -largest[pair])[:most]
    ]
    return Table(("truth → predicted", *_names(group)), rows)


def _names(group: Group) -> list[str]:
    return [text.shorten(v.name, 18) for v in group.variants]

"""Text of estimates, verdicts and names in a report: HTML, Markdown, LaTeX."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from segstudy.formatting import MISSING, NOT_DEFINED, format_interval, format_number, format_signed
from segstudy.measures.objects import OUTCOMES
from segstudy.study.analysis.findings import Difference, Group, Variant
from segstudy.study.statistics.interval import Estimate

ROLES = {"fit": "trained on", "select": "chosen on", "report": "reported on"}

METRIC_LABELS = {
    "miou": "mIoU", "shape_iou": "shape IoU", "boundary_iou": "boundary IoU", "boundary_f": "boundary F",
    "ece": "calibration error (ECE)", "nll": "negative log-likelihood",
}  # fmt: skip

CLAIMS_NOTE = (
    "Declared before the runs. In brackets: the plain 95 % interval, then the interval corrected for the number of "
    "claims (Bonferroni), which decides. A claim on the mIoU of a planned pair uses that pair's interval."
)

LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "…": r"\ldots{}", "±": r"$\pm$", "Δ": r"$\Delta$",
    "×": r"$\times$", "→": r"$\to$", "–": "--",
}  # fmt: skip


def format_estimate(value: Estimate | None) -> str:
    """0.619 (0.588 to 0.650)."""
    if value is None:
        return MISSING
    return f"{format_number(value.value)} {format_interval(value.low, value.high)}".strip()


def metric_label(metric: str) -> str:
    """A metric's name in words."""
    return METRIC_LABELS.get(metric, metric.replace("_", " "))


def trainings(variant: Variant) -> int:
    """The number of a variant's trainings. Their folders need not exist on this machine."""
    return max(len(variant.seeds), variant.miou.seeds)


def has_one_seed(group: Group, difference: Difference) -> bool:
    """Whether one of the two variants has only one training: then two trained networks are compared, not variants."""
    sides = (difference.a, difference.b)
    return any(trainings(v) < 2 for v in group.variants if v.name in sides)


def format_verdict(group: Group, difference: Difference) -> str:
    """better +0.016 (0.005 to 0.027), equal within ±0.005: +0.001 (−0.002 to 0.004), or ahead 0.016: these two
    trainings."""
    d = difference
    if not math.isfinite(d.delta):
        return NOT_DEFINED
    if d.verdict in ("ahead", "behind"):
        return f"{d.verdict} {format_number(abs(d.delta))}: these two trainings"
    equal = d.verdict == "equal" and math.isfinite(group.margin)
    within = f" within ±{format_number(group.margin)}:" if equal else ""
    text = f"{d.verdict}{within} {format_signed(d.delta)} {format_interval(d.wide_low, d.wide_high)}".strip()
    return f"{text}: these two trainings" if has_one_seed(group, d) else text


def main_metric(group: Group) -> str:
    """The metric whose differences are in the main table: mIoU, or else the first planned one."""
    planned = [d.metric for d in group.differences]
    return "miou" if "miou" in planned or not planned else planned[0]


def verdicts_of(group: Group, variant: Variant) -> list[Difference]:
    """The planned differences of the main metric of this variant against another."""
    return [d for d in group.differences if d.b == variant.name and d.metric == main_metric(group)]


def variant_marks(variant: Variant) -> str:
    """* if selected on the reported split; ! if ImageNet weights were asked for but not available."""
    selected = any(r.get("selected_on_reported") for r in variant.records)
    random = any("(" in str(r.get("encoder_weights", "")) for r in variant.records)
    return "*" * selected + "!" * random


def mean_over_runs(variant: Variant, key: str) -> float | None:
    """The mean of a record's entry over a variant's trainings; None if no record has it."""
    noted = [float(r[key]) for r in variant.records if isinstance(r.get(key), int | float)]
    values = [value for value in noted if math.isfinite(value)]
    return sum(values) / len(values) if values else None


def count_distinct(values: Sequence[str]) -> list[str]:
    """Each value once, in order; where values differ, with its number of runs."""
    counted = Counter(values)
    if len(counted) < 2:
        return list(counted)
    return [f"{value} ({n} run{'s' * (n > 1)})" for value, n in counted.items()]


def shorten(name: str, length: int) -> str:
    """At most `length` printable characters on one line; a longer name loses its middle, marked with …."""
    name = "".join(c for c in " ".join(name.split()) if c.isprintable())
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[len(name) - end :]}"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX_ESCAPES.get(c, c) for c in " ".join(text.split()) if c.isprintable())


def escape_markdown(text: str) -> str:
    """Text that Markdown prints as it is, also in a table's cell."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]|~#!])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def format_outcomes(outcomes: Mapping[str, float]) -> str:
    """right 0.62, partial 0.10, …; n/a where no object was counted."""
    known = [(name, outcomes[name]) for name in reversed(OUTCOMES) if math.isfinite(outcomes.get(name, math.nan))]
    return ", ".join(f"{name} {format_number(value, 2)}" for name, value in known) or NOT_DEFINED


def markdown_list(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"* {escape_markdown(line)}" for line in lines)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])

"""A study's report in Markdown, and the rows of its main table."""

from collections.abc import Iterator, Sequence

import numpy as np

from segstudy.console import MISSING, format_amount, format_duration, format_fraction, format_millions
from segstudy.study.analysis.findings import Findings, Group, Variant
from segstudy.study.report.methods import CLAIMS_NOTE, cited, methods
from segstudy.study.report.text import (
    escape_markdown,
    format_estimate,
    format_outcomes,
    format_verdict,
    markdown_list,
    markdown_table,
    mean_over_runs,
    variant_marks,
    verdicts_of,
)

Row = dict[str, object]

TABLE_HEAD = ("variant", "changes", "mIoU (95 %)", "difference", "objects", "parameters", "GFLOP", "images/s", "time")


def table_rows(group: Group) -> Iterator[list[str]]:
    """The main table as text, in the columns of HEAD."""
    for v in group.variants:
        said = "; ".join(f"{format_verdict(group, d)} against {d.a}" for d in verdicts_of(group, v))
        yield [
            v.name + variant_marks(v), v.changes, f"{format_estimate(v.miou)}, {_trainings(v)}", said or MISSING,
            format_outcomes(v.outcomes), format_millions(mean_over_runs(v, "parameters")),
            format_amount(mean_over_runs(v, "gflop")),
            format_amount(mean_over_runs(v, "images_per_second")), format_duration(mean_over_runs(v, "seconds")),
        ]  # fmt: skip


def table_head(group: Group) -> tuple[str, ...]:
    return tuple("as published: mIoU (95 %)" if group.published and h.startswith("mIoU") else h for h in TABLE_HEAD)


def _trainings(variant: Variant) -> str:
    seeds = max(len(variant.seeds), variant.miou.seeds)
    return f"{seeds} seed{'s' * (seeds != 1)}"


def explanations(group: Group) -> list[tuple[Variant, dict[str, str]]]:
    """Possible explanations: receptive fields, missed objects by size, training mIoU, time to accuracy."""
    return [
        (v, _explanation(v)) for v in group.variants if any("metrics_fit" in r for r in v.records) or group.target > 0
    ]


def _explanation(variant: Variant) -> dict[str, str]:
    """A row of that table, means over the trainings."""
    fields = [f for r in variant.records if (f := r.get("receptive_field"))]
    fits = [m["miou"] for r in variant.records if (m := r.get("metrics_fit"))]
    whole = [f for f in fields if f["theoretical"] is None]
    epochs, seconds = (variant.metrics.get(f"{what}_to_90") for what in ("epochs", "seconds"))
    return {
        "theoretical": MISSING if not fields else "whole image" if whole else f"{fields[0]['theoretical']} px",
        "effective": format_amount(float(np.mean([f["effective"] for f in fields])) if fields else None, 0),
        **{f"missed_{s}": format_fraction(e.value) if (e := variant.metrics.get(f"missed_{s}")) else MISSING
           for s in ("small", "medium", "large")},
        "fit": format_fraction(float(np.mean(fits)) if fits else None), "all": format_fraction(variant.miou_all.value),
        "epochs": format_amount(epochs.value if epochs else None),
        "seconds": format_amount(seconds.value if seconds else None, 0),
    }  # fmt: skip


EXPLANATION_COLUMNS = {
    "theoretical": "theoretical receptive field", "effective": "effective receptive field, px",
    "missed_small": "missed: small", "missed_medium": "medium",
    "missed_large": "large", "fit": "training mIoU", "all": "reported", "epochs": "epochs to 90 %",
    "seconds": "seconds",
}  # fmt: skip


def markdown_report(findings: Findings, figures: Sequence[Sequence[tuple[str, str]]]) -> str:
    """The report for a repository's page. figures: of each group, (file's name without its ending, caption)."""
    parts = [f"# {escape_markdown(findings.name)}", escape_markdown(findings.sentence)]
    for group, drawn in zip(findings.groups, figures, strict=True):
        parts += [f"## {escape_markdown(group.title)}", markdown_list(group.warnings)]
        if group.variants:
            parts.append(markdown_table(table_head(group), table_rows(group)))
        if group.claims:
            parts.append(CLAIMS_NOTE)
            parts.append(
                markdown_table(("claim", "outcome", "because"), ([c.text, c.outcome, c.words] for c in group.claims))
            )
        parts.append(markdown_list([d.words for d in group.differences]))
        if rows := explanations(group):
            body = ([v.name, *(row[key] for key in EXPLANATION_COLUMNS)] for v, row in rows)
            parts.append(markdown_table(("variant", *EXPLANATION_COLUMNS.values()), body))
        parts += [f"![{name}](figures/{name}.svg)\n\n{escape_markdown(caption)}" for name, caption in drawn]
    if findings.left_out:
        parts += ["## Runs that could not be used", markdown_table(("run", "why"), findings.left_out)]
    told = methods(findings)
    if told:
        parts += ["## Methods", *map(escape_markdown, told), markdown_list(cited(told))]
    return "\n\n".join(filter(None, parts)) + "\n"

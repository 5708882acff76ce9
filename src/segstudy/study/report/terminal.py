"""A study's findings in the terminal."""

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segstudy.formatting import format_number, format_percent
from segstudy.study.analysis.findings import Findings, Group
from segstudy.study.analysis.time_to_accuracy import SHARE


def print_sentence(findings: Findings, console: Console) -> None:
    """Print the result of a study."""
    console.print(f"[bold]{escape(findings.sentence)}", soft_wrap=True, highlight=False)


def print_time_to_accuracy(group: Group, console: Console) -> None:
    """Print each variant's time to accuracy, the mean over its seeds; nothing without histories, or for one variant."""
    if math.isnan(group.target) or len(group.variants) < 2:
        return
    console.print(
        f"[bold]Time to {format_percent(SHARE)} of the study's best final validation mIoU of all classes[/] "
        f"({format_number(group.target)}): mean over seeds; n/a: a training never reached it; seconds include "
        "validation",
        highlight=False,
        soft_wrap=True,
    )
    table = Table()
    for column in ("variant", "epochs", "seconds"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for v in group.variants:
        epochs, seconds = (e.value if (e := v.metrics.get(f"{what}_to_90")) else None for what in ("epochs", "seconds"))
        table.add_row(escape(v.name), format_number(epochs, 1), format_number(seconds, 1))
    console.print(table)


def print_findings(findings: Findings, console: Console) -> None:
    """Print the verdicts, claims and warnings of a study, and the runs that were left out."""
    for group in findings.groups:
        for difference in group.differences:
            console.print(f"  {escape(difference.words)}", soft_wrap=True, highlight=False)
        for claim in group.claims:
            console.print(f"  {claim.outcome}: {escape(claim.text)} ({escape(claim.words)})", soft_wrap=True)
        for warning in group.warnings:
            console.print(f"  [yellow]{escape(warning)}", soft_wrap=True, highlight=False)
    for name, reason in findings.left_out:
        console.print(f"  [red]left out:[/] {escape(name)}: {escape(reason)}", soft_wrap=True, highlight=False)

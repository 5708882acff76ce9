"""A study's findings in the terminal."""

from rich.console import Console
from rich.markup import escape

from segstudy.study.analysis.findings import Findings


def print_sentence(findings: Findings, console: Console) -> None:
    """Print the result of a study."""
    console.print(f"[bold]{escape(findings.sentence)}", soft_wrap=True, highlight=False)


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

"""A study's findings in the terminal."""

from segstudy.console import print_line
from segstudy.study.analysis.findings import Findings


def print_findings(findings: Findings) -> None:
    """Print the verdicts, claims and warnings of a study, and the runs that were left out."""
    for group in findings.groups:
        for difference in group.differences:
            print_line(f"  {difference.words}")
        for claim in group.claims:
            print_line(f"  {claim.outcome}: {claim.text} ({claim.words})")
        for warning in group.warnings:
            print_line(f"  {warning}", "yellow")
    for name, reason in findings.left_out:
        print_line(f"  left out: {name}: {reason}", "red")

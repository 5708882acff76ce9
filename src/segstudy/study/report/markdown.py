"""A study's report in Markdown."""

import re
from collections.abc import Sequence

from segstudy.study.analysis.findings import Findings
from segstudy.study.report.methods import cited, methods
from segstudy.study.report.render import render


def markdown_report(findings: Findings, figures: Sequence[Sequence[tuple[str, str]]]) -> str:
    """The report for a repository's page. figures: of each group, (file's name without its ending, caption)."""
    told = methods(findings)
    text = render("report.md", findings=findings, figures=figures, methods=told, references=cited(told))
    return re.sub("\n{3,}", "\n\n", text).strip() + "\n"

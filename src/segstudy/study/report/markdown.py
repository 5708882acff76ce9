"""A study's report in Markdown."""

import re
from collections.abc import Sequence

from segstudy.study.analysis.findings import Findings
from segstudy.study.report.methods import cited, methods
from segstudy.study.report.render import render


def markdown_report(findings: Findings, figures: Sequence[Sequence[tuple[str, str]]]) -> str:
    """The report in Markdown. figures: for each group, (file name without suffix, caption)."""
    paragraphs = methods(findings)
    text = render("report.md", findings=findings, figures=figures, methods=paragraphs, references=cited(paragraphs))
    return re.sub("\n{3,}", "\n\n", text).strip() + "\n"

"""A report's tables in LaTeX."""

from segstudy.study.analysis.findings import Findings
from segstudy.study.report.tables import main_table
from segstudy.study.report.text import escape_latex

COLUMNS = (0, 1, 2, 4, 5, 6)
"""Columns of the main table: variant, mIoU, difference, parameters, GFLOP, images/s."""


def latex_tables(findings: Findings) -> str:
    """The main table of each group, shrunk to the page's width; needs the packages booktabs and graphicx."""
    parts = [f"% {escape_latex(findings.sentence)}", r"% needs \usepackage{booktabs,graphicx}"]
    for number, group in enumerate(findings.groups, 1):
        table = main_table(group)
        head, *rows = (" & ".join(escape_latex(row[i]) for i in COLUMNS) + r" \\" for row in (table.head, *table.rows))
        parts += [
            r"\begin{table}", r"  \centering",
            rf"  \caption{{{escape_latex(group.sentence)} {escape_latex(group.title)}; {group.miou_name}, with its"
            r"  95\,\% interval.}",
            rf"  \label{{tab:study-{number}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            r"  \begin{tabular}{lllrrr}", r"    \toprule", f"    {head}", r"    \midrule",
            *(f"    {row}" for row in rows), r"    \bottomrule", r"  \end{tabular}}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(parts) + "\n"

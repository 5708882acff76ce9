"""A report's tables in LaTeX."""

import numpy as np

from segstudy.study.analysis.findings import Findings
from segstudy.study.report.markdown import table_head, table_rows
from segstudy.study.report.text import escape_latex

LATEX_COLUMNS = (0, 2, 3, 5, 6, 7)


def latex_tables(findings: Findings) -> str:
    """The main table of each group, no wider than the page; needs the packages booktabs and graphicx."""
    parts = [r"% needs \usepackage{booktabs,graphicx}"]
    for number, group in enumerate(findings.groups, 1):
        rows = [" & ".join(escape_latex(row[i]) for i in LATEX_COLUMNS) + r" \\" for row in table_rows(group)]
        there = f" in at least {group.min_images} images" if np.any(group.supported) else ""
        note = f"{escape_latex(group.title)}; mIoU over {int(np.sum(group.scored))} classes with truth{there}, "
        note += r"with its 95\,\% interval."
        parts += [
            r"\begin{table}", r"  \centering", rf"  \caption{{{note}}}", rf"  \label{{tab:study-{number}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            r"  \begin{tabular}{lllrrr}", r"    \toprule",
            "    " + " & ".join(escape_latex(table_head(group)[i]) for i in LATEX_COLUMNS) + r" \\", r"    \midrule",
            *(f"    {row}" for row in rows), r"    \bottomrule", r"  \end{tabular}}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(parts) + "\n"

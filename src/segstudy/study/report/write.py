"""Write a study's report: HTML, Markdown, LaTeX, CSV and figures."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from segstudy.console import console, print_line
from segstudy.errors import DataError
from segstudy.files import move, opened_folder, subfolder
from segstudy.runs.tables import print_study
from segstudy.study.analysis.analyse import analyse_study
from segstudy.study.analysis.findings import Findings
from segstudy.study.analysis.plan import read_plan_file
from segstudy.study.report.csv import CLASS_COLUMNS, RUN_COLUMNS, as_csv, class_rows, run_rows
from segstudy.study.report.first_screen import first_screen
from segstudy.study.report.html import make_section, page
from segstudy.study.report.latex import latex_tables
from segstudy.study.report.markdown import markdown_report
from segstudy.study.report.pictures import GroupPictures, pictures
from segstudy.study.report.terminal import print_findings
from segstudy.study.results import runs_by_variant


def report_study(folder: Path, plan: str | None = None) -> list[str]:
    """Print a study's tables and write its report; returns the names of unfinished runs.

    plan: a file of conf/report instead of the study's own plan. Raises DataError if the folder holds no run.
    """
    findings, tests = analyse_study(folder, read_plan_file(plan) if plan else None)
    print_line(findings.sentence, "bold")
    unfinished = print_study(folder, console)
    print_findings(findings)
    drawn = {
        group.title: pictures(group, runs_by_variant(members))
        for group, members in zip(findings.groups, tests, strict=True)
    }
    print_line(f"report: {write_report(findings, folder, drawn)}")
    return unfinished


PICTURE_BYTES = 6_000_000
"""Limit for the pictures of a page, in base64; the page states how many were left out."""

FIGURE_NAME = re.compile(
    r"\d+_(forest_\w+|outcomes|distributions|operating_\w+|learning|classes|reliability)\.(svg|pdf)"
)


def write_report(findings: Findings, folder: Path, pictures: Mapping[str, GroupPictures] = {}) -> Path:
    """Write report.html, report.md, first_screen.png, runs.csv, per_class.csv, table.tex and figures/*.svg, *.pdf;
    returns the page.

    pictures: title of a group → its pictures.
    The report is written completely before it replaces an earlier one. Raises DataError if that fails.
    """
    work = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
        _write(findings, work, pictures)
        _move(work, folder)
    except OSError as error:
        raise DataError(
            f"the report of {findings.name} could not be written to {folder}: {error}\n"
            "  an earlier report is unchanged; free some space or choose another folder, and try again"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return folder / "report.html"


def _write(findings: Findings, work: Path, pictures: Mapping[str, GroupPictures]) -> None:
    """All files of a report into an empty folder."""
    (work / "figures").mkdir()
    left = PICTURE_BYTES
    sections = []
    for number, group in enumerate(findings.groups, 1):
        held = pictures.get(group.title, GroupPictures())
        section, used = make_section(group, number, work / "figures", held, left)
        left -= used
        sections.append(section)
        if number == 1 and group.variants:
            (work / "first_screen.png").write_bytes(first_screen(group, held, section.shown))
    (work / "runs.csv").write_text(as_csv(RUN_COLUMNS, run_rows(findings)), encoding="utf-8")
    (work / "per_class.csv").write_text(as_csv(CLASS_COLUMNS, class_rows(findings)), encoding="utf-8")
    (work / "table.tex").write_text(latex_tables(findings), encoding="utf-8")
    drawn = [[(plot.name, plot.caption) for plot in section.plots.values()] for section in sections]
    (work / "report.md").write_text(markdown_report(findings, drawn), encoding="utf-8")
    (work / "report.html").write_text(page(findings, sections), encoding="utf-8")


def _move(work: Path, folder: Path) -> None:
    """Move the files into place, the page last, and remove figures of an earlier report that are no longer drawn."""
    subfolder(folder, "figures")  # refuses a symbolic link before anything is replaced
    new = sorted((p for p in work.rglob("*") if p.is_file()), key=lambda p: p.name == "report.html")
    for path in new:
        move(path, folder, path.relative_to(work))
    drawn = {p.name for p in new}
    with opened_folder(folder, ["figures"]) as place:
        for old in os.listdir(place):
            if FIGURE_NAME.fullmatch(old) and old not in drawn:
                os.unlink(old, dir_fd=place)

"""Commands that say what runs or masks tell: report, compare, audit."""

from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import COMPARE
from segstudy.console import console, silence_warnings

app = typer.Typer()


@app.command(rich_help_panel=COMPARE)
def report(
    folder: Annotated[Path, typer.Argument(help="A study: a folder of runs, e.g. runs/ablation-scenes")],
    plan: Annotated[
        str | None, typer.Option(help="A file of conf/report: its pairs and claims instead of the study's own.")
    ] = None,
) -> None:
    """Write a study's report: which variant is better, how surely, and how the others fail.

    report.html opens offline; beside it report.md, runs.csv, per_class.csv, table.tex and figures/. Exit code 1 if a
    run is not done. Example: segstudy report runs/voc-animals --plan journey
    """
    from segstudy.study.report.write import report_study

    silence_warnings()
    if report_study(folder, console, plan):
        raise typer.Exit(1)


@app.command(rich_help_panel=COMPARE)
def compare(
    truth: Annotated[Path, typer.Argument(help="The folder of true masks (indexed or greyscale; 255 is ignored).")],
    predictions: Annotated[list[Path], typer.Argument(help="Folders of predicted masks with the same names.")],
    classes: Annotated[Path | None, typer.Option(help="CSV with the columns index,name,red,green,blue.")] = None,
    background: Annotated[str | None, typer.Option(help="A class's name or number, or none.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A last class that is none: counts as 255.")] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV of NAME,GROUP: images that are not independent.")] = None,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("comparison"),
) -> None:
    """Compare folders of masks from anywhere: another framework, an old model. No training, no GPU.

    Example: segstudy compare masks old_model new_model --classes classes.csv
    """
    from segstudy.study.analysis.plan import Plan
    from segstudy.study.masks import compare_masks, read_classes, read_groups
    from segstudy.study.report.terminal import print_findings
    from segstudy.study.report.write import write_report

    legend = read_classes(truth, classes, background, ignore or [])
    named = read_groups(groups) if groups else None
    findings = compare_masks(truth, predictions, legend, Plan(), named)
    print_findings(findings, console)
    console.print(f"report: {write_report(findings, out)}", soft_wrap=True)


@app.command(rich_help_panel=COMPARE)
def audit(
    run: Annotated[Path, typer.Argument(help="The folder of one run, e.g. runs/ablation-scenes/v4")],
    out: Annotated[Path | None, typer.Option("--json", help="Also write the readings to this file.")] = None,
) -> None:
    """Read a run's predictions under every reading of "mIoU" and "accuracy" in use, beside an all-background predictor.

    What each reading is: docs/readings.md. Example: segstudy audit runs/ablation-scenes/v4 --json readings.json
    """
    from segstudy.study.audit import audit, print_audit, write_json

    read = audit(run)
    print_audit(read, console)
    if out:
        write_json(read, out)
        console.print(f"readings: {out}")

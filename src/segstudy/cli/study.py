"""Commands that compare runs or masks: report, compare, audit."""

from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import COMPARE, output
from segstudy.console import console, print_line, silence_warnings

app = typer.Typer()


@app.command(rich_help_panel=COMPARE)
def report(
    folder: Annotated[Path, typer.Argument(help="A study: a folder of runs, e.g. runs/ablation-scenes")],
    plan: Annotated[
        str | None, typer.Option(help="File of conf/report; its pairs and claims replace the study's own.")
    ] = None,
) -> None:
    """Write a study's report: which variant is better, by how much, how surely, and how each variant fails.

    Writes report.html (opens offline), first_screen.png (its first screen, for a README), report.md, runs.csv,
    per_class.csv, table.tex and figures/ into the study's folder. Exit code 1 if a run is not finished.
    Example: segstudy report runs/voc-animals --plan journey
    """
    from segstudy.study.report.write import report_study

    silence_warnings()
    if report_study(folder, plan):
        raise typer.Exit(1)


@app.command(rich_help_panel=COMPARE)
def compare(
    truth: Annotated[Path, typer.Argument(help="Folder of true masks (indexed or greyscale; 255 is ignored).")],
    predictions: Annotated[list[Path], typer.Argument(help="Folders of predicted masks with the same names.")],
    classes: Annotated[Path | None, typer.Option(help="CSV with the columns index,name,red,green,blue.")] = None,
    background: Annotated[str | None, typer.Option(help="Name or number of the background class, or none.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Class to ignore like 255; it must be the last one. Repeatable.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV of NAME,GROUP; images of one group are not independent.")
    ] = None,
    out: Annotated[Path, typer.Option(callback=output(folder=True), help="Folder for the report.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare folders of predicted masks from any program. Needs no training and no GPU.

    Example: segstudy compare masks old_model new_model --classes classes.csv
    """
    from segstudy.study.analysis.plan import Plan
    from segstudy.study.masks import compare_masks, read_classes, read_groups
    from segstudy.study.report.terminal import print_findings
    from segstudy.study.report.write import write_report

    legend = read_classes(truth, classes, background, ignore or [])
    named = read_groups(groups) if groups else None
    findings = compare_masks(truth, predictions, legend, Plan(), named)
    print_line(findings.sentence, "bold")
    print_findings(findings)
    print_line(f"report: {write_report(findings, out)}")


@app.command(rich_help_panel=COMPARE)
def audit(
    run: Annotated[Path, typer.Argument(help="A run's folder, e.g. runs/ablation-scenes/v4")],
    out: Annotated[
        Path | None, typer.Option("--json", callback=output(), help="Also write all values to this file.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print all definitions with their formulas.")] = False,
) -> None:
    """Compute a run's mIoU and accuracy under every definition in use, also for an all-background predictor.

    Prints the most used definitions; all are in docs/readings.md.
    Example: segstudy audit runs/ablation-scenes/v4 --json readings.json
    """
    from segstudy.study.audit import audit, print_audit, write_json

    read = audit(run)
    print_audit(read, console, everything)
    if out:
        write_json(read, out)
        print_line(f"written: {out}")

"""The end of a study: its tables on the screen, and its report in its folder."""

from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from rich.markup import escape

from segstudy.config.compose import compose_config
from segstudy.config.paths import CONF
from segstudy.errors import ConfigError, did_you_mean
from segstudy.files import atomic_write
from segstudy.runs.tables import print_study
from segstudy.study.analysis.analyse import analyse_study
from segstudy.study.analysis.findings import Findings
from segstudy.study.analysis.plan import Plan
from segstudy.study.analysis.time_to_accuracy import print_time_to_accuracy
from segstudy.study.collect import runs_by_variant
from segstudy.study.report.html import write_report
from segstudy.study.report.pictures import Picture, gallery, pictures


def conclude(folder: Path, console: Console, plan: str | None = None) -> list[str]:
    """Print a study's tables, write its gallery and report; returns the names of the runs that are not done.

    plan: a file of conf/report instead of the study's own plan. Raises DataError if the folder holds no run.
    """
    findings, tests = analyse_study(folder, read_plan_file(plan) if plan else None)
    unfinished = print_study(folder, console)
    for group in findings.groups:
        print_time_to_accuracy(group, console)
    print_findings(findings, console)
    drawn: dict[str, list[Picture]] = {}
    for group, members in zip(findings.groups, tests, strict=True):
        seeds = runs_by_variant(members)
        drawn[group.title] = pictures(group, seeds)
        if (evolution := gallery(seeds)) is not None:
            drawn[group.title].insert(0, ("gallery/the same images through all variants, their first seeds", evolution))
            if group is findings.groups[0]:
                with atomic_write(folder, "gallery.png") as file:
                    Image.fromarray(evolution).save(file, "PNG")
                console.print(f"gallery: {escape(str(folder / 'gallery.png'))}", soft_wrap=True)
    console.print(f"report: {escape(str(write_report(findings, folder, drawn)))}", soft_wrap=True)
    return unfinished


def print_findings(findings: Findings, console: Console) -> None:
    """What a study found, in a few lines."""
    console.print(f"[bold]{escape(findings.sentence)}", soft_wrap=True, highlight=False)
    for group in findings.groups:
        for difference in group.differences:
            console.print(f"  {escape(difference.words)}", soft_wrap=True, highlight=False)
        for claim in group.claims:
            console.print(f"  {claim.outcome}: {escape(claim.text)} ({escape(claim.words)})", soft_wrap=True)
        for warning in group.warnings:
            console.print(f"  [yellow]{escape(warning)}", soft_wrap=True, highlight=False)
    for name, reason in findings.left_out:
        console.print(f"  [red]left out:[/] {escape(name)}: {escape(reason)}", soft_wrap=True, highlight=False)


def read_plan_file(name: str) -> Plan:
    """The plan in conf/report/NAME.yaml. Raises ConfigError if there is none."""
    names = sorted(file.stem for file in (CONF / "report").glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"--plan {name}: no file conf/report/{name}.yaml{did_you_mean(name, names)} ({', '.join(names)})"
        )
    return Plan.of(OmegaConf.to_container(compose_config([f"report={name}"]).report))  # type: ignore[arg-type]

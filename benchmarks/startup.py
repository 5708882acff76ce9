"""Seconds from `python train.py` to the first training batch, on a warm disk.

Each repeat is a fresh process with data=scenes; the first is discarded: it warms the disk and writes the cache.
The run stamps its stages through a callback of the user's own (stamp.py), so nothing in the project is changed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from machine import machine, machine_line, write_json
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).resolve().parents[1]
START = """
import os, runpy, sys, time
import segstudy.train
os.environ["BENCHMARK_IMPORTED"] = str(time.time())
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""  # train.py as it is, with the time taken between its import and its main()
STAGES = {
    "imports": "interpreter and imports",
    "config": "config: overrides checked, composed, targets checked",
    "building": "data opened, network and module built",
    "trainer": "trainer set up, first batch read and augmented",
    "first_batch": "start to first training batch",
    "first_step": "start to the end of the first step",
}


def start(settings: list[str], folder: Path, name: str) -> dict[str, float]:
    """One run of two batches; when it reached its stages, in seconds from its start."""
    stamps = folder / f"{name}.json"
    command = [
        sys.executable, "-c", START, "data=scenes", "trainer=smoke", f"data.cache_dir='{folder / 'cache'}'", *settings,
        f"runs_dir='{folder / 'runs'}'", f"study={name}", "+callbacks.stamp._target_=benchmarks.stamp.Stamp",
    ]  # fmt: skip
    began = time.time()
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env=os.environ | {"BENCHMARK_STAMPS": str(stamps)}
    )
    if done.returncode:
        sys.exit(f"the run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {stage: at - began for stage, at in json.loads(stamps.read_text()).items()}


def spans(times: dict[str, float]) -> dict[str, float]:
    """The stages as spans; the last two count from the start."""
    return {
        "imports": times["imported"],
        "config": times["checked"] - times["imported"],
        "building": times["built"] - times["checked"],
        "trainer": times["first_batch"] - times["built"],
        "first_batch": times["first_batch"],
        "first_step": times["first_step"],
    }


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="further settings, such as model=v4")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="starts, after one that is discarded")] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Seconds from the command to the first training batch."""
    console = Console()
    facts = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = [spans(start(overrides or [], folder, f"start{i}")) for i in range(repeats + 1)][1:]
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
    table = Table("stage", "seconds", "range", "limit", title=f"start, median of {repeats}")
    for stage, words in STAGES.items():
        values = [run[stage] for run in runs]
        limit = "15" if stage == "first_batch" else ""
        table.add_row(words, f"{medians[stage]:.2f}", f"{min(values):.2f}–{max(values):.2f}", limit)
    console.print(table)
    console.print(machine_line(facts), highlight=False)
    settings = {"repeats": repeats, "data": "scenes", "overrides": overrides or []}
    figures = {"seconds": medians, "repeats": runs}
    write_json(out, {"benchmark": "startup", "settings": settings, "machine": facts, "figures": figures})


if __name__ == "__main__":
    typer.run(main)

"""How soon each run of a study was nearly as good as the best one ended: what a pretrained encoder saves."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segstudy.callbacks.history import read_history
from segstudy.study.table import encoder_origin, number, records, variants

SHARE = 0.9
FIGURE = "val/miou"
History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Reached:
    """The first epoch whose val mIoU was the target or more, and the seconds of training until its end.

    NaN for both: never. seconds is None if the history has none (of a run that began before they were written).
    """

    epochs: float
    seconds: float | None


@dataclass(frozen=True)
class Pace:
    """The study's best final val mIoU, of which run, what is to be reached, and when each run did."""

    best: float
    leader: str
    target: float
    runs: dict[str, Reached]


def pace(histories: Mapping[str, History], finished: Sequence[str]) -> Pace | None:
    """When each run first reached 90 % of the best final val mIoU among the `finished` ones.

    None where no finished run has a final val mIoU above 0. All must be measured on the same images.
    """
    finals = {name: final(histories[name]) for name in finished if name in histories}
    known = {name: value for name, value in finals.items() if not math.isnan(value) and value > 0}
    if not known:
        return None
    leader = max(known, key=lambda name: known[name])
    target = SHARE * known[leader]
    return Pace(known[leader], leader, target, {name: reached(rows, target) for name, rows in histories.items()})


def final(rows: History) -> float:
    """val/miou of the last epoch that has one; NaN if none has."""
    return next((row[FIGURE] for row in reversed(rows) if FIGURE in row), math.nan)


def reached(rows: History, target: float) -> Reached:
    """The first epoch with val/miou of `target` or more."""
    for row in rows:
        if row.get(FIGURE, -math.inf) >= target:
            return Reached(row["epoch"], row.get("seconds"))
    return Reached(math.nan, math.nan)


def study_paces(folder: Path) -> list[tuple[dict[str, dict[str, Any]], Pace]]:
    """(records, pace) for each group of a study's runs that are validated on the same images, with one size, one
    protocol and the same classes; runs without a history are left out."""
    found = records(folder)
    groups: dict[str, dict[str, tuple[dict[str, Any], History]]] = {}
    for name, (label, record) in zip(found, variants(found).items(), strict=True):
        rows = read_history(folder / name / "history.csv")
        if rows and "data" in record:
            data = record["data"]
            watched = data["roles"].get("select") or data["roles"]["report"]
            kind = [data["name"], data["size"], data.get("protocol", ""), watched, record.get("class_names")]
            kind.append(record.get("reproduce"))
            groups.setdefault(json.dumps(kind), {})[label] = (record, rows)
    paces = []
    for runs in groups.values():
        finished = [label for label, (record, _) in runs.items() if record.get("status") == "done"]
        found_pace = pace({label: rows for label, (_, rows) in runs.items()}, finished)
        if found_pace is not None:
            paces.append(({label: record for label, (record, _) in runs.items()}, found_pace))
    return paces


def print_pace(folder: Path, console: Console) -> None:
    """Print a small table for each group of comparable runs with histories; nothing if there is none."""
    for runs, found in study_paces(folder):
        console.print(
            f"[bold]how soon:[/] first epoch with a val mIoU of {number(found.target)}, {100 * SHARE:.0f} % of the "
            f"best final one ({number(found.best)}, of {escape(found.leader)}); seconds include validation",
            highlight=False,
            soft_wrap=True,
        )
        table = Table()
        for column in ("variant", "encoder from", "epochs", "seconds"):
            table.add_column(column, justify="left" if column in ("variant", "encoder from") else "right")
        for label, when in found.runs.items():
            table.add_row(label, encoder_origin(runs[label]), number(when.epochs, 0), number(when.seconds, 1))
        console.print(table)

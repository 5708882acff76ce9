"""How soon each training was nearly as good as the study's best one ended: what a pretrained encoder saves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segstudy.console import format_number
from segstudy.runs.tables import encoder_origin
from segstudy.study.analysis.findings import Group

SHARE = 0.9

FIGURE = "val/miou"

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class TimeToAccuracy:
    """The first epoch whose val mIoU was the target or more, and the seconds of training until its end.

    NaN for both: never. seconds is NaN too if the history has none (of a run that began before they were written).
    """

    epochs: float
    seconds: float


def target(histories: Iterable[History]) -> float:
    """90 % of the best final val mIoU; NaN where none is above 0. All must be measured on alike images."""
    known = [value for rows in histories if (value := final(rows)) > 0]
    return SHARE * max(known, default=math.nan)


def final(rows: History) -> float:
    """val/miou of the last epoch that has one; NaN if none has."""
    return next((row[FIGURE] for row in reversed(rows) if FIGURE in row), math.nan)


def reached(rows: History, target: float) -> TimeToAccuracy:
    """The first epoch with val/miou of `target` or more."""
    for row in rows:
        if row.get(FIGURE, -math.inf) >= target:
            return TimeToAccuracy(row["epoch"], row.get("seconds", math.nan))
    return TimeToAccuracy(math.nan, math.nan)


def print_time_to_accuracy(group: Group, console: Console) -> None:
    """Print when each variant was at the target, means over its seeds; nothing without histories."""
    if math.isnan(group.target):
        return
    console.print(
        f"[bold]how soon:[/] until a val mIoU of {format_number(group.target)}, {SHARE:.0%} of the best final one; "
        "means over "
        "seeds, n/a: a training never was so good; seconds include validation",
        highlight=False,
        soft_wrap=True,
    )
    table = Table()
    for column in ("variant", "encoder from", "epochs", "seconds"):
        table.add_column(column, justify="left" if column in ("variant", "encoder from") else "right")
    for v in group.variants:
        epochs, seconds = (e.value if (e := v.figures.get(f"{what}_to_90")) else None for what in ("epochs", "seconds"))
        table.add_row(escape(v.name), encoder_origin(v.records[0]), format_number(epochs, 1), format_number(seconds, 1))
    console.print(table)

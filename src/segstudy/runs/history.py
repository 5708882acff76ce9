"""TODO"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from segstudy.files import read_text, write_text


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a `history.csv`, [] if there is none; figures that an epoch lacks are left out."""
    if not path.is_file():
        return []
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(read_text(path)))]


def write_history(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """One line an epoch; never half written."""
    names = ["epoch", *sorted({k for row in rows for k in row} - {"epoch"})]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    write_text(path.parent, path.name, table.getvalue())

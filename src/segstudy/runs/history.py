"""A run's `history.csv`: what was logged in each epoch, a line each."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from segstudy.errors import ConfigError
from segstudy.files import read_text, write_text


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a `history.csv`, [] if there is none; values that an epoch lacks are left out.

    Raises ConfigError, in one line, if the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(read_text(path)))]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def last_epoch(path: Path) -> int | None:
    """The epoch of the last row, without a look at the others; None if there is none."""
    try:
        return int(float(read_text(path).splitlines()[-1].partition(",")[0]))
    except (OSError, ValueError, IndexError, OverflowError):
        return None


def write_history(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """One line an epoch; never half written."""
    names = ["epoch", *sorted({k for row in rows for k in row} - {"epoch"})]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    write_text(path.parent, path.name, table.getvalue())

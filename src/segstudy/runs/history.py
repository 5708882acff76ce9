"""A run's `history.csv`: the logged values, one line for each epoch."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from segstudy.errors import ConfigError
from segstudy.files import read_csv, read_text, write_csv


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a `history.csv`, [] if there is none; missing values are left out.

    Raises ConfigError, with one line, if the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        return [{k: float(v) for k, v in row.items() if v} for row in read_csv(path)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def last_epoch(path: Path) -> int | None:
    """The epoch of the last row; None if there is none. Other rows are not parsed."""
    try:
        return int(float(read_text(path).splitlines()[-1].partition(",")[0]))
    except (OSError, ValueError, IndexError, OverflowError):
        return None


def write_history(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write one line for each epoch; the file is written atomically."""
    names = ["epoch", *sorted({k for row in rows for k in row} - {"epoch"})]
    write_csv(path.parent, path.name, names, ({k: f"{v:.6g}" for k, v in row.items()} for row in rows))

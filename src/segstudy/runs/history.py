"""A run's `history.csv`: the logged values, one line for each epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from segstudy.files import read_csv, reading, write_csv


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a `history.csv`, [] if there is none; missing values are left out.

    Raises DamagedFile.
    """
    try:
        with reading(path):
            rows = [{k: float(v) for k, v in row.items() if v} for row in read_csv(path)]
            epochs = [row["epoch"] for row in rows]
            if any(not (0 <= epoch <= 10**9) for epoch in epochs) or epochs != sorted(set(epochs)):
                raise ValueError("its epochs do not follow each other")
            return rows
    except FileNotFoundError:
        return []


def write_history(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write one line for each epoch; the file is written atomically."""
    names = ["epoch", *sorted({k for row in rows for k in row} - {"epoch"})]
    write_csv(path.parent, path.name, names, ({k: f"{v:.6g}" for k, v in row.items()} for row in rows))

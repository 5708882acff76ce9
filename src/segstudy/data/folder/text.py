"""Text files of the user's folder: lists, CSV tables, JSON."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from segstudy.errors import DataError


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, with or without a byte-order mark. Raises DataError if unreadable."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}\n  → save it as UTF-8 text") from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV: {column: value}."""
    return list(csv.DictReader(io.StringIO(read_text(path))))


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError if unreadable."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error

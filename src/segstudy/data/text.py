"""Text files of the user, in any usual encoding: lists, CSV tables, JSON."""

import codecs
import csv
import io
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

from segstudy.errors import DataError
from segstudy.files import open_to_read

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The content of a text file: UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Raises DataError that names the first line in another encoding.
    """
    try:
        with open_to_read(path) as file:
            content = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but missing") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    encoding = "UTF-16" if content.startswith(UTF_16_MARKS) else "UTF-8"
    try:
        return content.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not {encoding} text: byte 0x{content[error.start]:02x} in line {line}\n"
            "  → save it with the encoding UTF-8"
        ) from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV with commas, semicolons or tabs: {column: value}, without surrounding blanks.

    Missing last values are "". Raises DataError for a row with more values than columns.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=header.count), skipinitialspace=True)
    try:
        rows = [(lines.line_num, [value.strip() for value in row]) for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}") from error
    columns = rows[0][1] if rows else []
    for number, row in rows[1:]:
        if any(row[len(columns) :]):
            raise DataError(
                f"{path}, line {number}: {len(row)} values for {len(columns)} columns ({', '.join(columns)})\n"
                "  → write a value that holds a separator in double quotes"
            )
    return [dict(zip_longest(columns, row[: len(columns)], fillvalue="")) for _, row in rows[1:]]


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError if unreadable."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error

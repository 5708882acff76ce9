"""The classes that dataset.yaml declares, and files of classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segstudy.data.folder.mask_format import BACKGROUND, Rgb, color_key
from segstudy.data.text import read_rows, read_text
from segstudy.errors import DataError, first_few

LABELMAP_LINE = re.compile(r"(.+?):(\d+),(\d+),(\d+):[^:]*:[^:]*")
COLUMNS = {"r": "red", "g": "green", "b": "blue", "class": "name"}
COLUMNS |= dict.fromkeys(("id", "value", "pixel value"), "index")
"""Other names of columns, and ours."""


@dataclass(frozen=True)
class DeclaredClasses:
    """names: {number: class}. colours: {class: colour}, of the classes that have one."""

    names: dict[str, str] = field(default_factory=dict)
    colours: dict[str, Rgb] = field(default_factory=dict)

    @property
    def by_colour(self) -> dict[str, str]:
        """{key of a colour: class}."""
        return {color_key(rgb): name for name, rgb in self.colours.items()}


def read_class_file(path: Path) -> DeclaredClasses:
    """Read a CSV, CVAT's labelmap.txt, or a text file with a name in each line, numbered (`0 background`) or not.

    Raises DataError for another format, and for an empty line between names.
    """
    if path.suffix.lower() == ".csv":
        return read_class_table(path)
    lines = [line.strip().replace("_background_", BACKGROUND) for line in read_text(path).rstrip().splitlines()]
    if colours := _read_labelmap(lines):
        return DeclaredClasses({str(i): name for i, name in enumerate(colours)}, colours)
    if numbered := _read_numbered(lines):
        return DeclaredClasses(numbered)
    if "" in lines:
        number = lines.index("")
        raise DataError(
            f"{path}: line {number + 1} is empty, between names of classes: has class {number} no name, or is the line "
            "no class?\n  → write a name there, or remove the line"
        )
    return DeclaredClasses({str(i): name for i, name in enumerate(lines)})


def _read_numbered(lines: Sequence[str]) -> dict[str, str]:
    """{number: name} of lines such as `0 background` whose numbers count up from 0 or 1; {} for other lines."""
    matches = [re.fullmatch(r"(\d+)[\s,:;]+(\S.*)", line) for line in lines if line]
    names = {int(m[1]): m[2] for m in matches if m}
    counts_up = [*names] in ([*range(len(matches))], [*range(1, len(matches) + 1)])
    return {str(i): name for i, name in names.items()} if counts_up else {}


def _read_labelmap(lines: Sequence[str]) -> dict[str, Rgb]:
    """{class: colour} of CVAT's labelmap.txt, with lines `label:red,green,blue:parts:actions`; {} if it is not one."""
    matches = [LABELMAP_LINE.fullmatch(line) for line in lines if line and not line.startswith("#")]
    labels = {m[1]: (int(m[2]), int(m[3]), int(m[4])) for m in matches if m}
    return labels if len(labels) == len(matches) else {}


def read_class_table(path: Path) -> DeclaredClasses:
    """Read a CSV: columns name, and optionally index (default: the row), red, green, blue; or r, g, b, class."""
    rows = [{COLUMNS.get(k.lower(), k.lower()): v for k, v in row.items()} for row in read_rows(path)]
    try:
        listed = [(str(int(row.get("index", i))), row["name"]) for i, row in enumerate(rows)]
        coloured = [row for row in rows if {"red", "green", "blue"} <= row.keys()]
        colours = {row["name"]: (int(row["red"]), int(row["green"]), int(row["blue"])) for row in coloured}
    except (KeyError, ValueError) as error:
        found = ", ".join(rows[0]) if rows else "nothing"
        why = f"it has no column {error}" if isinstance(error, KeyError) else error
        expected = f"expected: index,name,red,green,blue\n  found: {found}"
        raise DataError(f"{path} is not a list of classes: {why}\n  {expected}") from error
    if len(names := dict(listed)) < len(listed):
        twice = [f"{number} {name}" for number, name in listed if names[number] != name]
        raise DataError(f"{path} lists an index twice: {first_few(twice) or 'in equal rows'}")
    return DeclaredClasses(names, colours)

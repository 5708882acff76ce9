"""The classes of the user's folder: from the keys in its masks to class numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segstudy.data.folder.description import Description
from segstudy.data.folder.mask_format import BACKGROUND, MaskFormat, Rgb
from segstudy.data.folder.text import read_rows, read_text
from segstudy.errors import ConfigError, DataError, did_you_mean, first_few
from segstudy.labels import IGNORE, voc_palette

MAX_UNDECLARED = 64
"""If the masks have more values or colours than this, dataset.yaml must give the classes."""

LABELMAP_LINE = re.compile(r"(.+?):(\d+),(\d+),(\d+):[^:]*:[^:]*")


@dataclass(frozen=True)
class LabelMap:
    """The classes of a folder.

    table: {key in the masks: class number or 255}. names: {key: class, also of ignored keys}. notes: what was guessed.
    """

    classes: list[str]
    palette: list[Rgb]
    background: int | None
    table: dict[str, int]
    names: dict[str, str]
    notes: list[str]

    def labels(self, mask: np.ndarray, keys: Sequence[str], source: str) -> np.ndarray:
        """Labels uint8 (H,W) of an indexed mask. Raises DataError that names `source` if a pixel has an unknown key.

        Unknown keys are reported when labels are counted (see `unknown_keys`), so here the file has changed since then.
        """
        unknown = [i for i, key in enumerate(keys) if key not in self.table]
        if unknown and np.isin(mask, unknown).any():
            raise DataError(
                f"{source} holds {first_few([keys[i] for i in unknown])}, which is not a class: was the file changed?"
            )
        return np.array([self.table.get(key, IGNORE) for key in keys], np.uint8)[mask]


@dataclass(frozen=True)
class DeclaredClasses:
    """The classes before `labels` and `ignore` are applied."""

    names: dict[str, str]  # key → class
    numbers: dict[str, str]  # number by which dataset.yaml may name a class → class
    colours: dict[str, Rgb]  # class → colour
    note: str = ""  # what was guessed


def make_label_map(description: Description, mask_format: MaskFormat, keys_present: Sequence[str]) -> LabelMap:
    """The label map from dataset.yaml, or, without classes in it, from the keys in the masks (`keys_present`).

    Raises ConfigError for entries that contradict each other or name no class.
    """
    declared = declared_classes(description, mask_format, keys_present)
    class_of, ignored = _classes_of_keys(description, mask_format, declared, keys_present)
    names = _distinct([*declared.names.values(), *class_of.values()])
    classes = [n for n in names if n not in ignored]
    if not 2 <= len(classes) <= IGNORE:
        raise ConfigError(
            f"{len(classes)} classes ({first_few(classes)}): there must be between 2 and {IGNORE}\n"
            "  → name them in dataset.yaml: classes: [background, …]"
        )
    table = {key: IGNORE if name in ignored else classes.index(name) for key, name in class_of.items()}
    table |= {str(key): IGNORE for key in description.ignore if str(key) not in names}
    if mask_format.name == "numbers":
        table.setdefault(str(IGNORE), IGNORE)
    for key in mask_format.void:
        table.setdefault(key, IGNORE)
    key_of = {name: key for key, name in reversed(class_of.items())}
    colours = [declared.colours.get(n) or mask_format.palette.get(key_of.get(n, "")) for n in classes]
    given = [c for c in colours if c is not None]
    palette = given if len(set(given)) == len(classes) else voc_palette(len(classes))
    notes = [declared.note] if declared.note else []
    return LabelMap(classes, palette, _background(description, declared, classes), table, class_of, notes)


def _classes_of_keys(
    description: Description, mask_format: MaskFormat, declared: DeclaredClasses, keys_present: Sequence[str]
) -> tuple[dict[str, str], set[str]]:
    """({key: class}, classes that become 255) with `labels` and `ignore` applied; the class "" becomes 255 too.

    Raises ConfigError that lists entries that name no class.
    """
    names = _distinct(declared.names.values())
    class_of, ignored, errors = dict(declared.names), {""}, []
    for key, target in description.labels.items():
        own_name = description.classes is None and isinstance(target, str)
        if target in (IGNORE, str(IGNORE), "ignore"):
            class_of[str(key)] = ""
        elif own_name or str(target) in (*names, *declared.numbers):
            class_of[str(key)] = declared.numbers.get(str(target), str(target))
        else:
            errors.append(f"labels: {key}: {target!r} is not a class{did_you_mean(str(target), names)}")
    names = _distinct([*names, *class_of.values()])
    for entry in map(str, description.ignore):
        name = entry if entry in names else declared.numbers.get(entry) or class_of.get(entry)
        if name is not None:
            ignored.add(name)
        elif entry not in keys_present and not (mask_format.name == "numbers" and entry.isdigit()):
            errors.append(f"ignore: {entry} is not a class{did_you_mean(entry, names)}")
    if errors:
        raise ConfigError("\n".join(errors) + f"\n  classes: {', '.join(names) or 'none are given'}")
    return class_of, ignored


def _distinct(names: Iterable[str]) -> list[str]:
    return [n for n in dict.fromkeys(names) if n]


def _background(description: Description, declared: DeclaredClasses, classes: list[str]) -> int | None:
    name = declared.numbers.get(str(description.background), str(description.background))
    if name in classes and description.background is not None:
        return classes.index(name)
    if description.background in (None, BACKGROUND):  # the default need not be a class
        return None
    raise ConfigError(
        f"background: {description.background!r} is not a class{did_you_mean(name, classes)} ({', '.join(classes)})"
    )


def declared_classes(description: Description, mask_format: MaskFormat, keys_present: Sequence[str]) -> DeclaredClasses:
    """The classes of dataset.yaml, or, if it gives none, those found in the masks."""
    given = read_classes(description)
    if given is None:
        return _classes_from_masks(description, mask_format, keys_present)
    numbers, colours = given
    note = f"classes: {len(numbers)}, from {description.classes}" if isinstance(description.classes, str) else ""
    names = list(numbers.values())
    duplicates = sorted({n for n in names if names.count(n) > 1})
    if duplicates:
        raise ConfigError(
            f"classes: {', '.join(duplicates)} is listed twice\n  → for several values of a class, labels: {{7: CLASS}}"
        )
    if description.palette is not None:
        if len(description.palette) != len(names):
            raise ConfigError(
                f"palette: {len(names)} classes need {len(names)} colours [red, green, blue], not {description.palette}"
            )
        colours = {n: (c[0], c[1], c[2]) for n, c in zip(names, description.palette, strict=True)}
    if mask_format.name == "numbers":
        return DeclaredClasses(dict(numbers), numbers, colours, note)
    if mask_format.name == "colours":
        return DeclaredClasses(_names_by_color(names, colours, keys_present), numbers, colours, note)
    if BACKGROUND not in names:  # for pixels that no annotation covers
        names = [BACKGROUND, *names]
    return DeclaredClasses({n: n for n in names}, numbers, colours, note)


def _names_by_color(names: list[str], colours: Mapping[str, Rgb], keys_present: Sequence[str]) -> dict[str, str]:
    missing = [n for n in names if n not in colours]
    if missing:
        raise ConfigError(
            f"the masks are colour pictures, and the classes {first_few(missing)} have no colour\n"
            f"  colours in the masks: {first_few(list(keys_present))}\n"
            "  → in dataset.yaml, palette: [[red, green, blue], …] for each class, or classes: a CSV with colours"
        )
    by_colour = {",".join(map(str, colours[n])): n for n in names}
    if len(by_colour) < len(names):
        doubles = [n for n in names if n not in by_colour.values()]
        raise ConfigError(f"classes with the colour of another class: {first_few(doubles)}")
    return by_colour


def _classes_from_masks(
    description: Description, mask_format: MaskFormat, keys_present: Sequence[str]
) -> DeclaredClasses:
    """The keys that occur in the masks, as classes."""
    if description.labels and not mask_format.annotated:
        return DeclaredClasses({}, {}, {})  # `labels` gives all classes
    if mask_format.name == "numbers":
        keys = sorted((k for k in keys_present if k != str(IGNORE)), key=int)
        if len(keys) > MAX_UNDECLARED or (keys and not 0 <= int(keys[0]) <= int(keys[-1]) <= IGNORE):
            raise ConfigError(
                f"the masks have {len(keys)} values, from {keys[0]} to {keys[-1]}: which of them are classes?\n"
                f"  (more than {MAX_UNDECLARED} values, or values outside 0…{IGNORE}, are not taken for classes)\n"
                f"  → in dataset.yaml, classes: {{{keys[0]}: NAME, {keys[-1]}: NAME, …}}, or labels: {{VALUE: CLASS}}"
            )
        names = {k: f"class {k}" for k in keys}
        return DeclaredClasses(names, names, {}, f"classes: the values {first_few(keys)} that occur in the masks")
    if mask_format.name == "colours":
        if len(keys_present) > MAX_UNDECLARED:
            raise ConfigError(
                f"the masks have {len(keys_present)} colours, more than {MAX_UNDECLARED}: which of them are classes?\n"
                "  → in dataset.yaml, classes: a CSV of index,name,red,green,blue"
            )
        colours = dict(sorted(((k, rgb_of_key(k)) for k in keys_present), key=lambda item: item[1]))
        note = f"classes: the {len(colours)} colours that occur in the masks"
        return DeclaredClasses({k: k for k in colours}, {}, colours, note)
    found = dict.fromkeys([BACKGROUND, *(mask_format.keys or sorted(keys_present))])
    names = {k: k for k in found if k not in description.labels and k not in mask_format.void}
    return DeclaredClasses(names, {}, {}, f"classes: {first_few(list(names))}, the labels in the masks")


def read_classes(description: Description) -> tuple[dict[str, str], dict[str, Rgb]] | None:
    """({number: name}, {name: colour}) of dataset.yaml's `classes`; None if it gives none."""
    given = description.classes
    if given is None:
        return None
    if isinstance(given, dict):
        return {str(k): str(v).strip() for k, v in sorted(given.items())}, {}
    if isinstance(given, str):
        path = description.require("classes", given)
        if path.suffix.lower() == ".csv":
            return read_class_table(path)
        lines = read_text(path).splitlines()
        if labels := _read_labelmap(lines):
            return {str(i): name for i, name in enumerate(labels)}, labels
        if numbered := _read_numbered(lines):
            return numbered, {}
        given = [*lines]
    return {str(i): str(n).strip() for i, n in enumerate(given) if str(n).strip()}, {}


def _read_numbered(lines: Sequence[str]) -> dict[str, str]:
    """{number: name} of lines such as `0 background` whose numbers count up from 0 or 1; {} for other lines."""
    matches = [re.fullmatch(r"(\d+)[\s,:;]+(\S.*)", line.strip()) for line in lines if line.strip()]
    names = {int(m[1]): m[2] for m in matches if m}
    counts_up = [*names] in ([*range(len(matches))], [*range(1, len(matches) + 1)])
    return {str(i): name for i, name in names.items()} if counts_up else {}


def _read_labelmap(lines: Sequence[str]) -> dict[str, Rgb]:
    """{class: colour} of CVAT's labelmap.txt, with lines `label:red,green,blue:parts:actions`; {} if it is not one."""
    matches = [LABELMAP_LINE.fullmatch(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    labels = {m[1]: (int(m[2]), int(m[3]), int(m[4])) for m in matches if m}
    return labels if len(labels) == len(matches) else {}


def read_class_table(path: Path) -> tuple[dict[str, str], dict[str, Rgb]]:
    """Read a CSV: columns name, and optionally index (default: the row), red, green, blue; or r, g, b, class."""
    short = {
        "r": "red",
        "g": "green",
        "b": "blue",
        "class": "name",
        "id": "index",
        "value": "index",
        "pixel value": "index",
    }
    rows = [
        {short.get(str(k).strip().lower(), str(k).strip().lower()): str(v).strip() for k, v in row.items()}
        for row in read_rows(path)
    ]
    try:
        listed = [(str(int(row.get("index", i))), row["name"]) for i, row in enumerate(rows)]
        coloured = [row for row in rows if {"red", "green", "blue"} <= row.keys()]
        colours = {row["name"]: (int(row["red"]), int(row["green"]), int(row["blue"])) for row in coloured}
    except (KeyError, ValueError) as error:
        found = ", ".join(rows[0]) if rows else "nothing"
        raise DataError(
            f"{path} is not a list of classes: {error!r}\n  expected: index,name,red,green,blue\n  found: {found}"
        ) from error
    if len(numbers := dict(listed)) < len(listed):
        twice = [f"{number} {name}" for number, name in listed if numbers[number] != name]
        raise DataError(f"{path} lists an index twice: {first_few(twice) or 'in equal rows'}")
    return numbers, colours


def rgb_of_key(key: str) -> Rgb:
    """The colour of a key such as "128,0,0"."""
    red, green, blue = map(int, key.split(","))
    return red, green, blue

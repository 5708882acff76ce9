"""The small dataset.yaml of a user's own folder, and what it makes of the keys in the masks: classes."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from segstudy.data.folder.formats import BACKGROUND, MaskFormat
from segstudy.errors import ConfigError, DataError, did_you_mean
from segstudy.labels import IGNORE, voc_palette

Rgb = tuple[int, int, int]

MOST_COLOURS = 64
"""More colours than this are not taken for classes without being asked."""


@dataclass(frozen=True)
class Description:
    """The keys of dataset.yaml; what is not given is guessed from the files."""

    classes: Any = (
        None  # names in order, {number: name}, or a file (CSV: index,name,red,green,blue; or a name per line)
    )
    palette: list | None = None  # [red, green, blue] of each class
    labels: dict = field(default_factory=dict)  # {what the masks hold: class name, its number, 255 or ignore}
    ignore: list = field(default_factory=list)  # classes or values that become 255
    background: Any = BACKGROUND  # its name or number, or null; the default is taken where there is such a class
    images: str = "images"
    masks: str = "masks"  # a folder of pictures or LabelMe files, or a COCO file
    pairs: str | None = None  # a CSV with the columns image, mask and optionally split and group
    train: Any = None  # a list file, a sub-folder of images, or a value of the column split
    val: Any = None  # likewise, or a share: 0.2
    test: Any = None
    folds: int | None = None
    split_seed: int = 0
    group: str | None = None  # a regular expression, whose match in the name is the group, or a column of pairs
    places: tuple[str, ...] = ()  # not a key: where files that it names are looked for

    def find(self, name: str) -> Path | None:
        """A file that the description names: in the root, or beside the description."""
        return next((Path(p) / name for p in self.places if (Path(p) / name).is_file()), None)

    def values(self) -> dict[str, Any]:
        """All keys and values, as JSON values."""
        return {k: v for k, v in asdict(self).items() if k != "places"}


def describe(root: Path, about: Path | None = None) -> tuple[Description, Path | None]:
    """The description of a folder, from `about` or ROOT/dataset.yaml, and its file; None if there is none.

    Raises DataError if `about` is not there, ConfigError with every mistake in it.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}\n  → set data.root to the folder with your images and masks")
    if about is not None and not about.is_file():
        raise DataError(f"no file {about}\n  → data.about is the YAML that describes data.root, or null")
    file = about or root / "dataset.yaml"
    if not file.is_file():
        return Description(classes=_classes_file(root), places=(str(root),)), None
    try:
        given: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    known = [f.name for f in fields(Description) if f.name != "places"]
    if not isinstance(given, dict):
        raise ConfigError(f"{file} holds no keys\n  known: {', '.join(known)}")
    mistakes = [f"no key {k!r}{did_you_mean(str(k), known)}" for k in given if k not in known] + _mistakes(given)
    if mistakes:
        raise ConfigError(f"{file}:\n  " + "\n  ".join(mistakes) + f"\n  known: {', '.join(known)}")
    if "ignore" in given and not isinstance(given["ignore"], list):
        given["ignore"] = [given["ignore"]]
    given = {str(k): v for k, v in given.items() if v is not None or k == "background"}
    if "classes" not in given and "labels" not in given:
        given["classes"] = _classes_file(root)
    return Description(**given, places=(str(root), str(file.parent))), file


def _classes_file(root: Path) -> str | None:
    """The list of classes that lies in the folder under its usual name."""
    return next((name for name in ("classes.csv", "classes.txt") if (root / name).is_file()), None)


def _mistakes(given: Mapping) -> list[str]:
    """What is wrong with the values of dataset.yaml, whatever the files hold."""
    forms: dict[str, tuple[tuple[type, ...], str]] = {
        "classes": ((list, dict, str), "a list of names, {number: name}, or a file's name"),
        "palette": ((list,), "a list of [red, green, blue]"),
        "labels": ((dict,), "{value: class}"),
        "ignore": ((list, str, int), "a list of classes or values"),
        **dict.fromkeys(("images", "masks", "pairs"), ((str,), "a path in the folder")),
        "train": ((str,), "a list or a sub-folder"),
        **dict.fromkeys(("val", "test"), ((str, float), "a list, a sub-folder, or a share like 0.2")),
        "folds": ((int,), "a number of at least 2"),
        "split_seed": ((int,), "a number"),
        "group": ((str,), "a regular expression or a column"),
    }
    wrong = [
        f"{key}: {value!r} is not {forms[key][1]}"
        for key, value in given.items()
        if key in forms and value is not None and (not isinstance(value, forms[key][0]) or isinstance(value, bool))
    ]
    wrong += [
        f"{k}: {v} is no share between 0 and 1" for k, v in given.items() if isinstance(v, float) and not 0 < v < 1
    ]
    if isinstance(given.get("classes"), dict) and not all(isinstance(k, int) for k in given["classes"]):
        wrong.append("classes: as {number: name}, every key is a number")
    if isinstance(given.get("folds"), int) and given["folds"] < 2:
        wrong.append(f"folds: {given['folds']} is not {forms['folds'][1]}")
    return wrong


@dataclass(frozen=True)
class LabelMap:
    """The classes of a folder, and the class (or 255) that each key in its masks means. said: what was guessed."""

    classes: list[str]
    palette: list[Rgb]
    background: int | None
    table: dict[str, int]
    said: list[str]

    def labels(self, drawn: np.ndarray, keys: Sequence[str], source: str) -> np.ndarray:
        """Labels uint8 (H,W) of a decoded mask. Raises DataError that names `source` and the keys that mean nothing."""
        unknown = [k for k in keys if k not in self.table]
        if unknown:
            known = ", ".join(list(self.table)[:12]) + (", …" if len(self.table) > 12 else "")
            raise DataError(
                f"{source} holds {some(unknown)}, which is no class{did_you_mean(unknown[0], list(self.table))}\n"
                f"  known: {known}\n"
                f"  → in dataset.yaml, name it in classes, or say what it is: labels: {{{unknown[0]}: CLASS}}"
            )
        return np.array([self.table[k] for k in keys], np.uint8)[drawn]


@dataclass(frozen=True)
class Declared:
    """Classes before anything is ignored: the keys of each name, in order, and the colours that were given."""

    names: dict[str, str]  # key → class
    numbers: dict[str, str]  # what a class may be called by number in dataset.yaml → class
    colours: dict[str, Rgb]  # class → colour
    said: str = ""


def make_label_map(about: Description, kind: MaskFormat, present: Sequence[str], own: Mapping[str, Rgb]) -> LabelMap:
    """The classes, as dataset.yaml says or as the masks suggest.

    present: the keys that occur. own: colours that the masks' own palette gives to keys.
    Raises ConfigError for what does not fit together.
    """
    declared = declare(about, kind, present)
    table_of, ordered = _targets(about, kind, declared)
    ignored = _ignored(about, kind, declared, table_of, ordered, present)
    classes = [n for n in ordered if n not in ignored]
    if not 2 <= len(classes) <= IGNORE:
        raise ConfigError(
            f"{len(classes)} classes ({some(classes)}): at least 2 and at most {IGNORE} are needed\n"
            "  → name them in dataset.yaml: classes: [background, …]"
        )
    table = {key: IGNORE if name in ignored else classes.index(name) for key, name in table_of.items()}
    table |= {str(key): IGNORE for key in about.ignore if str(key) not in classes and str(key) not in ordered}
    if kind.name == "numbers":
        table.setdefault(str(IGNORE), IGNORE)
    key_of = {name: key for key, name in reversed(table_of.items())}
    colours = [declared.colours.get(n) or own.get(key_of.get(n, "")) for n in classes]
    whole = [c for c in colours if c is not None]
    palette = whole if len(set(whole)) == len(classes) else voc_palette(len(classes))
    return LabelMap(
        classes, palette, _background(about, declared, classes), table, [declared.said] * bool(declared.said)
    )


def _targets(about: Description, kind: MaskFormat, declared: Declared) -> tuple[dict[str, str], list[str]]:
    """(the class, or "" for 255, of each key after `labels`; all classes in order)."""
    names = list(dict.fromkeys(declared.names.values()))
    guessed = about.classes is None
    table = dict(declared.names)
    wrong = []
    for key, target in about.labels.items():
        if target in (IGNORE, str(IGNORE), "ignore"):
            table[str(key)] = ""
        elif str(target) in (*names, *declared.numbers) or (guessed and isinstance(target, str)):
            table[str(key)] = declared.numbers.get(str(target), str(target))
        else:
            wrong.append(f"labels: {key}: {target!r} is no class{did_you_mean(str(target), names)}")
    if wrong:
        raise ConfigError("\n".join(wrong) + f"\n  classes: {', '.join(names) or 'none are given'}")
    ordered = list(dict.fromkeys([*names, *table.values()]))
    return table, [n for n in ordered if n]


def _ignored(
    about: Description,
    kind: MaskFormat,
    declared: Declared,
    table: Mapping[str, str],
    names: list[str],
    present: Sequence[str],
) -> set[str]:
    """The classes that become 255. Raises ConfigError for an entry of `ignore` that is nothing."""
    ignored, wrong = {""}, []
    for entry in map(str, about.ignore):
        name = entry if entry in names else declared.numbers.get(entry) or table.get(entry)
        if name is not None:
            ignored.add(name)
        elif entry not in present and not (kind.name == "numbers" and entry.isdigit()):
            wrong.append(f"ignore: {entry} is no class{did_you_mean(entry, names)}")
    if wrong:
        raise ConfigError("\n".join(wrong) + f"\n  classes: {', '.join(names)}")
    return ignored


def _background(about: Description, declared: Declared, classes: list[str]) -> int | None:
    if about.background is None:
        return None
    name = declared.numbers.get(str(about.background), str(about.background))
    if name in classes:
        return classes.index(name)
    if about.background == BACKGROUND:  # the default
        return None
    raise ConfigError(
        f"background: {about.background!r} is no class{did_you_mean(name, classes)} ({', '.join(classes)})"
    )


def declare(about: Description, kind: MaskFormat, present: Sequence[str]) -> Declared:
    """The classes as dataset.yaml gives them, or else as the masks suggest."""
    given = read_classes(about)
    if given is None:
        return _suggested(about, kind, present)
    numbers, colours = given
    said = f"classes: {len(numbers)}, from {about.classes}" if isinstance(about.classes, str) else ""
    names = list(numbers.values())
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"classes: {', '.join(twice)} twice\n  → several values of one class: labels: {{7: CLASS}}")
    colours = colours | _palette(about, names)
    if kind.name == "numbers":
        return Declared(dict(numbers), numbers, colours, said)
    if kind.name == "colours":
        return Declared(_by_colour(names, colours, present), numbers, colours, said)
    if BACKGROUND not in names:  # there is always something that no outline covers
        names = [BACKGROUND, *names]
    return Declared({n: n for n in names}, numbers, colours, said)


def _by_colour(names: list[str], colours: Mapping[str, Rgb], present: Sequence[str]) -> dict[str, str]:
    missing = [n for n in names if n not in colours]
    if missing:
        raise ConfigError(
            f"the masks are colour pictures, and the classes {some(missing)} have no colour\n"
            f"  found the colours: {some(list(present))}\n"
            "  → in dataset.yaml, palette: [[red, green, blue], …] of each class, or classes: a CSV with colours"
        )
    by_colour = {",".join(map(str, colours[n])): n for n in names}
    if len(by_colour) < len(names):
        raise ConfigError(f"classes share a colour: {some([n for n in names if n not in by_colour.values()])}")
    return by_colour


def _palette(about: Description, names: list[str]) -> dict[str, Rgb]:
    if about.palette is None:
        return {}
    whole = all(isinstance(c, list) and len(c) == 3 and all(0 <= int(v) <= 255 for v in c) for c in about.palette)
    if not whole or len(about.palette) != len(names):
        raise ConfigError(f"palette: {len(names)} classes need as many [red, green, blue] of 0…255: {about.palette}")
    return {n: (c[0], c[1], c[2]) for n, c in zip(names, about.palette, strict=True)}


def _suggested(about: Description, kind: MaskFormat, present: Sequence[str]) -> Declared:
    """Classes from the keys that occur in the masks."""
    if about.labels and kind.name != "COCO" and kind.name != "LabelMe":
        return Declared({}, {}, {})  # `labels` names them all
    keys = [k for k in present if k not in map(str, about.labels)]
    if kind.name == "numbers":
        keys = sorted((k for k in keys if k != str(IGNORE)), key=int)
        names = {k: f"class {k}" for k in keys}
        return Declared(names, names, {}, f"classes: the values {some(keys)} that occur in the masks")
    if kind.name == "colours":
        if len(keys) > MOST_COLOURS:
            raise ConfigError(
                f"the masks hold {len(keys)} colours, more than {MOST_COLOURS}: which are classes?\n"
                "  → in dataset.yaml, classes: a CSV of index,name,red,green,blue"
            )
        keys.sort(key=_rgb)
        colours = {k: _rgb(k) for k in keys}
        return Declared({k: k for k in keys}, {}, colours, f"classes: the {len(keys)} colours that occur in the masks")
    names = {k: k for k in dict.fromkeys([BACKGROUND, *(kind.keys or sorted(present))]) if k not in about.labels}
    return Declared(names, {}, {}, f"classes: {some(list(names))}, the labels in the masks")


def read_classes(about: Description) -> tuple[dict[str, str], dict[str, Rgb]] | None:
    """{number: name} and {name: colour} as dataset.yaml gives them; None if it does not."""
    given = about.classes
    if given is None:
        return None
    if isinstance(given, str):
        path = about.find(given)
        if path is None:
            raise DataError(f"classes: no file {given} in {' or '.join(dict.fromkeys(about.places))}")
        return (
            read_class_table(path) if path.suffix.lower() == ".csv" else (_numbered(path.read_text().splitlines()), {})
        )
    if isinstance(given, dict):
        return {str(k): str(v) for k, v in sorted(given.items(), key=lambda item: int(item[0]))}, {}
    return _numbered(given), {}


def _numbered(names: Sequence[Any]) -> dict[str, str]:
    return {str(i): str(n).strip() for i, n in enumerate(names) if str(n).strip()}


def read_class_table(path: Path) -> tuple[dict[str, str], dict[str, Rgb]]:
    """Columns index (else the row), name, red, green, blue (else no colours); r, g, b and class are understood."""
    short = {"r": "red", "g": "green", "b": "blue", "class": "name", "id": "index", "value": "index"}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [
            {short.get(str(k).strip().lower(), str(k).strip().lower()): str(v).strip() for k, v in row.items()}
            for row in csv.DictReader(file)
        ]
    try:
        numbers = {str(int(row.get("index", i))): row["name"] for i, row in enumerate(rows)}
        coloured = [row for row in rows if {"red", "green", "blue"} <= row.keys()]
        colours = {row["name"]: (int(row["red"]), int(row["green"]), int(row["blue"])) for row in coloured}
    except (KeyError, ValueError) as error:
        found = ", ".join(rows[0]) if rows else "nothing"
        raise DataError(
            f"{path} is no list of classes: {error!r}\n  expected: index,name,red,green,blue\n  found: {found}"
        ) from error
    return numbers, colours


def _rgb(key: str) -> Rgb:
    red, green, blue = map(int, key.split(","))
    return red, green, blue


def some(words: Sequence[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(words[:most]) + (f" … and {len(words) - most} more" if len(words) > most else "")

"""dataset.yaml, which describes a user's folder, and the map from the keys in its masks to classes."""

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
from segstudy.data.images import first_few
from segstudy.errors import ConfigError, DataError, did_you_mean
from segstudy.labels import IGNORE, voc_palette

Rgb = tuple[int, int, int]

MAX_COLORS = 64
"""With more colours than this in the masks, the classes must be given."""


@dataclass(frozen=True)
class Description:
    """The keys of dataset.yaml. What it does not give is guessed from the files and reported."""

    # names in order, {number: name}, or a file (CSV: index,name,red,green,blue; or a name per line)
    classes: Any = None
    palette: list | None = None  # [red, green, blue] of each class
    labels: dict = field(default_factory=dict)  # {what the masks hold: class name, its number, 255 or ignore}
    ignore: list = field(default_factory=list)  # classes or values that become 255
    background: Any = BACKGROUND  # its name or number, or null; the default applies if there is such a class
    images: str = "images"
    masks: str = "masks"  # a folder of pictures or LabelMe files, or a COCO file
    pairs: str | None = None  # a CSV with the columns image, mask and optionally split and group
    train: Any = None  # a list file, a sub-folder of images, or a value of the column split
    val: Any = None  # likewise, or a share: 0.2
    test: Any = None
    folds: int | None = None
    split_seed: int = 0
    group: str | None = None  # a regular expression (its match in the name is the group), or a column of pairs
    places: tuple[str, ...] = ()  # not a key: folders in which named files are searched

    def find(self, name: str) -> Path | None:
        """A file that dataset.yaml names: in the root, or beside dataset.yaml."""
        return next((Path(p) / name for p in self.places if (Path(p) / name).is_file()), None)

    def values(self) -> dict[str, Any]:
        """All keys and values, as JSON values."""
        return {k: v for k, v in asdict(self).items() if k != "places"}


def read_description(root: Path, about: Path | None = None) -> tuple[Description, Path | None]:
    """The description of a folder, from `about` or ROOT/dataset.yaml, and that file (None if there is none).

    Raises DataError if `about` does not exist, ConfigError that lists all mistakes in it.
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
    mistakes = [f"no key {k!r}{did_you_mean(str(k), known)}" for k in given if k not in known] + _wrong_values(given)
    if mistakes:
        raise ConfigError(f"{file}:\n  " + "\n  ".join(mistakes) + f"\n  known: {', '.join(known)}")
    if "ignore" in given and not isinstance(given["ignore"], list):
        given["ignore"] = [given["ignore"]]
    given = {str(k): v for k, v in given.items() if v is not None or k == "background"}
    if "classes" not in given and "labels" not in given:
        given["classes"] = _classes_file(root)
    return Description(**given, places=(str(root), str(file.parent))), file


def _classes_file(root: Path) -> str | None:
    """The file of classes in the folder, if it has one of the usual names."""
    return next((name for name in ("classes.csv", "classes.txt") if (root / name).is_file()), None)


def _wrong_values(given: Mapping) -> list[str]:
    """Messages about values of dataset.yaml that are invalid whatever the files hold."""
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
    errors = [
        f"{key}: {value!r} is not {forms[key][1]}"
        for key, value in given.items()
        if key in forms and value is not None and (not isinstance(value, forms[key][0]) or isinstance(value, bool))
    ]
    errors += [
        f"{k}: {v} is no share between 0 and 1" for k, v in given.items() if isinstance(v, float) and not 0 < v < 1
    ]
    if isinstance(given.get("classes"), dict) and not all(isinstance(k, int) for k in given["classes"]):
        errors.append("classes: as {number: name}, every key is a number")
    if isinstance(given.get("folds"), int) and given["folds"] < 2:
        errors.append(f"folds: {given['folds']} is not {forms['folds'][1]}")
    return errors


@dataclass(frozen=True)
class LabelMap:
    """The classes of a folder. table: {key in the masks: class number or 255}. notes: what was guessed."""

    classes: list[str]
    palette: list[Rgb]
    background: int | None
    table: dict[str, int]
    notes: list[str]

    def labels(self, mask: np.ndarray, keys: Sequence[str], source: str) -> np.ndarray:
        """Labels uint8 (H,W) of an indexed mask. Raises DataError that names `source` and its unknown keys."""
        unknown = [k for k in keys if k not in self.table]
        if unknown:
            known = ", ".join(list(self.table)[:12]) + (", …" if len(self.table) > 12 else "")
            hint = did_you_mean(unknown[0], list(self.table))
            raise DataError(
                f"{source} holds {first_few(unknown)}, which is no class{hint}\n"
                f"  known: {known}\n"
                f"  → in dataset.yaml, name it in classes, or map it: labels: {{{unknown[0]}: CLASS}}"
            )
        return np.array([self.table[k] for k in keys], np.uint8)[mask]


@dataclass(frozen=True)
class DeclaredClasses:
    """The classes before `labels` and `ignore` are applied."""

    names: dict[str, str]  # key → class
    numbers: dict[str, str]  # number by which dataset.yaml may name a class → class
    colours: dict[str, Rgb]  # class → colour
    note: str = ""  # what was guessed


def make_label_map(
    description: Description, mask_format: MaskFormat, keys_present: Sequence[str], mask_palette: Mapping[str, Rgb]
) -> LabelMap:
    """The classes of dataset.yaml, or else those found in the masks.

    keys_present: those that occur in the masks. mask_palette: {key: colour} from an indexed picture.
    Raises ConfigError for entries that contradict each other or name no class.
    """
    declared = declared_classes(description, mask_format, keys_present)
    class_of = _apply_labels(description, declared)
    names = [n for n in dict.fromkeys([*declared.names.values(), *class_of.values()]) if n]
    ignored = _ignored_classes(description, mask_format, declared, class_of, names, keys_present)
    classes = [n for n in names if n not in ignored]
    if not 2 <= len(classes) <= IGNORE:
        raise ConfigError(
            f"{len(classes)} classes ({first_few(classes)}): there must be 2 to {IGNORE}\n"
            "  → name them in dataset.yaml: classes: [background, …]"
        )
    table = {key: IGNORE if name in ignored else classes.index(name) for key, name in class_of.items()}
    table |= {str(key): IGNORE for key in description.ignore if str(key) not in names}
    if mask_format.name == "numbers":
        table.setdefault(str(IGNORE), IGNORE)
    key_of = {name: key for key, name in reversed(class_of.items())}
    colours = [declared.colours.get(n) or mask_palette.get(key_of.get(n, "")) for n in classes]
    given = [c for c in colours if c is not None]
    palette = given if len(set(given)) == len(classes) else voc_palette(len(classes))
    notes = [declared.note] if declared.note else []
    return LabelMap(classes, palette, _background(description, declared, classes), table, notes)


def _apply_labels(description: Description, declared: DeclaredClasses) -> dict[str, str]:
    """{key: class, or "" for 255} after `labels`. Raises ConfigError for unknown classes."""
    names = list(dict.fromkeys(declared.names.values()))
    guessed = description.classes is None
    table = dict(declared.names)
    errors = []
    for key, target in description.labels.items():
        if target in (IGNORE, str(IGNORE), "ignore"):
            table[str(key)] = ""
        elif str(target) in (*names, *declared.numbers) or (guessed and isinstance(target, str)):
            table[str(key)] = declared.numbers.get(str(target), str(target))
        else:
            errors.append(f"labels: {key}: {target!r} is no class{did_you_mean(str(target), names)}")
    if errors:
        raise ConfigError("\n".join(errors) + f"\n  classes: {', '.join(names) or 'none are given'}")
    return table


def _ignored_classes(
    description: Description,
    mask_format: MaskFormat,
    declared: DeclaredClasses,
    table: Mapping[str, str],
    names: list[str],
    keys_present: Sequence[str],
) -> set[str]:
    """The classes that become 255. Raises ConfigError for an unknown entry of `ignore`."""
    ignored, errors = {""}, []
    for entry in map(str, description.ignore):
        name = entry if entry in names else declared.numbers.get(entry) or table.get(entry)
        if name is not None:
            ignored.add(name)
        elif entry not in keys_present and not (mask_format.name == "numbers" and entry.isdigit()):
            errors.append(f"ignore: {entry} is no class{did_you_mean(entry, names)}")
    if errors:
        raise ConfigError("\n".join(errors) + f"\n  classes: {', '.join(names)}")
    return ignored


def _background(description: Description, declared: DeclaredClasses, classes: list[str]) -> int | None:
    if description.background is None:
        return None
    name = declared.numbers.get(str(description.background), str(description.background))
    if name in classes:
        return classes.index(name)
    if description.background == BACKGROUND:  # the default
        return None
    raise ConfigError(
        f"background: {description.background!r} is no class{did_you_mean(name, classes)} ({', '.join(classes)})"
    )


def declared_classes(description: Description, mask_format: MaskFormat, keys_present: Sequence[str]) -> DeclaredClasses:
    """The classes of dataset.yaml, or else those found in the masks."""
    given = read_classes(description)
    if given is None:
        return _classes_from_masks(description, mask_format, keys_present)
    numbers, colours = given
    note = f"classes: {len(numbers)}, from {description.classes}" if isinstance(description.classes, str) else ""
    names = list(numbers.values())
    duplicates = sorted({n for n in names if names.count(n) > 1})
    if duplicates:
        raise ConfigError(
            f"classes: {', '.join(duplicates)} twice\n  → to give a class several values: labels: {{7: CLASS}}"
        )
    colours = colours | _palette(description, names)
    if mask_format.name == "numbers":
        return DeclaredClasses(dict(numbers), numbers, colours, note)
    if mask_format.name == "colours":
        return DeclaredClasses(_names_by_color(names, colours, keys_present), numbers, colours, note)
    if BACKGROUND not in names:  # some pixels are covered by no annotation
        names = [BACKGROUND, *names]
    return DeclaredClasses({n: n for n in names}, numbers, colours, note)


def _names_by_color(names: list[str], colours: Mapping[str, Rgb], keys_present: Sequence[str]) -> dict[str, str]:
    missing = [n for n in names if n not in colours]
    if missing:
        raise ConfigError(
            f"the masks are colour pictures, and the classes {first_few(missing)} have no colour\n"
            f"  found the colours: {first_few(list(keys_present))}\n"
            "  → in dataset.yaml, palette: [[red, green, blue], …] of each class, or classes: a CSV with colours"
        )
    by_colour = {",".join(map(str, colours[n])): n for n in names}
    if len(by_colour) < len(names):
        raise ConfigError(f"classes share a colour: {first_few([n for n in names if n not in by_colour.values()])}")
    return by_colour


def _palette(description: Description, names: list[str]) -> dict[str, Rgb]:
    if description.palette is None:
        return {}
    whole = all(isinstance(c, list) and len(c) == 3 and all(0 <= int(v) <= 255 for v in c) for c in description.palette)
    if not whole or len(description.palette) != len(names):
        raise ConfigError(
            f"palette: {len(names)} classes need as many [red, green, blue] of 0…255, not {description.palette}"
        )
    return {n: (c[0], c[1], c[2]) for n, c in zip(names, description.palette, strict=True)}


def _classes_from_masks(
    description: Description, mask_format: MaskFormat, keys_present: Sequence[str]
) -> DeclaredClasses:
    """The keys that occur in the masks, as classes."""
    if description.labels and mask_format.name != "COCO" and mask_format.name != "LabelMe":
        return DeclaredClasses({}, {}, {})  # `labels` names them all
    keys = [k for k in keys_present if k not in map(str, description.labels)]
    if mask_format.name == "numbers":
        keys = sorted((k for k in keys if k != str(IGNORE)), key=int)
        names = {k: f"class {k}" for k in keys}
        return DeclaredClasses(names, names, {}, f"classes: the values {first_few(keys)} that occur in the masks")
    if mask_format.name == "colours":
        if len(keys) > MAX_COLORS:
            raise ConfigError(
                f"the masks hold {len(keys)} colours, more than {MAX_COLORS}: which are classes?\n"
                "  → in dataset.yaml, classes: a CSV of index,name,red,green,blue"
            )
        keys.sort(key=_rgb)
        colours = {k: _rgb(k) for k in keys}
        return DeclaredClasses(
            {k: k for k in keys}, {}, colours, f"classes: the {len(keys)} colours that occur in the masks"
        )
    names = {
        k: k
        for k in dict.fromkeys([BACKGROUND, *(mask_format.keys or sorted(keys_present))])
        if k not in description.labels
    }
    return DeclaredClasses(names, {}, {}, f"classes: {first_few(list(names))}, the labels in the masks")


def read_classes(description: Description) -> tuple[dict[str, str], dict[str, Rgb]] | None:
    """({number: name}, {name: colour}) of dataset.yaml; None if it gives no classes."""
    given = description.classes
    if given is None:
        return None
    if isinstance(given, str):
        path = description.find(given)
        if path is None:
            raise DataError(f"classes: no file {given} in {' or '.join(dict.fromkeys(description.places))}")
        return (
            read_class_table(path) if path.suffix.lower() == ".csv" else (_numbered(path.read_text().splitlines()), {})
        )
    if isinstance(given, dict):
        return {str(k): str(v) for k, v in sorted(given.items(), key=lambda item: int(item[0]))}, {}
    return _numbered(given), {}


def _numbered(names: Sequence[Any]) -> dict[str, str]:
    return {str(i): str(n).strip() for i, n in enumerate(names) if str(n).strip()}


def read_class_table(path: Path) -> tuple[dict[str, str], dict[str, Rgb]]:
    """A CSV with the columns name and optionally index (default: the row), red, green, blue; or r, g, b, class."""
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

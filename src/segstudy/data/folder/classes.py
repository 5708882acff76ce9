"""The classes of the user's folder: from the keys in its masks to class numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from segstudy.data.folder.description import Description
from segstudy.data.folder.mask_format import BACKGROUND, MaskFormat, Rgb, rgb_of_key
from segstudy.errors import ConfigError, DataError, did_you_mean, first_few
from segstudy.labels import IGNORE, voc_palette

MAX_UNDECLARED = 64  # if the masks have more values or colours than this, dataset.yaml must give the classes


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
            found = first_few([keys[i] for i in unknown])
            raise DataError(f"{source} holds {found}, which is not a class: was the file changed?")
        return np.array([self.table.get(key, IGNORE) for key in keys], np.uint8)[mask]


@dataclass(frozen=True)
class _Classes:
    """The classes before `labels` and `ignore` are applied.

    of_key: {key in the masks: class}. of_number: {number by which dataset.yaml may name a class: class}.
    colours: {class: colour}. note: what was guessed.
    """

    of_key: dict[str, str] = field(default_factory=dict)
    of_number: dict[str, str] = field(default_factory=dict)
    colours: dict[str, Rgb] = field(default_factory=dict)
    note: str = ""


def make_label_map(description: Description, mask_format: MaskFormat, keys_present: Sequence[str]) -> LabelMap:
    """The label map from dataset.yaml, or, without classes in it, from the keys in the masks (`keys_present`).

    Raises ConfigError for entries that contradict each other or name no class.
    """
    named = description.declared.names
    first = (_declared if named else _found_in_masks)(description, mask_format, keys_present)
    class_of, ignored = _apply_labels(description, mask_format, first, keys_present)
    names = _distinct([*first.of_key.values(), *class_of.values()])
    classes = [n for n in names if n not in ignored]
    if not 0 < len(classes) <= IGNORE:
        raise ConfigError(
            f"{len(classes)} classes ({first_few(classes)}): there must be between 2 and {IGNORE}\n"
            "  → name them in dataset.yaml: classes: [background, …]"
        )
    table = {key: IGNORE if name in ignored else classes.index(name) for key, name in class_of.items()}
    table |= {str(key): IGNORE for key in description.ignore if str(key) not in names}
    for key in (*mask_format.void, *([str(IGNORE)] if mask_format.numbered else [])):
        table.setdefault(key, IGNORE)
    key_of = {name: key for key, name in reversed(class_of.items())}
    colours = [first.colours.get(n) or mask_format.palette.get(key_of.get(n, "")) for n in classes]
    given = [c for c in colours if c is not None]
    palette = given if len(set(given)) == len(classes) else voc_palette(len(classes))
    notes = [first.note] if first.note else []
    return LabelMap(classes, palette, _background(description, first, classes), table, class_of, notes)


def _apply_labels(
    description: Description, mask_format: MaskFormat, first: _Classes, keys_present: Sequence[str]
) -> tuple[dict[str, str], set[str]]:
    """({key: class}, classes that become 255) with `labels` and `ignore` applied; the class "" becomes 255 too.

    Raises ConfigError that lists entries that name no class.
    """
    names = _distinct(first.of_key.values())
    class_of, ignored, errors = dict(first.of_key), {""}, []
    for key, target in description.labels.items():
        own_name = description.classes is None and isinstance(target, str)
        if target in (IGNORE, str(IGNORE), "ignore"):
            class_of[str(key)] = ""
        elif own_name or str(target) in (*names, *first.of_number):
            class_of[str(key)] = first.of_number.get(str(target), str(target))
        else:
            errors.append(f"labels: {key}: {target!r} is not a class{did_you_mean(str(target), names)}")
    names = _distinct([*names, *class_of.values()])
    for entry in map(str, description.ignore):
        name = entry if entry in names else first.of_number.get(entry) or class_of.get(entry)
        if name is not None:
            ignored.add(name)
        elif entry not in keys_present and not (mask_format.numbered and entry.isdigit()):
            errors.append(f"ignore: {entry} is not a class{did_you_mean(entry, names)}")
    if errors:
        raise ConfigError("\n".join(errors) + f"\n  classes: {', '.join(names) or 'none are given'}")
    return class_of, ignored


def _distinct(names: Iterable[str]) -> list[str]:
    return [n for n in dict.fromkeys(names) if n]


def _background(description: Description, first: _Classes, classes: list[str]) -> int | None:
    name = first.of_number.get(str(description.background), str(description.background))
    if name in classes and description.background is not None:
        return classes.index(name)
    if description.background in (None, BACKGROUND):  # the default need not be a class
        return None
    hint = did_you_mean(name, classes)
    raise ConfigError(f"background: {description.background!r} is not a class{hint} ({', '.join(classes)})")


def _declared(description: Description, mask_format: MaskFormat, keys_present: Sequence[str]) -> _Classes:
    """The classes of dataset.yaml."""
    numbers, colours = description.declared.names, description.declared.colours
    note = f"classes: {len(numbers)}, from {description.classes}" if isinstance(description.classes, str) else ""
    of_key, names = numbers, list(numbers.values())
    if mask_format.kind == "colours":
        of_key = description.declared.by_colour
        if missing := [n for n in names if n not in colours]:
            raise ConfigError(
                f"the masks are colour pictures, and the classes {first_few(missing)} have no colour\n"
                f"  colours in the masks: {first_few(list(keys_present))}\n"
                "  → in dataset.yaml, palette: [[red, green, blue], …] for each class, or classes: a CSV with colours"
            )
        if doubles := [n for n in names if n not in of_key.values()]:
            raise ConfigError(f"classes with the colour of another class: {first_few(doubles)}")
    elif mask_format.annotated:
        of_key = {n: n for n in (names if BACKGROUND in names else [BACKGROUND, *names])}  # of pixels without an object
    return _Classes(of_key, numbers, colours, note)


def _found_in_masks(description: Description, mask_format: MaskFormat, keys_present: Sequence[str]) -> _Classes:
    """The keys that occur in the masks, as classes."""
    if mask_format.annotated:
        found = dict.fromkeys([BACKGROUND, *(mask_format.keys or sorted(keys_present))])
        names = {k: k for k in found if k not in description.labels and k not in mask_format.void}
        return _Classes(names, note=f"classes: {first_few(list(names))}, the labels in the masks")
    if description.labels:
        return _Classes()  # `labels` gives all classes
    if mask_format.kind == "colours":
        if len(keys_present) > MAX_UNDECLARED:
            raise ConfigError(
                f"the masks have {len(keys_present)} colours, more than {MAX_UNDECLARED}: which of them are classes?\n"
                "  → in dataset.yaml, classes: a CSV of index,name,red,green,blue"
            )
        colours = dict(sorted(((k, rgb_of_key(k)) for k in keys_present), key=lambda item: item[1]))
        note = f"classes: the {len(colours)} colours that occur in the masks"
        return _Classes({k: k for k in colours}, colours=colours, note=note)
    keys = sorted((k for k in keys_present if k != str(IGNORE)), key=int)
    if len(keys) > MAX_UNDECLARED or (keys and not 0 <= int(keys[0]) <= int(keys[-1]) <= IGNORE):
        raise ConfigError(
            f"the masks have {len(keys)} values, from {keys[0]} to {keys[-1]}: which of them are classes?\n"
            f"  (more than {MAX_UNDECLARED} values, or values outside 0…{IGNORE}, are not taken for classes)\n"
            f"  → in dataset.yaml, classes: {{{keys[0]}: NAME, {keys[-1]}: NAME, …}}, or labels: {{VALUE: CLASS}}"
        )
    names = {k: f"class {k}" for k in keys}
    return _Classes(names, names, note=f"classes: the values {first_few(keys)} that occur in the masks")

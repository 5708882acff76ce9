"""What the values in the user's masks mean. What can be read in two ways is an error that asks."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from segstudy import formatting
from segstudy.data.folder.classes import LabelMap, make_label_map, read_classes, rgb_of_key
from segstudy.data.folder.counts import Counted, MaskCounts
from segstudy.data.folder.description import Description, yaml_line
from segstudy.data.folder.lost import lost_labels, lost_objects
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.palettes import Palettes, grey_key
from segstudy.data.folder.pictures import with_values
from segstudy.data.folder.scan import Problem, problem
from segstudy.errors import DataError, did_you_mean, first_few
from segstudy.labels import IGNORE

VOID = str(IGNORE)

MAX_VOID = 0.2
"""If 255 covers a larger share of all pixels, dataset.yaml must say what it means."""

MAX_VOID_GAP = 8
"""If the median distance of the other values is larger, 255 may be a class like them, as in 0, 128, 255."""

SCATTERED = 0.02
"""A value is noise if a smaller share of its pixels lies inside an area (has four neighbours of the same value)."""

MIN_SCATTERED = 4
"""Fewer scattered values are not called noise: thin classes exist."""


class Meaning255Error(DataError):
    """255 may be an object or void. labels: the `labels` of dataset.yaml if it is an object."""

    def __init__(self, message: str, labels: dict[int, str]):
        self.labels = labels
        ignored, wanted = yaml_line("ignore", [IGNORE]), yaml_line("labels", labels)
        super().__init__(
            f"is 255 an object or void? {message}\n  → in dataset.yaml, if it is an object: {wanted}\n"
            f"    if it is to be ignored: {ignored}"
        )


@dataclass(frozen=True)
class Interpretation:
    """The masks as they are read. counted: with the keys of this format. notes: what was guessed, and what is ignored.

    reinterpreted: whether the palettes have changed the format.
    """

    format: MaskFormat
    counted: Counted
    label_map: LabelMap
    problems: list[Problem]
    notes: list[str]
    reinterpreted: bool

    def occurs(self, key: str) -> bool:
        """Whether a mask has this key."""
        return any(key in counts.pixels for counts in self.counted.values())


def interpret_masks(counted: Counted, mask_format: MaskFormat, description: Description) -> Interpretation:
    """The meaning of the masks.

    Raises DataError that asks if several are possible, and ConfigError as `make_label_map`.
    """
    detected = mask_format.kind
    mask_format, counted, notes = _resolve_palettes(counted, mask_format, description)
    if not mask_format.annotated and not _declares_classes(description):
        _refuse_noise(counted)
    if mask_format.name == "numbers":
        _require_meaning_of_255(counted, description)
    label_map = make_label_map(description, mask_format, [*_keys_of(counted.values()), *lost_labels(counted)])
    problems = [*unknown_keys(counted, label_map, mask_format), *lost_objects(counted, label_map)]
    void = [name for name, c in counted.items() if c.pixels and set(map(label_map.table.get, c.pixels)) == {IGNORE}]
    problems += problem("masks in which every pixel is ignored", void, "warning", "they train and test nothing")
    problems += _doubtful_classes(counted, label_map)
    notes += [*label_map.notes, *_ignored(counted, label_map)]
    return Interpretation(mask_format, counted, label_map, problems, notes, mask_format.kind != detected)


def _doubtful_classes(counted: Counted, label_map: LabelMap) -> list[Problem]:
    """Masks that all have the same single class, and classes that are probably one."""
    present = {label_map.table.get(key, IGNORE) for key in _keys_of(counted.values())} - {IGNORE}
    alike: dict[str, list[str]] = defaultdict(list)
    for name in label_map.classes:
        alike[name.casefold()].append(name)
    same = [", ".join(names) for names in alike.values() if len(names) > 1]
    return [
        *problem(
            "the only class that occurs: there is nothing to learn",
            [label_map.classes[c] for c in present if len(present) == 1],
        ),
        *problem("classes that differ only in upper and lower case", same, "warning", "one class: labels: {Car: car}"),
    ]


def _declares_classes(description: Description) -> bool:
    return bool(description.classes or description.labels)


def _keys_of(counted: Iterable[MaskCounts]) -> list[str]:
    return list(dict.fromkeys(key for counts in counted for key in counts.pixels))


def _share(pixels: Counter[str], key: str) -> float:
    """The share of a key in the pixels of all masks."""
    return pixels[key] / max(1, pixels.total())


def _ignored(counted: Counted, label_map: LabelMap) -> list[str]:
    """A note for each key that becomes 255: how often it occurs."""
    notes, (pixels, _) = [], _totals(counted.values())
    for key in pixels:
        if label_map.table.get(key) == IGNORE:
            name = label_map.names.get(key, "")
            masks = sum(key in c.pixels for c in counted.values())
            notes.append(
                f"ignored: {f'{name} ({key})' if name not in ('', key) else key}, "
                f"in {masks} of {len(counted)} masks, on {_share(pixels, key):.2%} of the pixels"
            )
    return notes


def unknown_keys(counted: Counted, label_map: LabelMap, mask_format: MaskFormat) -> list[Problem]:
    """The keys that are not classes, with the masks that have them."""
    masks: dict[str, list[str]] = defaultdict(list)
    for name, counts in counted.items():
        for key in counts.pixels.keys() - label_map.table.keys():
            masks[key].append(name)
    known = list(label_map.table)
    what = "colours" if mask_format.name == "colours" else "labels"
    items = []
    keys = sorted(masks, key=lambda key: (int(key) if key.isdigit() else 0, key))
    for key in keys:
        hint = "" if what == "colours" or key.isdigit() else did_you_mean(key, known)
        items.append(f"{key}: in {formatting.counted(len(masks[key]), 'mask')}, e.g. {masks[key][0]}{hint}")
    first = keys[0] if keys else ""
    shown = f'"{first}"' if "," in first else first
    advice = f"add them to classes, or map them: labels: {{{shown}: CLASS}}\nknown: {first_few(known, 12)}"
    scattered = [] if mask_format.annotated else scattered_keys(counted, keys)
    if len(scattered) >= MIN_SCATTERED and 2 * len(scattered) > len(keys):
        advice = f"{len(scattered)} of them are only scattered pixels: are they {NOISE}?\n{NOISE_ADVICE}"
    return problem(f"{what} that are not classes", items, "error", advice)


# Noise

NOISE = "traces of JPEG or of resizing with interpolation"

NOISE_ADVICE = "export the masks again as PNG, and resize them only with nearest neighbour"


def scattered_keys(counted: Counted, keys: Sequence[str]) -> list[str]:
    """The keys whose pixels are hardly ever inside an area."""
    pixels, inner = _totals(counted.values())
    return [key for key in keys if inner[key] < SCATTERED * pixels[key]]


def _totals(counted: Iterable[MaskCounts]) -> tuple[Counter[str], Counter[str]]:
    pixels: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    for counts in counted:
        pixels.update(counts.pixels)
        inner.update(counts.inner)
    return pixels, inner


def _refuse_noise(counted: Counted) -> None:
    """Raise DataError if most of the values or colours are only scattered pixels."""
    keys = _keys_of(counted.values())
    scattered = scattered_keys(counted, keys)
    if len(scattered) < MIN_SCATTERED or 2 * len(scattered) <= len(keys):
        return
    inner = _totals(counted.values())[1]
    levels = [key for key, number in inner.most_common(8) if number > 0.001 * inner.total() and key not in scattered]
    raise DataError(
        f"{len(scattered)} of {len(keys)} values in the masks are only scattered pixels ({first_few(scattered)}): "
        f"are they {NOISE}?\n  areas have {' | '.join(levels) or 'none of the values'}\n"
        f"  → {NOISE_ADVICE}; if they are classes after all, name them in dataset.yaml: classes: …"
    )


# 255


def _require_meaning_of_255(counted: Counted, description: Description) -> None:
    """Raise Meaning255Error if 255 may be a class. Undeclared, it is void only where it looks like VOC's."""
    declared = {*map(str, (*description.ignore, *description.labels)), *(read_classes(description) or ({}, {}))[0]}
    masks = [set(c.pixels) for c in counted.values() if c.pixels]
    number, share = sum(VOID in keys for keys in masks), _share(_totals(counted.values())[0], VOID)
    if number and VOID not in declared and (doubt := _doubt_about_void(masks, share, bool(declared))):
        raise Meaning255Error(
            f"{len(masks)} masks, {number} with 255, on {share:.2%} of the pixels: {doubt}",
            _labels_with_object(counted, description),
        )


def _doubt_about_void(masks: Sequence[set[str]], share: float, declared: bool) -> str:
    """Why 255 may be a class; "" if it looks like void. masks: the keys in each."""
    others = sorted(int(key) for key in set().union(*masks) - {VOID})
    if len(others) < 2:
        return f"the only other value is {others[0]}" if others else "there is no other value"
    with_class = [keys for keys in masks if keys - {"0", VOID}]
    beside = sum(VOID in keys for keys in with_class)
    only = sum(keys == {"0", VOID} for keys in masks)
    if only and (2 * beside < len(with_class) or 2 * only > len(masks)):
        return f"{only} of them have only 0 and 255; of the {len(with_class)} with other values, {beside} have 255, too"
    if share > MAX_VOID:
        return f"void rarely covers more than {MAX_VOID:.0%}"
    if not declared and median(b - a for a, b in pairwise(others)) > MAX_VOID_GAP:
        return f"the other values are spread, too: {first_few(others)}"
    return ""


def _labels_with_object(counted: Counted, description: Description) -> dict[int, str]:
    """The `labels` of dataset.yaml that make 255 a class."""
    if description.classes:
        return {IGNORE: "CLASS"}
    values = sorted({int(key) for key in _keys_of(counted.values())} - {IGNORE})
    names = {v: "object" if values == [0, 1] else f"class {v}" for v in values} | {IGNORE: "object"}
    return names | ({0: "background"} if 0 in names else {})


# Palettes


def _resolve_palettes(
    counted: Counted, mask_format: MaskFormat, description: Description
) -> tuple[MaskFormat, Counted, list[str]]:
    """(format, counts by its keys, notes): whether the indices of indexed pictures or their colours are classes.

    Raises DataError that asks if both are possible.
    """
    if mask_format.name == "colours" and not (description.mask_values or _declares_classes(description)):
        _refuse_grey_among_colours(counted)
    indexed = [c for c in counted.values() if c.colours]
    if mask_format.kind != "numbers" or not indexed:
        return mask_format, counted, []
    palettes = Palettes.of((c.colours, c.pixels) for c in counted.values())
    declared = _declared_keys(description)
    kind = description.mask_values or palettes.kind(*declared)
    if not kind:
        raise DataError(
            f"are the classes in indexed masks the indices or the colours? {palettes.doubt(*declared)}\n"
            "  → in dataset.yaml, if the indices are: mask_values: numbers\n"
            "    if the colours are: mask_values: colours, and palette: [[red, green, blue], …], a colour of each class"
            + ("\n    if their grey values are: mask_values: grey" if palettes.are_grey() else "")
        )
    if kind == "numbers":
        colours = {key: rgb_of_key(max(found)) for key, found in palettes.colours.items()}
        return replace(mask_format, palette=colours), counted, []
    what = "by colour" if kind == "colours" else "by grey value"
    note = f"{len(indexed)} indexed masks are read {what}, not by index: {palettes.doubt(*declared)}"
    return with_values(mask_format, kind), {name: _recounted(c, kind) for name, c in counted.items()}, [note]


def _declared_keys(description: Description) -> tuple[dict[str, str], dict[str, str]]:
    """({number: class}, {colour: class}) of dataset.yaml."""
    given, colours = read_classes(description) or ({}, {})
    if description.palette is not None and len(description.palette) == len(given):
        colours = {name: (r, g, b) for name, (r, g, b) in zip(given.values(), description.palette, strict=True)}
    numbers, class_of = dict(given), {",".join(map(str, rgb)): name for name, rgb in colours.items()}
    for key, name in description.labels.items():
        (class_of if "," in str(key) else numbers)[str(key)] = str(name)
    return numbers, class_of


def _recounted(counts: MaskCounts, kind: str) -> MaskCounts:
    """The counts of a mask read as numbers, with the keys that it has when read by colour or grey value."""

    def rename(numbers: Mapping[str, int]) -> dict[str, int]:
        renamed: Counter[str] = Counter()
        for key, number in numbers.items():
            colour = counts.colours.get(key, grey_key(key))
            renamed[colour if kind == "colours" else colour.split(",")[0]] += number
        return dict(renamed)

    return replace(counts, pixels=rename(counts.pixels), inner=rename(counts.inner), colours={})


def _refuse_grey_among_colours(counted: Counted) -> None:
    """Raise DataError if pictures without colours hold values that are no colour of the other masks."""
    grey = {name: c for name, c in counted.items() if c.mode in ("L", "LA", "1") or c.mode.startswith("I")}
    colours = set(_keys_of(c for name, c in counted.items() if name not in grey))
    other = {name: found for name, c in grey.items() if (found := sorted(c.pixels.keys() - colours))}
    if other:
        name, values = next(iter(other.items()))
        raise DataError(
            f"{len(other)} of {len(counted)} masks are grey pictures, with values that are no colour of the "
            f"other masks, e.g. {name}: {first_few([value.split(',')[0] for value in values])}\n"
            "  → save all masks alike; if the values are colours like the others, in dataset.yaml: mask_values: colours"
        )

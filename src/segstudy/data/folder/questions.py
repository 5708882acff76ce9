"""Questions about the values in masks: are they noise, numbers of single objects, and is 255 void?"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from scipy import ndimage

from segstudy.data.folder.classes import MAX_UNDECLARED
from segstudy.data.folder.counts import Counted, keys_of, share_of
from segstudy.data.folder.description import Description
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.problems import Problem, Question, problem, yaml_line
from segstudy.data.images import Sample
from segstudy.errors import first_few
from segstudy.formatting import counted as number_of
from segstudy.labels import IGNORE

SCATTERED = 0.02  # of its pixels have four neighbours of the same value: with fewer, a value is scattered in a mask
MIN_SCATTERED = 4  # fewer scattered values are not called noise: thin classes exist
NOISE = "traces of JPEG or of resizing with interpolation"
NOISE_ADVICE = "export the masks again as PNG, and resize them only with nearest neighbour"
MIN_OBJECTS = 4  # in masks with fewer objects, numbers of objects cannot be told from classes
SINGLE = 0.9  # values number objects only if at least this share of them is one connected area in a mask
MAX_READ = 20  # so many masks are searched for connected areas
VOID = str(IGNORE)
MIN_MASKS = 4  # in no more masks, a value of one mask alone is no surprise
THIN = 0.7  # likewise for values that are thin, as the borders of VOC
MAX_VOID = 0.2  # if 255 covers a larger share of all pixels, dataset.yaml must say what it means
MAX_VOID_GAP = 8  # if the other values are further apart, 255 may be a class like them, as in 0, 128, 255


def noise_among(counted: Counted, keys: Collection[str]) -> list[str]:
    """The keys that are only scattered pixels in a mask, if the keys are so in most masks that have them; else []."""
    each = [(key, number, c.inner.get(key, 0)) for c in counted.values() for key, number in c.pixels.items()]
    found = [(key, inner < SCATTERED * number) for key, number, inner in each if key in keys]
    scattered = list(dict.fromkeys(key for key, is_scattered in found if is_scattered))
    is_noise = len(scattered) >= MIN_SCATTERED and 2 * sum(is_scattered for _, is_scattered in found) > len(found)
    return scattered if is_noise else []


def find_noise(counted: Counted, description: Description) -> list[Problem]:
    """A warning if the masks are noisy. Raises Question if dataset.yaml names no classes: thin lines look the same."""
    keys = keys_of(counted.values())
    if not (noise := noise_among(counted, keys)):
        return []
    if description.declares_classes:
        title = "values that are only scattered pixels in most masks"
        return problem(title, noise, "warning", f"are they {NOISE}, not thin lines?\n{NOISE_ADVICE}")
    inner = sum((Counter(c.inner) for c in counted.values()), Counter[str]())
    levels = [key for key, number in inner.most_common(8) if number > 0.001 * inner.total()]
    raise Question(
        f"most of the {len(keys)} values are only scattered pixels in most masks ({first_few(noise)}): "
        f"are they {NOISE}?\n  areas have {' | '.join(levels) or 'none of the values'}\n"
        f"  → {NOISE_ADVICE}\n    if they are classes, such as thin lines, in dataset.yaml: {_names(counted)}"
    )


def _names(counted: Counted) -> str:
    """The line of dataset.yaml that makes the values classes."""
    keys = keys_of(counted.values())
    if all(map(str.isdecimal, keys)):
        return _line("classes", dict.fromkeys(sorted(map(int, keys)), "NAME"))
    return _line("labels", dict.fromkeys(keys, "NAME"))


def _line(key: str, values: dict[Any, str]) -> str:
    return yaml_line(key, values) if len(values) <= MAX_UNDECLARED else f"{key}: {{VALUE: NAME, …}}"


def refuse_object_numbers(samples: Sequence[Sample], counted: Counted, mask_format: MaskFormat) -> None:
    """Raise Question if the values number the objects in each mask: each of them is one connected area.

    They count up from 1 in every mask, up to different numbers; or no value of a mask is used in another one.
    """
    masks_with = Counter(key for counts in counted.values() for key in counts.pixels)
    background = max(masks_with, key=lambda key: (masks_with[key], key == "0"), default="")
    objects = {name: counts.pixels.keys() - {background, VOID} for name, counts in counted.items()}
    sizes = {len(keys) for keys in objects.values() if keys}
    count_up = len(sizes) > 2 and all(keys == {str(i + 1) for i in range(len(keys))} for keys in objects.values())
    every = sorted(set().union(*objects.values()), key=lambda key: (len(key), key))
    used_once = sum(map(bool, objects.values())) > 2 and all(masks_with[key] == 1 for key in every)
    if max(sizes, default=0) < (MIN_OBJECTS if count_up else 2) or not (count_up or used_once):
        return
    areas = [
        ndimage.label(mask.indices[box] == index, np.ones((3, 3)))[1]
        for mask, keys in ((mask_format.read(s), objects[s.name]) for s in samples[:MAX_READ] if objects.get(s.name))
        for index, box in enumerate(ndimage.find_objects(mask.indices.astype(np.int32) + 1))
        if mask.keys[index] in keys
    ]
    if areas.count(1) < SINGLE * len(areas):
        return
    names = {background: "background"} | dict.fromkeys(every, "object")
    labels = {int(key) if key.isdecimal() else key: name for key, name in names.items()}
    how = f"count up from 1 in every mask, up to {max(sizes)}" if count_up else "are used in one mask each"
    raise Question(
        f"do the values in the masks number single objects? They {how}, and each is one connected area\n"
        f"  → in dataset.yaml, if the objects are of one class: {_line('labels', labels)}\n"
        "    if they are of several classes: export masks of classes instead\n"
        f"    if the values are classes: {_names(counted)}",
        {"labels": labels} if len(labels) <= MAX_UNDECLARED else {},
    )


def require_meaning_of_255(counted: Counted, description: Description) -> None:
    """Raise Question if 255 may be a class. Undeclared, it is void only where it looks like VOC's."""
    declared = {*map(str, description.ignore), *description.declared_keys()[0]}
    masks = [set(c.pixels) for c in counted.values() if c.pixels]
    number, share = sum(VOID in keys for keys in masks), share_of(VOID, counted)
    if number and VOID not in declared and (doubt := _doubt(masks, share, bool(declared))):
        labels = _labels_with_object(counted, description)
        found = f"{number_of(len(masks), 'mask')}, {number} with 255, on {share:.2%} of the pixels"
        raise Question(
            f"is 255 an object or void? {found}: {doubt}\n"
            f"  → in dataset.yaml, if it is an object: {yaml_line('labels', labels)}\n"
            f"    if it is to be ignored: {yaml_line('ignore', [IGNORE])}",
            {"labels": labels},
        )


def require_meaning_of_lonely_values(counted: Counted, mask_format: MaskFormat, description: Description) -> None:
    """Raise Question if a value may be void under another number than 255, or a slip: scattered pixels in one mask."""
    masks_with = {key: [n for n, c in counted.items() if key in c.pixels] for key in keys_of(counted.values())}
    numbers = sorted(int(key) for key in masks_with.keys() - {VOID}) if mask_format.numbered else []
    gaps = [b - a for a, b in pairwise(numbers)]
    far = str(numbers[-1]) if len(gaps) > 1 and gaps[-1] > MAX_VOID_GAP >= median(gaps[:-1]) else ""
    for key, names in masks_with.items():
        inner = sum(counted[n].inner.get(key, 0) for n in names) / sum(counted[n].pixels[key] for n in names)
        is_slip = len(names) == 1 < len(counted) / MIN_MASKS and inner < SCATTERED
        slip = "scattered pixels of one mask, as a slip" * is_slip
        void = "thin and far from the other values, as void" * (key == far and inner < THIN)
        if (void or slip) and share_of(key, counted) <= MAX_VOID and key not in (VOID, *map(str, description.ignore)):
            ignore = [*description.ignore, int(key) if key.isdecimal() else key]
            raise Question(
                f"is {key} a class, or to be ignored? It is {void or slip}: in {number_of(len(names), 'mask')}, "
                f"e.g. {names[0]}, on {share_of(key, counted):.4%} of all pixels\n"
                f"  → in dataset.yaml, if it is to be ignored: {yaml_line('ignore', ignore)}\n"
                f"    if it is a class: {_names(counted)}",
                {"ignore": ignore},
            )


def _doubt(masks: Sequence[set[str]], share: float, declared: bool) -> str:
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
    values = sorted({int(key) for key in keys_of(counted.values())} - {IGNORE})
    names = {v: "object" if values == [0, 1] else f"class {v}" for v in values} | {IGNORE: "object"}
    return names | ({0: "background"} if 0 in names else {})

"""Whether 255 in the masks of a folder is an object or void."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from segstudy.data.folder.counts import Counted, keys_of, share_of
from segstudy.data.folder.description import Description, yaml_line
from segstudy.data.folder.problems import Question
from segstudy.errors import first_few
from segstudy.labels import IGNORE

VOID = str(IGNORE)

MAX_VOID = 0.2
"""If 255 covers a larger share of all pixels, dataset.yaml must say what it means."""

MAX_VOID_GAP = 8
"""If the median distance of the other values is larger, 255 may be a class like them, as in 0, 128, 255."""


def require_meaning_of_255(counted: Counted, description: Description) -> None:
    """Raise Question if 255 may be a class. Undeclared, it is void only where it looks like VOC's."""
    declared = {*map(str, description.ignore), *description.declared_keys()[0]}
    masks = [set(c.pixels) for c in counted.values() if c.pixels]
    number, share = sum(VOID in keys for keys in masks), share_of(VOID, counted)
    if number and VOID not in declared and (doubt := _doubt(masks, share, bool(declared))):
        labels = _labels_with_object(counted, description)
        raise Question(
            f"is 255 an object or void? {len(masks)} masks, {number} with 255, on {share:.2%} of the pixels: {doubt}\n"
            f"  → in dataset.yaml, if it is an object: {yaml_line('labels', labels)}\n"
            f"    if it is to be ignored: {yaml_line('ignore', [IGNORE])}",
            {"labels": labels},
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

"""Values in masks that are no classes: traces of JPEG or interpolation, and numbers of single objects."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from scipy import ndimage

from segstudy.data.folder.classes import MAX_UNDECLARED
from segstudy.data.folder.counts import Counted, keys_of
from segstudy.data.folder.description import Description, yaml_line
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.problems import Problem, Question, problem
from segstudy.data.images import Sample
from segstudy.errors import first_few
from segstudy.labels import IGNORE

SCATTERED = 0.02
"""A value is scattered in a mask if a smaller share of its pixels has four neighbours of the same value."""

MIN_SCATTERED = 4
"""Fewer scattered values are not called noise: thin classes exist."""

NOISE = "traces of JPEG or of resizing with interpolation"

NOISE_ADVICE = "export the masks again as PNG, and resize them only with nearest neighbour"

MIN_OBJECTS = 4
"""In masks with fewer objects, numbers of objects cannot be told from classes."""

SINGLE = 0.9
"""Values number objects only if at least this share of them is one connected area in a mask."""

MAX_READ = 20
"""So many masks are searched for connected areas."""

SHOWN = 8
"""Values in a line of dataset.yaml that is proposed in a message."""


def noise_among(counted: Counted, keys: Collection[str]) -> list[str]:
    """The keys that are only scattered pixels in a mask, if the keys are so in most masks that have them; else []."""
    found = [
        (key, counts.inner.get(key, 0) < SCATTERED * pixels)
        for counts in counted.values()
        for key, pixels in counts.pixels.items()
        if key in keys
    ]
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
        f"{len(noise)} of {len(keys)} values in the masks are only scattered pixels ({first_few(noise)}): "
        f"are they {NOISE}?\n  areas have {' | '.join(levels) or 'none of the values'}\n"
        f"  → {NOISE_ADVICE}\n    if they are classes, such as thin lines, in dataset.yaml: {_names(counted)}"
    )


def _names(counted: Counted) -> str:
    """The line of dataset.yaml that makes the values classes."""
    keys = keys_of(counted.values())
    if all(map(str.isdecimal, keys)):
        return _shortened("classes", dict.fromkeys(sorted(map(int, keys)), "NAME"))
    return _shortened("labels", dict.fromkeys(keys, "NAME"))


def _shortened(key: str, values: Mapping[int | str, str]) -> str:
    """A line of dataset.yaml, of which the middle is left out if it is long."""
    line = yaml_line(key, dict(list(values.items())[:SHOWN]))
    return line if len(values) <= SHOWN else f"{line[:-1]}, …}}"


def refuse_object_numbers(samples: Sequence[Sample], counted: Counted, mask_format: MaskFormat) -> None:
    """Raise Question if the values number the objects in each mask: each of them is one connected area.

    They count up from 1 in every mask, up to different numbers; or no value of a mask is used in another one.
    """
    masks_with = Counter(key for counts in counted.values() for key in counts.pixels)
    background = max(masks_with, key=lambda key: (masks_with[key], key == "0"), default="")
    objects = {name: counts.pixels.keys() - {background, str(IGNORE)} for name, counts in counted.items()}
    sizes = {len(keys) for keys in objects.values() if keys}
    count_up = len(sizes) > 2 and all(keys == {str(i + 1) for i in range(len(keys))} for keys in objects.values())
    used_once = sum(map(bool, objects.values())) > 2 and all(
        masks_with[key] == 1 for key in set().union(*objects.values())
    )
    if max(sizes, default=0) < (MIN_OBJECTS if count_up else 2) or not (count_up or used_once):
        return
    areas = [
        ndimage.label(mask.indices == index, np.ones((3, 3)))[1]
        for mask, keys in ((mask_format.read(s), objects[s.name]) for s in samples[:MAX_READ] if objects.get(s.name))
        for index, key in enumerate(mask.keys)
        if key in keys
    ]
    if areas.count(1) < SINGLE * len(areas):
        return
    every = sorted(set().union(*objects.values()), key=lambda key: (len(key), key))
    names = {background: "background"} | dict.fromkeys(every, "object")
    labels = {int(key) if key.isdecimal() else key: name for key, name in names.items()}
    how = f"count up from 1 to {min(sizes)} … {max(sizes)}" if count_up else "are used in one mask each"
    raise Question(
        f"do the values in the masks number single objects? They {how}, and each is one connected area\n"
        f"  → in dataset.yaml, if the objects are of one class: {_shortened('labels', labels)}\n"
        "    if they are of several classes: export masks of classes instead\n"
        f"    if the values are classes: {_names(counted)}",
        {"labels": labels} if len(labels) <= MAX_UNDECLARED else {},
    )

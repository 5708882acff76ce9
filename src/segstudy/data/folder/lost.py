"""Annotated objects that leave no pixel in their mask: none is dropped without being told."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from segstudy.data.folder.classes import LabelMap
from segstudy.data.folder.counts import Counted
from segstudy.data.folder.description import yaml_line
from segstudy.data.folder.mask_format import BACKGROUND
from segstudy.data.folder.problems import Problem, problem
from segstudy.data.folder.shapes import NO_OUTLINE, NO_PIXEL, NO_WIDTH
from segstudy.formatting import counted
from segstudy.labels import IGNORE

LINE_WIDTH = 3
"""The width of lines that is proposed, in pixels."""


def lost_labels(masks: Counted) -> Iterable[str]:
    """The labels of objects that leave no pixel: they are classes, too."""
    return sorted({label for counts in masks.values() for labels in counts.lost.values() for label in labels})


def lost_objects(masks: Counted, label_map: LabelMap) -> list[Problem]:
    """The objects that leave no pixel, by reason and label; errors if lines have no width, or if no object has a pixel.

    Lines without a width may have a label that is ignored.
    """
    objects: dict[str, Counter[str]] = defaultdict(Counter)
    images: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, counts in masks.items():
        for reason, labels in counts.lost.items():
            for label, number in labels.items():
                if reason != NO_WIDTH or label_map.table.get(label) != IGNORE:
                    objects[reason][label] += number
                    images[reason, label].append(name)
    has_pixels = any(counts.pixels.keys() - {BACKGROUND} for counts in masks.values())
    advice = {
        NO_WIDTH: f"in dataset.yaml, a width in pixels: {yaml_line('line_width', LINE_WIDTH)}; or, to leave them out: "
        + yaml_line("ignore", list(objects[NO_WIDTH])),
        NO_OUTLINE: "they are left out: draw or export their outlines",
        NO_PIXEL: "they are too thin, outside the image, or wholly under other objects",
    }
    problems = []
    for reason, text in advice.items():
        items = [
            f"{label}: {number} in {counted(len(images[reason, label]), 'image')}, e.g. {images[reason, label][0]}"
            for label, number in sorted(objects[reason].items())
        ]
        problems += problem(reason, items, "error" if reason == NO_WIDTH or not has_pixels else "warning", text)
    return problems

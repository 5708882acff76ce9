"""What the values in the user's masks mean. What can be read in two ways is an error that asks."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segstudy.data.folder import questions
from segstudy.data.folder.classes import LabelMap, make_label_map
from segstudy.data.folder.counts import Counted, keys_of, share_of
from segstudy.data.folder.description import Description
from segstudy.data.folder.mask_format import BACKGROUND, MaskFormat
from segstudy.data.folder.palettes import resolve_palettes
from segstudy.data.folder.problems import Problem, problem, yaml_line
from segstudy.data.folder.shapes import NO_OUTLINE, NO_PIXEL, NO_WIDTH
from segstudy.data.images import Sample
from segstudy.errors import did_you_mean, first_few
from segstudy.formatting import counted as number_of
from segstudy.labels import IGNORE

IGNORED_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
"""Classes with these names are probably to be ignored."""

LINE_WIDTH = 3  # the width of lines that is proposed, in pixels


@dataclass(frozen=True)
class Interpretation:
    """The masks as they are read. counted: by the keys of this format. notes: what was guessed, and what is ignored."""

    format: MaskFormat
    counted: Counted
    label_map: LabelMap
    problems: list[Problem]
    notes: list[str]

    def pixels(self, samples: Sequence[Sample]) -> np.ndarray:
        """Pixels of each class in the mask of each sample, int64 (N,C)."""
        pixels = np.zeros((len(samples), IGNORE + 1), np.int64)
        for row, sample in zip(pixels, samples, strict=True):
            for key, number in self.counted[sample.name].pixels.items():
                row[self.label_map.table.get(key, IGNORE)] += number
        return pixels[:, : len(self.label_map.classes)]

    def single_class(self) -> list[Problem]:
        """A problem if no more than one class occurs. Such masks can be looked at."""
        present = {self.label_map.table.get(key, IGNORE) for key in keys_of(self.counted.values())} - {IGNORE}
        names = [self.label_map.classes[c] for c in present] or ["none: every pixel is ignored"]
        return problem("the only class that occurs: there is nothing to learn", names if len(present) < 2 else [])


def interpret_masks(
    samples: Sequence[Sample], counted: Counted, mask_format: MaskFormat, description: Description
) -> Interpretation:
    """The meaning of the masks. counted: counts of some or all of the samples.

    Raises Question if several meanings are possible, and ConfigError as `make_label_map`.
    """
    noise: list[Problem] = []
    mask_format, counted, notes = resolve_palettes(counted, mask_format, description)
    if not mask_format.annotated:
        noise = questions.find_noise(counted, description)
        if not description.declares_classes:
            questions.refuse_object_numbers(samples, counted, mask_format)
    if mask_format.numbered:
        questions.require_meaning_of_255(counted, description)
    if not (mask_format.annotated or description.declares_classes):
        questions.require_meaning_of_lonely_values(counted, mask_format, description)
    # objects that leave no pixel have classes, too
    lost = sorted({label for c in counted.values() for labels in c.lost.values() for label in labels})
    label_map = make_label_map(description, mask_format, [*keys_of(counted.values()), *lost])
    alike: dict[str, list[str]] = defaultdict(list)
    for name in label_map.classes:
        alike[name.casefold()].append(name)
    same = [names for names in alike.values() if len(names) > 1]
    one = yaml_line("labels", {name: names[-1] for names in same for name in names[:-1]})
    void = [name for name, c in counted.items() if c.pixels and set(map(label_map.table.get, c.pixels)) == {IGNORE}]
    problems = [
        *_unknown_keys(counted, label_map, mask_format),
        *noise,
        *_lost_objects(counted, label_map),
        *problem("masks in which every pixel is ignored", void, "warning", "they train and test nothing"),
        *problem(
            "classes that differ only in upper and lower case",
            [", ".join(names) for names in same],
            "warning",
            f"if they are one class, in dataset.yaml: {one}",
        ),
    ]
    notes += [*label_map.notes, *_ignored(counted, label_map)]
    if learned := [name for name in label_map.classes if name.lower() in IGNORED_NAMES]:
        line = yaml_line("ignore", [*description.ignore, *learned])
        notes.append(f"learned as a class: {first_few(learned)}; to ignore it, in dataset.yaml: {line}")
    return Interpretation(mask_format, counted, label_map, problems, notes)


def _ignored(counted: Counted, label_map: LabelMap) -> list[str]:
    """A note for each key that becomes 255: how often it occurs."""
    notes, total = [], number_of(len(counted), "mask")
    for key in (key for key in keys_of(counted.values()) if label_map.table.get(key) == IGNORE):
        name, masks = label_map.names.get(key, ""), sum(key in c.pixels for c in counted.values())
        shown = f"{name} ({key})" if name not in ("", key) else key
        notes.append(f"ignored: {shown}, in {masks} of {total}, on {share_of(key, counted):.2%} of the pixels")
    return notes


def _unknown_keys(counted: Counted, label_map: LabelMap, mask_format: MaskFormat) -> list[Problem]:
    """The keys that are not classes, with the masks that have them."""
    masks: dict[str, list[str]] = defaultdict(list)
    for name, counts in counted.items():
        for key in counts.pixels.keys() - label_map.table.keys():
            masks[key].append(name)
    known = list(label_map.table)
    what = "colours" if mask_format.kind == "colours" else "labels"
    items = []
    keys = sorted(masks, key=lambda key: (int(key) if key.isdigit() else 0, key))
    for key in keys:
        hint = "" if what == "colours" or key.isdigit() else did_you_mean(key, known)
        items.append(f"{key}: in {number_of(len(masks[key]), 'mask')}, e.g. {masks[key][0]}{hint}")
    first = keys[0] if keys else ""
    shown = f'"{first}"' if "," in first else first
    advice = f"add them to classes, or map them: labels: {{{shown}: CLASS}}\nknown: {first_few(known, 12)}"
    if not mask_format.annotated and (noise := questions.noise_among(counted, keys)):
        doubt = f"{len(noise)} of them are only scattered pixels: are they {questions.NOISE}?"
        advice = f"{doubt}\n{questions.NOISE_ADVICE}"
    return problem(f"{what} that are not classes", items, "error", advice)


def _lost_objects(masks: Counted, label_map: LabelMap) -> list[Problem]:
    """The objects that leave no pixel, by reason and label; errors if lines have no width, or if no object has a pixel.

    Lines without a width may have a label that is ignored.
    """
    objects: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for name, counts in masks.items():
        for reason, labels in counts.lost.items():
            for label, number in labels.items():
                if reason != NO_WIDTH or label_map.table.get(label) != IGNORE:
                    objects[reason][label][name] += number
    has_pixels = any(counts.pixels.keys() - {BACKGROUND} for counts in masks.values())
    advice = {
        NO_WIDTH: f"in dataset.yaml, a width in pixels: {yaml_line('line_width', LINE_WIDTH)}; or, to leave them out: "
        + yaml_line("ignore", list(objects[NO_WIDTH])),
        NO_OUTLINE: "they are left out: draw or export their outlines",
        NO_PIXEL: "they are too thin, outside the image, or wholly under other objects",
    }
    problems = []
    for reason, text in advice.items():
        found = sorted(objects[reason].items())
        items = [f"{label}: {n.total()} in {number_of(len(n), 'image')}, e.g. {next(iter(n))}" for label, n in found]
        problems += problem(reason, items, "error" if reason == NO_WIDTH or not has_pixels else "warning", text)
    return problems

"""Pictures for the report: the most influential images, the worst images, an object of each outcome, the gallery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from scipy import ndimage

from segstudy.build import build_data
from segstudy.config.run_folder import read_config
from segstudy.config.trust import restrict_paths
from segstudy.drawing import ERRORS, as_array, class_legend, colorize, image_grid
from segstudy.errors import SegstudyError
from segstudy.formatting import format_number
from segstudy.labels import IGNORE
from segstudy.measures.error_categories import CATEGORIES, error_categories
from segstudy.measures.objects import EIGHT_CONNECTED, OUTCOMES, SMALLEST, outcome_of
from segstudy.study.analysis.findings import Group
from segstudy.study.analysis.metrics import image_miou
from segstudy.study.report.text import shorten
from segstudy.study.results import TestResult

CATEGORY_COLORS = {
    "background": (250, 250, 250), "foreground": (205, 205, 205), "missed": ERRORS["missed"],
    "confused": (148, 103, 189), "foreign": ERRORS["mislabelled"], "overshoot": ERRORS["spilled"],
    "ghost": (178, 34, 34),
}  # fmt: skip
"""Colours of the error categories; grey pixels are right."""

CATEGORY_NAMES = {
    "missed": "missed", "confused": "mislabelled", "foreign": "mislabelled, hallucinated", "overshoot": "spilled",
    "ghost": "spilled, hallucinated",
}  # fmt: skip
"""Error categories in the words of the report's metrics."""

BLANK = np.uint8(255)

Picture = tuple[str, np.ndarray]

HALLUCINATED = "hallucinated: as a class that is not in the image"

MOST = 5
"""Largest number of variants in one picture; with more, each would be too small."""


@dataclass(frozen=True)
class Predictions:
    """The reported images uint8 (N,H,W,3), their truth (N,H,W), and the labels of each variant's first seed (N,H,W)."""

    photos: np.ndarray
    truth: np.ndarray
    labels: Mapping[str, np.ndarray]


def pictures(group: Group, seeds: Mapping[str, Sequence[TestResult]]) -> list[Picture]:
    """Captioned RGB pictures of a group: most influential images, worst images, an object of each outcome.

    They show the predictions of each variant's first seed. Empty if the runs saved no labels.
    """
    shown = {name: seeds[name][0] for name in variants_shown(group, list(seeds))}
    held = _predictions(shown)
    if held is None:
        return []
    names = next(iter(shown.values())).names
    found: list[Picture] = []
    if group.most_influential and len(held.labels) > 1:
        titles = {index: f"{name} ({share:+.1%})" for index, name, share in group.most_influential}
        a, b = (shorten(name, 34) for name in (group.clearest.a, group.clearest.b)) if group.clearest else ("", "")
        caption = f"in brackets: share of the influence on {b} − {a}, + in favour of {b}; {HALLUCINATED}"
        found.append((f"influential/{caption}", _error_sheet(titles, held, group)))
    scores = np.mean([image_miou(test) for test in shown.values()], 0)  # an image without counted pixels is NaN for all
    worst = np.argsort(np.where(np.isnan(scores), np.inf, scores))[:4]
    sheet = _error_sheet({i: f"{names[i]} (mIoU of this image {scores[i]:.3f})" for i in worst}, held, group)
    found.append(
        (f"worst/mIoU of one image: of the classes in its truth, mean over the variants; {HALLUCINATED}", sheet)
    )
    return found + _outcome_examples(held, group)


def variants_shown(group: Group, names: Sequence[str]) -> list[str]:
    """At most MOST variants: the two whose difference has the smallest p, and the first of the others."""
    clearest = group.clearest
    wanted = dict.fromkeys([*((clearest.a, clearest.b) if clearest else ()), *names])
    kept = list(wanted)[:MOST]
    return [name for name in names if name in kept]


def _predictions(tests: Mapping[str, TestResult]) -> Predictions | None:
    """The labels that the runs saved at their tests; the images are blank if the data set is not on this machine."""
    files = {name: test.folder / "test" / "labels.npz" for name, test in tests.items() if test.folder}
    labels, truth = {}, None
    for name, file in files.items():
        if file.is_file():
            with np.load(file) as kept:
                labels[name], truth = kept["labels"], kept["truth"] if truth is None else truth
    if truth is None:
        return None
    photos = _photos(tests[next(iter(labels))])
    return Predictions(np.broadcast_to(BLANK, (*truth.shape, 3)) if photos is None else photos, truth, labels)


def _photos(test: TestResult) -> np.ndarray | None:
    """The images uint8 (N,H,W,3) of the run's data set; None if it is not on this machine."""
    if test.folder is None:
        return None
    try:
        cfg = read_config(test.folder, ("data",))
        restrict_paths(cfg.data)
        images = build_data(cfg).roles["report"]
    except (SegstudyError, OSError):
        return None
    if [s.name for s in images.samples] != list(test.names):
        return None
    return np.asarray(images.cache.images[images.ids])


def _error_sheet(titles: Mapping[int, str], held: Predictions, group: Group) -> np.ndarray:
    """For each image, a row of image, truth and predictions, and below it a row with the error categories.

    titles: index of an image → its title.
    """
    rows, names = [], []
    blank = np.broadcast_to(BLANK, held.photos.shape[1:])
    for index, title in titles.items():
        truth, labels = held.truth[index], [of_variant[index] for of_variant in held.labels.values()]
        rows.append([held.photos[index], *(colorize(a, group.palette) for a in (truth, *labels))])
        rows.append([blank, blank, *(category_picture(truth, a, group.background) for a in labels)])
        names += [title, "errors"]
    legend = class_legend([a[list(titles)] for a in (held.truth, *held.labels.values())], group.classes, group.palette)
    errors = ("confused", "foreign") if group.background is None else CATEGORIES[2:]
    legend |= {CATEGORY_NAMES[name]: CATEGORY_COLORS[name] for name in errors}
    return as_array(image_grid(rows, ["image", "truth", *held.labels], legend, names))


def category_picture(truth: np.ndarray, labels: np.ndarray, background: int | None) -> np.ndarray:
    """The error categories of one image in colour, RGB uint8 (H,W,3); ignored pixels in the colour of void."""
    return colorize(error_categories(truth, labels, background), [CATEGORY_COLORS[name] for name in CATEGORIES])


def _outcome_examples(held: Predictions, group: Group) -> list[Picture]:
    """Image, truth and prediction for each outcome; shows its largest object in the first hundred images."""
    largest: dict[int, tuple[int, int, str]] = {}
    for name, labels in held.labels.items():
        for index, truth in enumerate(held.truth[:100]):
            for area, outcome in _outcomes(truth, labels[index], group.background):
                if area > largest.get(outcome, (0, 0, ""))[0]:
                    largest[outcome] = (area, index, name)
    rows, titles, used = [], [], []
    for outcome, (_, index, name) in sorted(largest.items()):
        pair = [held.truth[index], held.labels[name][index]]
        rows.append([held.photos[index], *(colorize(a, group.palette) for a in pair)])
        titles.append(f"{OUTCOMES[outcome]}: {shorten(name, 34)}")
        used += pair
    if not rows:
        return []
    legend = class_legend(used, group.classes, group.palette)
    sheet = image_grid(rows, ["image", "truth", "prediction"], legend, titles)
    return [("objects/an object of each outcome", as_array(sheet))]


def _outcomes(truth: np.ndarray, labels: np.ndarray, background: int | None) -> list[tuple[int, int]]:
    """(area, outcome) of each object of an image."""
    found = []
    counted = int((truth != IGNORE).sum())
    for c in np.unique(truth):
        if c in (IGNORE, background):
            continue
        numbers, _ = ndimage.label(truth == c, EIGHT_CONNECTED)
        for number, area in enumerate(np.bincount(numbers.ravel())[1:], 1):
            if area >= SMALLEST * counted:
                inside = labels[numbers == number]
                there = inside if background is None else inside[inside != background]
                votes = np.bincount(there, minlength=1)
                purity = votes.max() / max(1, len(there))
                found.append((int(area), outcome_of(len(there) / area, purity, int(votes.argmax()) == c)))
    return found


def gallery(seeds: Mapping[str, Sequence[TestResult]]) -> np.ndarray | None:
    """Image, truth and one column for each variant (its first seed), RGB uint8 (H,W,3).

    None if fewer than two variants saved samples. Variants with other sample images than the first are left out.
    """
    runs = {name: tests[0] for name, tests in seeds.items()}
    files = {name: test.folder / "test" / "samples.npz" for name, test in runs.items() if test.folder}
    held = {name: dict(np.load(file)) for name, file in files.items() if file.is_file()}
    if len(held) < 2:
        return None
    first_name, first = next(iter(held.items()))
    held = {n: h for n, h in held.items() if np.array_equal(h["truth"], first["truth"])}
    palette = [tuple(rgb) for rgb in runs[first_name].record["palette"]]
    labels = [first["truth"], *(h["prediction"] for h in held.values())]
    rows = [[image, *(colorize(a[i], palette) for a in labels)] for i, image in enumerate(first["image"])]
    miou = {name: format_number(runs[name].record["metrics"]["network"]["miou"]) for name in held}
    titles = ["image", "truth", *(f"{fill(name, 22)}\nmIoU, all classes: {miou[name]}" for name in held)]
    return as_array(image_grid(rows, titles, class_legend(labels, runs[first_name].classes, palette)))

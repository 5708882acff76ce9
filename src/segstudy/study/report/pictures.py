"""Pictures for the report: the same images through all variants, an example of each outcome, error categories."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from PIL import Image
from scipy import ndimage

from segstudy.build import build_data
from segstudy.config.run_folder import read_config
from segstudy.config.trust import restrict_paths
from segstudy.drawing import ERRORS, as_array, class_legend, colorize, image_grid
from segstudy.errors import SegstudyError
from segstudy.formatting import format_signed
from segstudy.labels import IGNORE
from segstudy.measures.error_categories import CATEGORIES, error_categories
from segstudy.measures.objects import EIGHT_CONNECTED, OUTCOMES, SMALLEST, outcome_of
from segstudy.runs.headline import same_size
from segstudy.study.analysis.findings import Group
from segstudy.study.analysis.metrics import image_miou
from segstudy.study.report.text import SPILLED, shorten
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

BLANK = np.uint8(210)
"""Grey of images that are not on this machine."""

MOST, SHOWN = 5, 6
"""Largest number of variants and of images in one picture; with more, each would be too small."""

WIDE_COLUMNS = 3
"""Images more than twice as wide as high stand in blocks of so many columns."""

SEARCHED = 100
"""Examples of outcomes come from the first hundred images."""

INFLUENTIAL = "The images with most influence on the differences between the variants."

GONE = "The data set is not on this machine, or has changed: the images are grey."

STORED = "The data set is not on this machine, or has changed: only images that the runs stored are shown."


class Example(NamedTuple):
    """The part of an image around an object, RGB uint8 (H,W,3), and what it shows."""

    picture: np.ndarray
    words: str


@dataclass(frozen=True)
class GroupPictures:
    """The pictures of a group, of each variant's first seed.

    rows: "image", "truth" and each variant → RGB uint8 (H,W,3) of each image. names: of these images.
    legend: class → colour. examples: variant → outcome → the largest object with it. sheets: caption → large picture.
    note: how the images were chosen, and what is missing.
    """

    rows: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    names: Sequence[str] = ()
    legend: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, Example]] = field(default_factory=dict)
    sheets: Mapping[str, np.ndarray] = field(default_factory=dict)
    note: str = ""

    @property
    def blocks(self) -> list[slice]:
        """The columns that stand side by side: all of them, or three at a time where the images are wide."""
        images = next(iter(self.rows.values()), ())
        if not len(images):
            return []
        height, width = images[0].shape[:2]
        side_by_side = WIDE_COLUMNS if width > 2 * height else len(images)
        return [slice(start, start + side_by_side) for start in range(0, len(images), side_by_side)]


@dataclass(frozen=True)
class Predictions:
    """The reported images uint8 (N,H,W,3), their truth (N,H,W), and the labels of each variant's first seed (N,H,W).

    stored: None, or the indices of the images that the runs saved, if the data set is not on this machine.
    """

    photos: np.ndarray
    truth: np.ndarray
    labels: Mapping[str, np.ndarray]
    stored: Sequence[int] | None = None


def pictures(group: Group, seeds: Mapping[str, Sequence[TestResult]]) -> GroupPictures:
    """The pictures of a group's predictions; none if the runs saved no labels, or labels of different sizes."""
    if not same_size(*(test.record for runs in seeds.values() for test in runs)):
        return GroupPictures(note="No pictures: the runs saw the images at different sizes.")
    shown = {name: seeds[name][0] for name in variants_shown(group, list(seeds))}
    held = _predictions(shown)
    if held is None:
        return GroupPictures(note="No pictures: the runs stored no predictions, or test/labels.npz is damaged.")
    first = next(iter(shown.values()))
    scores = np.mean([image_miou(test) for test in shown.values()], 0)  # an image without counted pixels is NaN for all
    worst = np.argsort(np.where(np.isnan(scores), np.inf, scores), kind="stable")
    # one variant: from the worst to the best
    spread = worst[np.linspace(0, max(0, np.isfinite(scores).sum() - 1), min(SHOWN, len(worst))).round().astype(int)]
    influential = [index for index, _, _ in group.most_influential] or list(dict.fromkeys(spread.tolist()))
    chosen = list((held.stored or influential)[:SHOWN])
    labels = {"truth": held.truth[chosen], **{name: of_variant[chosen] for name, of_variant in held.labels.items()}}
    rows = {name: [colorize(a, group.palette) for a in masks] for name, masks in labels.items()}
    shares = {index: f" ({format_signed(100 * share, 1)} %)" for index, _, share in group.most_influential}
    titles = {index: f"{first.names[index]}{shares.get(index, '')}" for index in chosen}
    lowest = {int(i): f"{first.names[i]} (mIoU of this image {scores[i]:.3f})" for i in worst[:4]}
    influence = "; in brackets: the image's share of the influence on a planned difference, + in favour of the variant"
    return GroupPictures(
        rows={"image": list(held.photos[chosen]), **rows},
        names=[first.names[index] for index in chosen],
        legend=class_legend(list(labels.values()), group.classes, group.palette),
        examples={name: _examples(name, held, group, first.names) for name in held.labels},
        sheets={
            f"The errors in these images{influence * bool(shares)}.": _error_sheet(titles, held, group),
            "The images with the lowest mIoU of the classes in their truth, mean over the variants.": _error_sheet(
                lowest, held, group
            ),
        },
        note=_note(held, shown, group),
    )


def _note(held: Predictions, shown: Collection[str], group: Group) -> str:
    """How the images were chosen, and what is missing, in sentences."""
    chosen = INFLUENTIAL if group.most_influential else "From the worst predicted image to the best."
    parts = [STORED] if held.stored else [chosen] if held.stored is None else [chosen, GONE]
    lacking = [name for name in shown if name not in held.labels]
    return " ".join(parts + ([f"No stored predictions: {', '.join(lacking)}."] if lacking else []))


def variants_shown(group: Group, names: Sequence[str]) -> list[str]:
    """At most MOST variants: the two of the first sentence, those with the highest mIoU, in the study's order."""
    main = group.main_difference
    best = sorted(group.variants, key=lambda v: -v.miou.value if v.miou.value == v.miou.value else 1)
    wanted = [*((main.a, main.b) if main else ()), *(v.name for v in best), *names]
    kept = list(dict.fromkeys(name for name in wanted if name in names))[:MOST]
    return [name for name in names if name in kept]


def _predictions(tests: Mapping[str, TestResult]) -> Predictions | None:
    """The labels that the runs saved at their tests, with the images; None if no run has them."""
    saved = {name: arrays for name, test in tests.items() if (arrays := _saved(test, "labels"))}
    if not saved:
        return None
    first = next(iter(saved))
    test, truth = tests[first], saved[first]["truth"]
    labels = {name: arrays["labels"] for name, arrays in saved.items()}
    photos = _photos(test, truth)
    if photos is not None:
        return Predictions(photos, truth, labels)
    photos = np.full((*truth.shape, 3), BLANK)
    samples = _samples(test)
    for index, photo in samples.items():
        photos[index] = photo
    return Predictions(photos, truth, labels, list(samples))


def _photos(test: TestResult, truth: np.ndarray) -> np.ndarray | None:
    """The images uint8 (N,H,W,3) of the run's data set; None if it is not on this machine, or has other masks."""
    if test.folder is None:
        return None
    try:
        cfg = read_config(test.folder, ("data",))
        restrict_paths(cfg.data)
        images = build_data(cfg).roles["report"]
    except (SegstudyError, OSError):
        return None
    same_names = [s.name for s in images.samples] == list(test.names)
    if not same_names or not np.array_equal(images.cache.masks[images.ids], truth):
        return None
    return np.asarray(images.cache.images[images.ids])


def _samples(test: TestResult) -> dict[int, np.ndarray]:
    """The images that the run saved at its test, by index."""
    saved = _saved(test, "samples")
    pairs = zip(saved["names"].tolist(), saved["image"], strict=True) if saved else ()
    return {test.names.index(name): image for name, image in pairs if name in test.names}


def _saved(test: TestResult, name: str) -> dict[str, np.ndarray]:
    """The arrays of a file of the run's test; {} if it is missing or damaged."""
    file = test.folder / "test" / f"{name}.npz" if test.folder else None
    if file is None or not file.is_file():
        return {}
    try:
        with np.load(file) as kept:
            return dict(kept)
    except (OSError, ValueError, EOFError, BadZipFile):
        return {}


def _error_sheet(titles: Mapping[int, str], held: Predictions, group: Group) -> np.ndarray:
    """For each image, a row of image, truth, and the error categories of each variant.

    titles: index of an image → its title.
    """
    rows = [
        [
            held.photos[index],
            colorize(held.truth[index], group.palette),
            *(category_picture(held.truth[index], labels[index], group.background) for labels in held.labels.values()),
        ]
        for index in titles
    ]
    legend = class_legend([held.truth[list(titles)]], group.classes, group.palette)
    errors = ("confused", "foreign") if group.background is None else CATEGORIES[2:]
    legend |= {CATEGORY_NAMES[name]: CATEGORY_COLORS[name] for name in errors}
    names = [shorten(name, 16) for name in held.labels]
    return as_array(image_grid(rows, ["image", "truth", *names], legend, list(titles.values())))


def category_picture(truth: np.ndarray, labels: np.ndarray, background: int | None) -> np.ndarray:
    """The error categories of one image in colour, RGB uint8 (H,W,3); ignored pixels in the colour of void."""
    return colorize(error_categories(truth, labels, background), [CATEGORY_COLORS[name] for name in CATEGORIES])


def _examples(name: str, held: Predictions, group: Group, names: Sequence[str]) -> dict[str, Example]:
    """For each outcome, the variant's largest object with it, and its largest spilled area."""
    largest: dict[str, tuple[int, int, tuple[slice, slice], str]] = {}
    for index, (truth, labels) in enumerate(zip(held.truth[:SEARCHED], held.labels[name], strict=False)):
        for kind, area, place, words in _areas(truth, labels, group):
            if area > largest.get(kind, (0,))[0]:
                largest[kind] = area, index, place, words
    found = {}
    for kind, (_, index, place, words) in largest.items():
        window = _window(place, held.truth.shape[1:])
        photo, truth, labels = (a[index][window] for a in (held.photos, held.truth, held.labels[name]))
        found[kind] = Example(_tinted(photo, truth, labels, group), f"{words}, in {names[index]}")
    return found


def _areas(truth: np.ndarray, labels: np.ndarray, group: Group) -> Iterator[tuple[str, int, tuple[slice, slice], str]]:
    """(outcome, area, box, words) of each object of an image and of each spilled area."""
    counted = int((truth != IGNORE).sum())
    for c in np.unique(truth):
        if c in (IGNORE, group.background):
            continue
        numbers, _ = ndimage.label(truth == c, EIGHT_CONNECTED)
        for number, place in enumerate(ndimage.find_objects(numbers), 1):
            inside = labels[place][numbers[place] == number]
            if len(inside) < SMALLEST * counted:
                continue
            there = inside if group.background is None else inside[inside != group.background]
            votes = np.bincount(there, minlength=1)
            purity = votes.max() / max(1, len(there))
            outcome = OUTCOMES[outcome_of(len(there) / len(inside), purity, int(votes.argmax()) == c)]
            yield outcome, len(inside), place, f"{group.classes[c]}, predicted as {_most(inside, group)}"
    if group.background is not None:
        numbers, _ = ndimage.label((truth == group.background) & (labels != group.background), EIGHT_CONNECTED)
        for number, place in enumerate(ndimage.find_objects(numbers), 1):
            inside = labels[place][numbers[place] == number]
            yield SPILLED, len(inside), place, f"background, predicted as {_most(inside, group)}"


def _most(labels: np.ndarray, group: Group) -> str:
    return group.classes[int(np.bincount(labels).argmax())]


def _window(place: tuple[slice, slice], shape: Sequence[int]) -> tuple[slice, slice]:
    """A square around a box, with a margin of a quarter, inside the image."""
    side = min(*shape, round(1.5 * max(s.stop - s.start for s in place)) + 4)
    starts = (min(max(0, (s.start + s.stop - side) // 2), size - side) for s, size in zip(place, shape, strict=True))
    return tuple(slice(start, start + side) for start in starts)  # type: ignore[return-value]


def _tinted(photo: np.ndarray, truth: np.ndarray, labels: np.ndarray, group: Group, side: int = 112) -> np.ndarray:
    """A square part of an image, tinted with the predicted classes, the true objects outlined in white."""
    size = (side, side)
    photo = np.asarray(Image.fromarray(np.ascontiguousarray(photo)).resize(size), float)
    truth, labels = (np.asarray(Image.fromarray(a).resize(size, Image.Resampling.NEAREST)) for a in (truth, labels))
    tint = np.where((labels == group.background)[..., None], photo, colorize(labels, group.palette))
    objects = np.where((truth == IGNORE) | (truth == group.background), -1, truth.astype(int))
    edge = ndimage.grey_dilation(objects, 3) != ndimage.grey_erosion(objects, 3)
    return np.where(edge[..., None], 255, 0.35 * photo + 0.65 * tint).round().astype(np.uint8)

"""Pictures for the report: the same images through all variants, an example of each outcome, error categories."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from segstudy.build import build_data
from segstudy.config.run_folder import read_config
from segstudy.config.trust import restrict_paths
from segstudy.data.dataset import CachedDataset
from segstudy.drawing import ERRORS, as_array, class_legend, colorize, image_grid, photo_of
from segstudy.errors import DamagedFile, SegstudyError
from segstudy.formatting import format_signed
from segstudy.labels import IGNORE, reduced_labels, reduction
from segstudy.measures.error_categories import CATEGORIES, error_categories
from segstudy.measures.objects import EIGHT_CONNECTED, OUTCOMES, SMALLEST, outcome_of
from segstudy.runs.image_arrays import read_image_arrays
from segstudy.runs.record import sealed
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
        side_by_side = WIDE_COLUMNS if self.cell > 2 else len(images)
        return [slice(start, start + side_by_side) for start in range(0, len(images), side_by_side)]

    @property
    def cell(self) -> float:
        """Width / height of the place of each image: the median over the images; others are fitted in."""
        images = next(iter(self.rows.values()), ())
        return float(np.median([image.shape[1] / image.shape[0] for image in images])) if len(images) else 1.0


@dataclass(frozen=True)
class Predictions:
    """The truth (H,W) of each reported image, and the labels (H,W) of each variant's first seed, as measured.

    images: the run's reported images; None if they are not on this machine. stored: those that the run saved at its
    test, by index.
    """

    truth: Sequence[np.ndarray]
    predicted: Mapping[str, Sequence[np.ndarray]]
    images: CachedDataset | None = None
    stored: Mapping[int, np.ndarray] = field(default_factory=dict)

    def labels(self, name: str, index: int) -> np.ndarray:
        """A variant's labels at the size of the truth: not all variants need have been tested at one size."""
        return _resized(self.predicted[name][index], self.truth[index].shape, Image.Resampling.NEAREST)

    def photo(self, index: int) -> np.ndarray:
        """An image uint8 (H,W,3) at the size of its truth; grey if it is neither on this machine nor stored."""
        photo = self.current_photo(index)
        if photo is None:
            stored = self.stored.get(index, np.full((1, 1, 3), BLANK))
            return _resized(stored, self.truth[index].shape, Image.Resampling.BILINEAR)
        return photo

    def current_photo(self, index: int) -> np.ndarray | None:
        """The image in the data set on this machine; None if there is none with the mask that the test had."""
        if self.images is None:
            return None
        image, mask = self.images.pair(index)
        factor = reduction(mask.shape, max(self.truth[index].shape))
        same = np.array_equal(reduced_labels(mask, factor), self.truth[index])
        return photo_of(image, factor) if same else None


def _resized(array: np.ndarray, shape: Sequence[int], way: Image.Resampling) -> np.ndarray:
    """An image or labels, uint8, at `shape` = (H,W)."""
    if array.shape[:2] == tuple(shape):
        return array
    return np.asarray(Image.fromarray(array).resize((shape[1], shape[0]), way))


def pictures(group: Group, seeds: Mapping[str, Sequence[TestResult]]) -> GroupPictures:
    """The pictures of a group's predictions; none if the runs saved no labels."""
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
    here = all(held.current_photo(index) is not None for index in influential[:SHOWN])
    chosen = list(influential if here else held.stored or influential)[:SHOWN]
    masks = {"truth": [held.truth[i] for i in chosen]}
    masks |= {name: [held.labels(name, i) for i in chosen] for name in held.predicted}
    rows = {name: [colorize(a, group.palette) for a in of_row] for name, of_row in masks.items()}
    shares = {index: f" ({format_signed(100 * share, 1)} %)" for index, _, share in group.most_influential}
    titles = {index: f"{first.names[index]}{shares.get(index, '')}" for index in chosen}
    lowest = {int(i): f"{first.names[i]} (mIoU of this image {scores[i]:.3f})" for i in worst[:4]}
    influence = "; in brackets: the image's share of the influence on a planned difference, + in favour of the variant"
    return GroupPictures(
        rows={"image": [held.photo(i) for i in chosen], **rows},
        names=[first.names[index] for index in chosen],
        legend=class_legend([a for of_row in masks.values() for a in of_row], group.classes, group.palette),
        examples={name: _examples(name, held, group, first.names) for name in held.predicted},
        sheets={
            f"The errors in these images{influence * bool(shares)}.": _error_sheet(titles, held, group),
            "The images with the lowest mIoU of the classes in their truth, mean over the variants.": _error_sheet(
                lowest, held, group
            ),
        },
        note=_note(held, here, shown, group),
    )


def _note(held: Predictions, here: bool, shown: Collection[str], group: Group) -> str:
    """How the images were chosen, and what is missing, in sentences. here: the images are on this machine."""
    chosen = INFLUENTIAL if group.most_influential else "From the worst predicted image to the best."
    parts = [chosen] if here else [STORED] if held.stored else [chosen, GONE]
    lacking = [name for name in shown if name not in held.predicted]
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
    first = max(saved, key=lambda name: saved[name]["truth"][0].size)  # the variant that saw the largest images
    labels = {name: arrays["labels"] for name, arrays in saved.items()}
    return Predictions(saved[first]["truth"], labels, _images(tests[first]), _samples(tests[first]))


def _images(test: TestResult) -> CachedDataset | None:
    """The reported images of the run's data set; None if it is not on this machine."""
    if test.folder is None:
        return None
    try:
        cfg = read_config(test.folder, ("data",))
        restrict_paths(cfg.data)
        images = build_data(cfg).roles["report"]
    except (SegstudyError, OSError):
        return None
    return images if [s.name for s in images.samples] == list(test.names) else None


def _samples(test: TestResult) -> dict[int, np.ndarray]:
    """The images that the run saved at its test, by index."""
    saved = _saved(test, "samples")
    pairs = zip(saved["names"], saved["image"], strict=True) if saved else ()
    return {test.names.index(str(name)): image for name, image in pairs if str(name) in test.names}


def _saved(test: TestResult, name: str) -> Mapping[str, Sequence[np.ndarray]]:
    """The arrays of a file of the run's test; {} if it is missing or damaged."""
    if test.folder is None:
        return {}
    try:
        return read_image_arrays(sealed(test.folder, f"test/{name}.npz", test.record))
    except (DamagedFile, FileNotFoundError):  # the group's warnings name it
        return {}


def _error_sheet(titles: Mapping[int, str], held: Predictions, group: Group) -> np.ndarray:
    """For each image, a row of image, truth, and the error categories of each variant.

    titles: index of an image → its title.
    """
    colors, rows = [CATEGORY_COLORS[name] for name in CATEGORIES], []
    for index in titles:
        truth = held.truth[index]
        categories = (error_categories(truth, held.labels(name, index), group.background) for name in held.predicted)
        row = [held.photo(index), colorize(truth, group.palette), *(colorize(each, colors) for each in categories)]
        rows.append(row)
    legend = class_legend([held.truth[index] for index in titles], group.classes, group.palette)
    errors = ("confused", "foreign") if group.background is None else CATEGORIES[2:]
    legend |= {CATEGORY_NAMES[name]: CATEGORY_COLORS[name] for name in errors}
    names = [shorten(name, 16) for name in held.predicted]
    return as_array(image_grid(rows, ["image", "truth", *names], legend, list(titles.values())))


def _examples(name: str, held: Predictions, group: Group, names: Sequence[str]) -> dict[str, Example]:
    """For each outcome, the variant's largest object with it, and its largest spilled area."""
    largest: dict[str, tuple[int, int, tuple[slice, slice], str]] = {}
    for index in range(min(SEARCHED, len(held.truth))):
        for kind, area, place, words in _areas(held.truth[index], held.labels(name, index), group):
            if area > largest.get(kind, (0,))[0]:
                largest[kind] = area, index, place, words
    found = {}
    for kind, (_, index, place, words) in largest.items():
        truth = held.truth[index]
        window = _window(place, truth.shape)
        photo, truth, labels = (a[window] for a in (held.photo(index), truth, held.labels(name, index)))
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

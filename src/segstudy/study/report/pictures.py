"""Pictures for the report: the most influential and the worst images, an object of each outcome, the gallery."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from scipy import ndimage

from segstudy.build import build_data
from segstudy.config.run_folder import read_config
from segstudy.config.trust import restrict_paths
from segstudy.console import format_number
from segstudy.drawing import ERRORS, VOID, as_array, class_legend, colorize, image_grid
from segstudy.errors import SegstudyError
from segstudy.labels import IGNORE
from segstudy.measures.objects import EIGHT_CONNECTED, OUTCOMES, SMALLEST, outcome_of
from segstudy.measures.pixels import CATEGORIES, error_categories
from segstudy.study.analysis.findings import Group
from segstudy.study.analysis.metrics import image_miou
from segstudy.study.report.text import shorten
from segstudy.study.results import TestResult

CATEGORY_COLORS = {
    "background": (250, 250, 250), "foreground": (205, 205, 205), "missed": ERRORS["missed"],
    "confused": (148, 103, 189), "foreign": ERRORS["wrong class"], "overshoot": ERRORS["spilled"],
    "ghost": (178, 34, 34),
}  # fmt: skip
"""Colours of the error categories; greys are right."""

Picture = tuple[str, np.ndarray]

MOST = 5
"""Variants side by side in one picture; more would be too small to see."""


def pictures(group: Group, seeds: Mapping[str, Sequence[TestResult]]) -> list[Picture]:
    """Captioned RGB pictures of a group: most influential images, worst images, an object of each outcome.

    Predictions are those of each variant's first seed. Nothing where the runs kept no labels.
    """
    shown = {name: seeds[name][0] for name in variants_shown(group, list(seeds))}
    labels = {name: held for name, test in shown.items() if (held := _labels(test)) is not None}
    if not labels:
        return []
    first = shown[next(iter(labels))]
    photos = _photos(first)
    palette = group.palette
    truth = next(iter(labels.values()))[1]
    drawn = {name: held[0] for name, held in labels.items()}
    found: list[Picture] = []
    influential = [index for index, _, _ in group.most_influential]
    if influential and len(drawn) > 1:
        titles = [f"{name} ({share:+.1%})" for _, name, share in group.most_influential]
        sheet = _sheet(influential, titles, photos, truth, drawn, group)
        found.append(
            (
                "influential/share of the influence on the difference with the smallest p (+: for the second variant)",
                sheet,
            )
        )
    scores = np.mean([image_miou(test) for test in shown.values()], 0)  # NaN where nothing is counted: in all or none
    worst = np.argsort(np.where(np.isnan(scores), np.inf, scores))[:4]
    titles = [f"{first.names[i]} (mIoU {scores[i]:.2f})" for i in worst]
    found.append(
        ("worst/images with the lowest mean mIoU over the variants", _sheet(worst, titles, photos, truth, drawn, group))
    )
    found += _outcome_examples(photos, truth, drawn, group.background, palette, group.classes)
    return found


def variants_shown(group: Group, names: Sequence[str]) -> list[str]:
    """At most MOST variants, in their order: those of the difference with the smallest p, then the first ones."""
    known = [d for d in group.differences if d.a in names and d.b in names and not np.isnan(d.p)]
    clearest = min(known, key=lambda d: d.p, default=None)
    wanted = dict.fromkeys([*((clearest.a, clearest.b) if clearest else ()), *names])
    kept = list(wanted)[:MOST]
    return [name for name in names if name in kept]


def _labels(test: TestResult) -> tuple[np.ndarray, np.ndarray] | None:
    """Predicted labels and truth (N,H,W) that a run kept at its test."""
    file = test.folder / "test" / "labels.npz" if test.folder else None
    if file is None or not file.is_file():
        return None
    with np.load(file) as held:
        return held["labels"], held["truth"]


def _photos(test: TestResult) -> np.ndarray | None:
    """The images (N,H,W,3) uint8 from the run's data set; None if it is not on this machine."""
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


def _sheet(
    indices: Sequence[int] | np.ndarray,
    titles: Sequence[str],
    photos: np.ndarray | None,
    truth: np.ndarray,
    drawn: Mapping[str, np.ndarray],
    group: Group,
) -> np.ndarray:
    """Rows of image, truth and each variant's labels; below each of these rows where and how the variant is wrong."""
    rows, names = [], []
    blank = np.full((*truth.shape[1:], 3), 255, np.uint8)
    for index, title in zip(indices, titles, strict=True):
        photo = blank if photos is None else photos[index]
        rows.append([photo, *(colorize(a[index], group.palette) for a in (truth, *drawn.values()))])
        wrong = [category_picture(truth[index], labels[index], group.background) for labels in drawn.values()]
        rows.append([blank, blank, *wrong])
        names += [title, ""]
    used = [truth[list(indices)], *(labels[list(indices)] for labels in drawn.values())]
    legend = class_legend(used, group.classes, group.palette)
    legend |= (
        {c: CATEGORY_COLORS[c] for c in CATEGORIES[2:]}
        if group.background is not None
        else {c: CATEGORY_COLORS[c] for c in ("confused", "foreign")}
    )
    return as_array(image_grid(rows, ["image", "truth", *drawn], legend, names))


def category_picture(truth: np.ndarray, labels: np.ndarray, background: int | None) -> np.ndarray:
    """The error categories of one image in their colours, RGB uint8 (H,W,3); 255 as void."""
    table = np.full((256, 3), VOID, np.uint8)
    table[: len(CATEGORIES)] = [CATEGORY_COLORS[name] for name in CATEGORIES]
    return table[error_categories(truth, labels, background)]


def _outcome_examples(
    photos: np.ndarray | None,
    truth: np.ndarray,
    drawn: Mapping[str, np.ndarray],
    background: int | None,
    palette: Sequence[tuple[int, int, int]],
    classes: Sequence[str],
) -> list[Picture]:
    """Image, truth and prediction for each outcome: the largest such object of the first hundred images."""
    best: dict[int, tuple[int, int, str]] = {}
    for name, labels in drawn.items():
        for index in range(min(100, len(truth))):
            for area, outcome in _outcomes(truth[index], labels[index], background):
                if area > best.get(outcome, (0, 0, ""))[0]:
                    best[outcome] = (area, index, name)
    rows, titles, used = [], [], []
    blank = np.full((*truth.shape[1:], 3), 255, np.uint8)
    for outcome in sorted(best):
        _, index, name = best[outcome]
        pair = truth[index], drawn[name][index]
        rows.append([blank if photos is None else photos[index], *(colorize(a, palette) for a in pair)])
        titles.append(f"{OUTCOMES[outcome]}\n{shorten(name, 34)}")
        used += list(pair)
    if not rows:
        return []
    sheet = as_array(image_grid(rows, ["image", "truth", "prediction"], class_legend(used, classes, palette), titles))
    return [("objects/an object of each outcome", sheet)]


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
    """Image, truth and one column a variant (its first seed), RGB uint8 (H,W,3).

    None if fewer than two variants kept samples. Those that show other images than the first one are left out.
    """
    runs = {name: tests[0] for name, tests in seeds.items()}
    files = {name: test.folder / "test" / "samples.npz" for name, test in runs.items() if test.folder}
    held = {name: dict(np.load(file)) for name, file in files.items() if file.is_file()}
    if len(held) < 2:
        return None
    first_name, first = next(iter(held.items()))
    held = {n: h for n, h in held.items() if np.array_equal(h["truth"], first["truth"])}
    palette = [tuple(rgb) for rgb in runs[first_name].record["palette"]]
    predictions = [h["prediction"] for h in held.values()]
    rows = [
        [first["image"][i], *(colorize(labels[i], palette) for labels in (first["truth"], *predictions))]
        for i in range(len(first["image"]))
    ]
    titles = ["image", "truth", *(f"{fill(n, 22)}\nmIoU {_miou(runs[n])}" for n in held)]
    return as_array(
        image_grid(rows, titles, class_legend([first["truth"], *predictions], runs[first_name].classes, palette))
    )


def _miou(test: TestResult) -> str:
    return format_number(test.record["metrics"]["network"]["miou"])

"""Definitions of "mIoU" and "accuracy" in use, each with its formula and its users (docs/readings.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segstudy.measures.stored_rows import divide
from segstudy.study.counts import Counts

Rule = Literal["truth", "union", "one", "zero"]

RULES: dict[Rule, tuple[str, str, str]] = {
    "truth": ("classes with truth", "mean over {c: T>0}", "hand-written: loop over the classes of the mask"),
    "union": ("classes with union > 0", "mean over {c: U>0}",
              "hand-written: nanmean; MulticlassJaccardIndex of each batch"),
    "one": ("all classes, absent = 1", "mean over all C, 0/0 = 1",
            "hand-written: (x + ε) / (y + ε); smp iou_score of each batch"),
    "zero": ("all classes, absent = 0", "mean over all C, 0/0 = 0",
             "hand-written: x / (y + ε); of single images: torchmetrics MeanIoU before 1.7.1"),
}  # fmt: skip
"""Treatment of absent classes: name, formula, and who uses it for means over batches."""

BATCHES = (1, 4, 8, 16)

MIN_IMAGES = 20
"""Images that a class needs; with fewer its IoU is mostly due to chance."""


@dataclass(frozen=True)
class Definition:
    """A definition of mIoU or accuracy. who: its users. measure: counts and background class → value; NaN: not defined.

    In the formulas T = truth, P = predicted, H = true positives, U = T + P − H.
    """

    group: str
    name: str
    formula: str
    who: str
    measure: Callable[[Counts, int | None], float]


def dataset(counts: Counts, rule: Rule = "truth") -> float:
    """IoU of each class over the whole split, then the mean over the classes of `rule`."""
    return class_means(counts.whole(), rule)[0].item()


def supported(counts: Counts) -> float:
    enough = (counts.truth > 0).sum(0) >= MIN_IMAGES
    return mean(counts.whole().iou[0, enough])


def frequency_weighted(counts: Counts) -> float:
    """IoU weighted by the share of the truth; Long et al. 2015, section 5."""
    whole = counts.whole()
    return divide(np.nansum(whole.truth * whole.iou), whole.truth.sum()).item()


def dice(counts: Counts) -> float:
    whole = counts.whole()
    return mean(divide(2 * whole.true_positives, whole.truth + whole.predicted)[whole.truth > 0])


def fine_grained(counts: Counts, background: int | None, by_class: bool = False) -> float:
    """mIoU^I, or mIoU^C: over the classes with truth in an image. Of two classes, the foreground's IoU of each image,
    1 where neither truth nor prediction has any. Source: Wang et al. 2023 (NeurIPS D&B), section 3, and its code."""
    counts = counts.counted()
    iou = counts.iou
    if iou.shape[1] == 2:
        return mean(np.nan_to_num(iou[:, 0 if background == 1 else 1], nan=1.0))
    iou = np.where(counts.truth > 0, iou, np.nan)
    return over_classes(iou) if by_class else mean(row_means(iou))


def over_batches(counts: Counts, size: int, rule: Rule) -> float:
    """Unweighted mean of the batches' mean IoU: a smaller last batch counts as much as the others."""
    return mean(class_means(counts.batches(size).counted(), rule))


def weighted_batches(counts: Counts, size: int = 16) -> float:
    """Mean of the batches' mean IoU (union > 0), weighted by their numbers of images."""
    images = _batch_sizes(counts, size)
    values = class_means(counts.batches(size), "union")
    there = ~np.isnan(values)
    return divide((images * values)[there].sum(), images[there].sum()).item()


def first_class(counts: Counts, size: int = 16) -> float:
    """The IoU of the lowest class with truth in each batch, averaged."""
    batches = counts.batches(size).counted()
    return mean(batches.iou[np.arange(len(batches.truth)), (batches.truth > 0).argmax(1)])


def undivided(counts: Counts, size: int = 4) -> float:
    """Sum over batches (not divided by their number) of the mean over images and classes, absent = 0."""
    images = np.nan_to_num(counts.iou, nan=0.0).mean(1)
    sums = np.add.reduceat(images, np.arange(0, len(images), size))
    return (sums / _batch_sizes(counts, size)).sum().item()


def _batch_sizes(counts: Counts, size: int) -> np.ndarray:
    return np.diff([*range(0, len(counts.truth), size), len(counts.truth)])


def accuracy(counts: Counts) -> float:
    return divide(counts.true_positives.sum(), counts.truth.sum()).item()


def batch_accuracy(counts: Counts, size: int = 16) -> float:
    batches = counts.batches(size).counted()
    return mean(batches.true_positives.sum(1) / batches.truth.sum(1))


def class_means(counts: Counts, rule: Rule) -> np.ndarray:
    """The mean IoU of each row under a rule for absent classes: float64 (N,)."""
    iou = counts.iou
    if rule == "truth":
        iou = np.where(counts.truth > 0, iou, np.nan)
    elif rule != "union":
        iou = np.nan_to_num(iou, nan=float(rule == "one"))
    return row_means(iou)


def over_classes(iou: np.ndarray) -> float:
    """IoU (N,C) → the mean over the rows for each class, then over the classes; NaN is left out."""
    return mean(row_means(iou.T))


def row_means(values: np.ndarray) -> np.ndarray:
    """The mean of each row (N,M) → (N,), NaN left out; NaN for a row of NaN, without NumPy's warning."""
    return divide(np.nansum(values, 1), (~np.isnan(values)).sum(1))


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    return row_means(values.reshape(1, -1))[0].item()


def _of_foreground(measure: Callable[[Counts, int], float]) -> Callable[[Counts, int | None], float]:
    """The measure, or NaN if no class is the background."""
    return lambda k, b: np.nan if b is None else measure(k, b)


def _batch_mean(rule: Rule, size: int) -> Definition:
    name, formula, who = RULES[rule]
    of = "batches of 1 (images)" if size == 1 else f"batches of {size}"
    return Definition("per batch", f"{of}, {name}", f"per batch {formula}; Σ over batches / their number", who,
                      lambda k, b: over_batches(k, size, rule))  # fmt: skip


DEFINITIONS = [
    *(Definition("dataset", *row) for row in (
        ("dataset mIoU, classes with truth", "ΣH/ΣU; mean over {c: ΣT>0}", "segstudy, VOC devkit",
         lambda k, b: dataset(k)),
        ("dataset mIoU, classes with union > 0", "ΣH/ΣU; mean over {c: ΣU>0}",
         "torchmetrics MulticlassJaccardIndex (macro), mmseg, Keras MeanIoU", lambda k, b: dataset(k, "union")),
        ("dataset mIoU, all classes, absent = 0", "ΣH/ΣU; 0/0 = 0; mean over all C",
         "hand-written (x + ε below the line)", lambda k, b: dataset(k, "zero")),
        ("dataset mIoU, all classes, absent = 1", "ΣH/ΣU; 0/0 = 1; mean over all C",
         "smp iou_score (macro), hand-written (x + ε above and below)", lambda k, b: dataset(k, "one")),
        ("without background", "ΣH/ΣU; mean over {c≠b: ΣT>0}", "medical imaging, include_background=False",
         _of_foreground(lambda k, b: dataset(k.without(b)))),
        (f"classes in ≥ {MIN_IMAGES} images", f"ΣH/ΣU; mean over {{c: T>0 in ≥ {MIN_IMAGES} images}}",
         "segstudy's verdicts", lambda k, b: supported(k)),
        ("micro IoU", "ΣΣH / ΣΣU over all classes = accuracy / (2 − accuracy)",
         "torchgeo's default, smp iou_score (micro)",
         lambda k, b: divide(k.true_positives.sum(), k.union.sum()).item()),
        ("frequency-weighted IoU", "Σc T·IoU / Σc T", "FCN paper", lambda k, b: frequency_weighted(k)),
        ("Dice reported as IoU", "2ΣH / (ΣT+ΣP); mean over {c: ΣT>0}", "medical imaging", lambda k, b: dice(k)),
        ("foreground IoU", "classes but b as one: ΣH/ΣU", "binary notebooks, shape IoU",
         _of_foreground(lambda k, b: k.foreground(b).whole().iou[0, 1].item())),
        ("mean of foreground and background IoU", "classes but b as one; mean of the two", "binary notebooks",
         _of_foreground(lambda k, b: dataset(k.foreground(b)))),
    )),
    *(Definition("per image", *row) for row in (
        ("macro-imagewise", "per image mean over all C, 0/0 = 1; then images", "smp iou_score (macro-imagewise)",
         lambda k, b: over_batches(k, 1, "one")),
        ("micro-imagewise", "per image ΣcH/ΣcU; then images", "smp iou_score (micro-imagewise)",
         lambda k, b: mean(divide(k.true_positives.sum(1), k.union.sum(1)))),
        ("all pairs of image and class, union > 0", "mean of IoU over {(i,c): U>0}",
         "torchmetrics segmentation.MeanIoU since 1.7.1", lambda k, b: mean(k.iou)),
        ("per class over images, union > 0", "per class mean over {i: U>0}; then classes",
         "the same with per_class=True, then a mean", lambda k, b: over_classes(k.iou)),
        ("mIoU^I", "per image mean over {c: T>0}; then images (two classes: the foreground's)", "Wang et al. 2023",
         fine_grained),
        ("mIoU^C", "per class mean over {i: T>0}; then classes (two classes: mIoU^I)", "Wang et al. 2023",
         lambda k, b: fine_grained(k, b, by_class=True)),
    )),
    *(_batch_mean(rule, size) for rule in RULES for size in BATCHES),
    *(Definition("other batch means", *row) for row in (
        ("batches of 16, weighted by images", "per batch mean over {c: U>0}; the last, smaller batch counts less",
         "Lightning's self.log of a batch's value", lambda k, b: weighted_batches(k)),
        ("per class over batches of 16", "per class mean over {batches: U>0}; then classes",
         "running averages of each class", lambda k, b: over_classes(k.batches(16).iou)),
        ("first class of each batch of 16", "IoU of the lowest c with T>0; mean over batches",
         "journey (returns inside the loop over classes)", lambda k, b: first_class(k)),
        ("sum over batches of 4, never divided", "Σ over batches of the mean over images and all C, 0/0 = 0",
         "voc_notebook: torchmetrics 1.4.0 (its issue 2558); can exceed 1", lambda k, b: undivided(k)),
    )),
    *(Definition("accuracy", *row) for row in (
        ("pixel accuracy", "ΣΣH / ΣΣT", "segstudy, FCN paper", lambda k, b: accuracy(k)),
        ("mean class accuracy", "ΣH/ΣT; mean over {c: ΣT>0}", "FCN paper, mmseg mAcc",
         lambda k, b: mean(divide(k.true_positives.sum(0), k.truth.sum(0)))),
        ("accuracy of the foreground", "Σ H / Σ T over c≠b", "fastai's foreground_acc",
         _of_foreground(lambda k, b: accuracy(k.without(b)))),
        ("accuracy, mean of batches of 16", "per batch ΣcH/ΣcT; mean over batches", "notebooks, pet_benchmark (32)",
         lambda k, b: batch_accuracy(k)),
    )),
]  # fmt: skip
"""All definitions; the first is the mIoU that segstudy reports."""

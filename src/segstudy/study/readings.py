"""What is called "mIoU" and "accuracy": each reading with its formula and who reads it so, from counts per image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Rule = Literal["truth", "union", "one", "zero"]

RULES: dict[Rule, tuple[str, str]] = {
    "truth": ("classes with truth", "mean over {c: T>0}"),
    "union": ("classes with union > 0", "mean over {c: U>0}"),
    "one": ("all classes, absent = 1", "mean over all C, 0/0 = 1"),
    "zero": ("all classes, absent = 0", "mean over all C, 0/0 = 0"),
}
"""What a class does to the mean where it is absent: name and formula."""

BATCHES = (1, 4, 8, 16)

MIN_IMAGES = 20
"""In fewer images than this a class's IoU is mostly chance."""


@dataclass(frozen=True)
class ClassCounts:
    """Pixels of each class in the truth, in the prediction and in both, for each image (or batch): int64 (N,C).

    All readings here follow from these: T = truth, P = predicted, H = hit, union U = T + P − H, IoU = H / U.
    """

    truth: np.ndarray
    predicted: np.ndarray
    true_positives: np.ndarray

    @classmethod
    def of_rows(cls, rows: np.ndarray, images: int, num_classes: int) -> "ClassCounts":
        """From the sparse rows (image, truth, prediction, pixels) of a run's `counts.npz`."""
        image, truth, prediction, pixels = rows.T
        counts = [np.zeros((images, num_classes), np.int64) for _ in range(3)]
        np.add.at(counts[0], (image, truth), pixels)
        np.add.at(counts[1], (image, prediction), pixels)
        right = truth == prediction
        np.add.at(counts[2], (image[right], truth[right]), pixels[right])
        return cls(*counts)

    @property
    def union(self) -> np.ndarray:
        return self.truth + self.predicted - self.true_positives

    @property
    def iou(self) -> np.ndarray:
        """float64 (N,C); NaN where the union is 0."""
        return divide(self.true_positives, self.union)

    def added(self, size: int) -> "ClassCounts":
        """The sums over batches of `size` images in their order; the last one may be smaller."""
        starts = np.arange(0, len(self.truth), size)
        return ClassCounts(
            *(np.add.reduceat(a, starts, axis=0) for a in (self.truth, self.predicted, self.true_positives))
        )

    def whole(self) -> "ClassCounts":
        """The split as one row."""
        return self.added(len(self.truth))

    def counted(self) -> "ClassCounts":
        """Without the images (or batches) in which every pixel is ignored: they have no reading."""
        there = self.truth.sum(1) > 0
        return ClassCounts(self.truth[there], self.predicted[there], self.true_positives[there])

    def constant(self, c: int) -> "ClassCounts":
        """Those of a predictor that says class `c` everywhere, on the same truth."""
        predicted, hit = np.zeros_like(self.truth), np.zeros_like(self.truth)
        predicted[:, c], hit[:, c] = self.truth.sum(1), self.truth[:, c]
        return ClassCounts(self.truth, predicted, hit)

    def foreground(self, background: int) -> "ClassCounts":
        """The same with two classes: 0 background, 1 everything else."""
        pixels, b = self.truth.sum(1), background
        # A foreground pixel taken for another foreground class is a hit here.
        both = pixels - self.truth[:, b] - self.predicted[:, b] + self.true_positives[:, b]
        truth, predicted = (np.stack([a[:, b], pixels - a[:, b]], 1) for a in (self.truth, self.predicted))
        return ClassCounts(truth, predicted, np.stack([self.true_positives[:, b], both], 1))


@dataclass(frozen=True)
class Definition:
    """A reading: its group, name, formula, who reads it so, and how it is computed. NaN: not defined (n/a)."""

    group: str
    name: str
    formula: str
    who: str
    measure: Callable[[ClassCounts], float]


def definitions(background: int | None) -> list[Definition]:
    """Every reading of the predictions as they are, the dataset-level mIoU over the classes with truth first."""
    return [*_dataset(background), *_per_image(background), *_per_batch(), *_other_batches(), *_accuracies(background)]


def needing(background: int | None, measure: Callable[[ClassCounts, int], float]) -> Callable[[ClassCounts], float]:
    """A reading that needs to know the background's class: n/a where no class is background."""
    return lambda counts: np.nan if background is None else measure(counts, background)


def _dataset(background: int | None) -> list[Definition]:
    def add(name: str, formula: str, who: str, measure: Callable[[ClassCounts], float]) -> Definition:
        return Definition("dataset", name, formula, who, measure)

    return [
        add("dataset mIoU, classes with truth", "ΣH/ΣU; mean over {c: ΣT>0}", "segstudy, VOC devkit", dataset),
        add("dataset mIoU, classes with union > 0", "ΣH/ΣU; mean over {c: ΣU>0}",
            "torchmetrics MulticlassJaccardIndex (macro), mmseg, Keras MeanIoU", lambda k: dataset(k, "union")),
        add("dataset mIoU, all classes, absent = 0", "ΣH/ΣU; 0/0 = 0; mean over all C",
            "hand-written (x + ε below the line)", lambda k: dataset(k, "zero")),
        add("dataset mIoU, all classes, absent = 1", "ΣH/ΣU; 0/0 = 1; mean over all C",
            "smp iou_score (macro), hand-written (x + ε above and below)", lambda k: dataset(k, "one")),
        add("without background", "ΣH/ΣU; mean over {c≠b: ΣT>0}", "medical imaging, include_background=False",
            needing(background, without)),
        add(f"classes in ≥ {MIN_IMAGES} images", f"ΣH/ΣU; mean over {{c: T>0 in ≥ {MIN_IMAGES} images}}",
            "segstudy's verdicts", supported),
        add("micro IoU", "ΣΣH / ΣΣU over all classes = accuracy / (2 − accuracy)",
            "torchgeo's default, smp iou_score (micro)", micro),
        add("frequency-weighted IoU", "Σc T·IoU / Σc T", "FCN paper", frequency_weighted),
        add("Dice reported as IoU", "2ΣH / (ΣT+ΣP); mean over {c: ΣT>0}", "medical imaging", dice),
        add("foreground IoU", "classes but b as one: ΣH/ΣU", "binary notebooks, shape IoU",
            needing(background, lambda k, b: k.foreground(b).whole().iou[0, 1].item())),
        add("mean of foreground and background IoU", "classes but b as one; mean of the two",
            "binary notebooks", needing(background, lambda k, b: dataset(k.foreground(b)))),
    ]  # fmt: skip


def dataset(counts: ClassCounts, rule: Rule = "truth") -> float:
    """IoU of each class over the whole split, then the mean over the classes of `rule`."""
    return class_means(counts.whole(), rule)[0].item()


def without(counts: ClassCounts, c: int) -> float:
    """Dataset mIoU over the classes with truth, but for class `c`."""
    kept = (np.delete(a, c, axis=1) for a in (counts.truth, counts.predicted, counts.true_positives))
    return dataset(ClassCounts(*kept))


def supported(counts: ClassCounts) -> float:
    """Dataset mIoU over the classes with truth in at least `MIN_IMAGES` images."""
    enough = (counts.truth > 0).sum(0) >= MIN_IMAGES
    return mean(counts.whole().iou[0, enough])


def micro(counts: ClassCounts) -> float:
    return divide(counts.true_positives.sum(), counts.union.sum()).item()


def frequency_weighted(counts: ClassCounts) -> float:
    """IoU weighted by the share of the truth; Long et al. 2015, section 5."""
    whole = counts.whole()
    return divide(np.nansum(whole.truth * whole.iou), whole.truth.sum()).item()


def dice(counts: ClassCounts) -> float:
    whole = counts.whole()
    return mean(divide(2 * whole.true_positives, whole.truth + whole.predicted)[whole.truth > 0])


def _per_image(background: int | None) -> list[Definition]:
    def add(name: str, formula: str, who: str, measure: Callable[[ClassCounts], float]) -> Definition:
        return Definition("per image", name, formula, who, measure)

    return [
        add("macro-imagewise", "per image mean over all C, 0/0 = 1; then images",
            "smp iou_score (macro-imagewise)", lambda k: over_batches(k, 1, "one")),
        add("micro-imagewise", "per image ΣcH/ΣcU; then images", "smp iou_score (micro-imagewise)",
            lambda k: mean(divide(k.true_positives.sum(1), k.union.sum(1)))),
        add("all pairs of image and class, union > 0", "mean of IoU over {(i,c): U>0}",
            "torchmetrics segmentation.MeanIoU since 1.7.1", lambda k: mean(k.iou)),
        add("per class over images, union > 0", "per class mean over {i: U>0}; then classes",
            "the same with per_class=True, then a mean", lambda k: over_classes(k.iou)),
        add("mIoU^I", "per image mean over {c: T>0}; then images (two classes: the foreground's)",
            "Wang et al. 2023", lambda k: fine_grained(k, background)),
        add("mIoU^C", "per class mean over {i: T>0}; then classes (two classes: mIoU^I)",
            "Wang et al. 2023", lambda k: fine_grained(k, background, by_class=True)),
    ]  # fmt: skip


def fine_grained(counts: ClassCounts, background: int | None, by_class: bool = False) -> float:
    """mIoU^I, or mIoU^C: over the classes with truth in an image. Of two classes, the foreground's IoU of each image,
    1 where neither truth nor prediction has any. Source: Wang et al. 2023 (NeurIPS D&B), section 3, and its code."""
    counts = counts.counted()
    iou = counts.iou
    if iou.shape[1] == 2:
        return mean(np.nan_to_num(iou[:, 0 if background == 1 else 1], nan=1.0))
    iou = np.where(counts.truth > 0, iou, np.nan)
    return over_classes(iou) if by_class else mean(row_means(iou))


def _per_batch() -> list[Definition]:
    whos: dict[Rule, str] = {
        "truth": "hand-written: loop over the classes of the mask",
        "union": "hand-written: nanmean; MulticlassJaccardIndex of each batch",
        "one": "hand-written: (x + ε) / (y + ε); smp iou_score of each batch",
        "zero": "hand-written: x / (y + ε); of single images: torchmetrics MeanIoU before 1.7.1",
    }

    def add(rule: Rule, size: int) -> Definition:
        name = "batches of 1 (images)" if size == 1 else f"batches of {size}"
        return Definition(
            "per batch", f"{name}, {RULES[rule][0]}", f"per batch {RULES[rule][1]}; Σ over batches / their number",
            whos[rule], lambda k: over_batches(k, size, rule),
        )  # fmt: skip

    return [add(rule, size) for rule in RULES for size in BATCHES]


def _other_batches() -> list[Definition]:
    def add(name: str, formula: str, who: str, measure: Callable[[ClassCounts], float]) -> Definition:
        return Definition("other batch means", name, formula, who, measure)

    return [
        add("batches of 16, weighted by images", "per batch mean over {c: U>0}; the last, smaller batch counts less",
            "Lightning's self.log of a batch's value", weighted_batches),
        add("per class over batches of 16", "per class mean over {batches: U>0}; then classes",
            "running averages of each class", lambda k: over_classes(k.added(16).iou)),
        add("first class of each batch of 16", "IoU of the lowest c with T>0; mean over batches",
            "journey (returns inside the loop over classes)", first_class),
        add("sum over batches of 4, never divided", "Σ over batches of the mean over images and all C, 0/0 = 0",
            "voc_notebook: torchmetrics 1.4.0 (its issue 2558); can exceed 1", undivided),
    ]  # fmt: skip


def over_batches(counts: ClassCounts, size: int, rule: Rule) -> float:
    """The plain mean over batches of each batch's mean IoU: a last, smaller batch counts as much as the others."""
    return mean(class_means(counts.added(size).counted(), rule))


def weighted_batches(counts: ClassCounts, size: int = 16) -> float:
    images = np.diff([*range(0, len(counts.truth), size), len(counts.truth)])
    values = class_means(counts.added(size), "union")
    there = ~np.isnan(values)
    return divide((images * values)[there].sum(), images[there].sum()).item()


def first_class(counts: ClassCounts, size: int = 16) -> float:
    batches = counts.added(size).counted()
    return mean(batches.iou[np.arange(len(batches.truth)), (batches.truth > 0).argmax(1)])


def undivided(counts: ClassCounts, size: int = 4) -> float:
    images = np.nan_to_num(counts.iou, nan=0.0).mean(1)
    starts = np.arange(0, len(images), size)
    return (np.add.reduceat(images, starts) / np.diff([*starts, len(images)])).sum().item()


def _accuracies(background: int | None) -> list[Definition]:
    def add(name: str, formula: str, who: str, measure: Callable[[ClassCounts], float]) -> Definition:
        return Definition("accuracy", name, formula, who, measure)

    return [
        add("pixel accuracy", "ΣΣH / ΣΣT", "segstudy, FCN paper", accuracy),
        add("mean class accuracy", "ΣH/ΣT; mean over {c: ΣT>0}", "FCN paper, mmseg mAcc", mean_accuracy),
        add("accuracy of the foreground", "Σ H / Σ T over c≠b", "fastai's foreground_acc",
            needing(background, foreground_accuracy)),
        add("accuracy, mean of batches of 16", "per batch ΣcH/ΣcT; mean over batches", "notebooks, pet_benchmark (32)",
            batch_accuracy),
    ]  # fmt: skip


def accuracy(counts: ClassCounts) -> float:
    return divide(counts.true_positives.sum(), counts.truth.sum()).item()


def mean_accuracy(counts: ClassCounts) -> float:
    return mean(divide(counts.true_positives.sum(0), counts.truth.sum(0)))


def foreground_accuracy(counts: ClassCounts, background: int) -> float:
    return accuracy(
        ClassCounts(*(np.delete(a, background, 1) for a in (counts.truth, counts.predicted, counts.true_positives)))
    )


def batch_accuracy(counts: ClassCounts, size: int = 16) -> float:
    batches = counts.added(size).counted()
    return mean(batches.true_positives.sum(1) / batches.truth.sum(1))


def class_means(counts: ClassCounts, rule: Rule) -> np.ndarray:
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
    """The mean of each row (N,M) → (N,), NaN left out; NaN for a row of NaN."""
    return divide(np.nansum(values, 1), (~np.isnan(values)).sum(1))


def mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN if nothing is."""
    return row_means(values.reshape(1, -1))[0].item()


def divide(above: np.ndarray | int, below: np.ndarray | int) -> np.ndarray:
    """Quotients; NaN where the denominator is 0."""
    below = np.asarray(below, float)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)

"""The metrics of a study. Each is a ratio of sums over images, or a mean of such ratios over classes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segstudy.measures.boundaries import STEPS
from segstudy.measures.boundaries import blockiness as blocks
from segstudy.measures.error_categories import CATEGORIES
from segstudy.measures.objects import OUTCOMES
from segstudy.study.readings import class_means
from segstudy.study.results import TestResult

RatioTerms = tuple[np.ndarray, np.ndarray]
"""Numerator and denominator for each image: (N,), or (N,C) for a mean over classes."""

B, F, M, C, G, O, H = range(len(CATEGORIES))  # noqa: E741


@dataclass(frozen=True)
class Metric:
    """A metric. title, says: its name and denominator in words.

    terms: None if not defined for the data, or not measured. most: the largest possible value. needs: what the data
    must have: "background", or "labels" (two object classes). by_class: its terms are (N, classes with truth).
    from_counts: it needs no `sums`.
    """

    name: str
    title: str
    says: str
    terms: Callable[[TestResult], RatioTerms | None]
    most: float = 1.0
    needs: tuple[str, ...] = ()
    by_class: bool = False
    from_counts: bool = False

    def of(self, tested: TestResult) -> RatioTerms | None:
        if not (tested.sums or self.from_counts):
            return None
        if "background" in self.needs and tested.background is None:
            return None
        if "labels" in self.needs and len(tested.classes) - (tested.background is not None) < 2:
            return None
        return self.terms(tested)


def _category_ratio(top: tuple[int, ...], bottom: tuple[int, ...]) -> Callable[[TestResult], RatioTerms]:
    return lambda t: (t.sums["cells"][:, list(top)].sum(1), t.sums["cells"][:, list(bottom)].sum(1))


def _ratio(top: str, bottom: str, at: int | None = None) -> Callable[[TestResult], RatioTerms | None]:
    """The ratio of two sums, or of one entry of each; None where a test lacks one of them."""
    place = (...,) if at is None else (slice(None), at)
    return lambda t: (t.sums[top][place], t.sums[bottom][place]) if {top, bottom} <= t.sums.keys() else None


def _share(at: int, *keys: str) -> Callable[[TestResult], RatioTerms]:
    """The share of one entry in all entries of these sums, added up."""

    def terms(t: TestResult) -> RatioTerms:
        total = np.sum([t.sums[key] for key in keys], 0)
        return total[:, at], total.sum(1)

    return terms


def _boundary_iou(t: TestResult) -> RatioTerms:
    there = t.counts.truth.sum(0) > 0
    return t.sums["band_both"][:, there], t.sums["band_either"][:, there]


def _boundary_f(t: TestResult) -> RatioTerms | None:
    """None if most true edges run through ignored areas wider than twice the tolerance: their position is unknown."""
    if "edge_unsure" not in t.sums or 2 * t.sums["edge_unsure"].sum() > t.sums["edge_length"].sum():
        return None
    return t.sums["contour_f"], t.sums["contours"]


def image_miou(tested: TestResult) -> np.ndarray:
    """mIoU of each image over the classes of its truth, float (N,): the terms of mIoU^I. NaN without counted pixels."""
    return class_means(tested.counts, "truth")


def _image_miou_terms(tested: TestResult) -> RatioTerms:
    values = image_miou(tested)
    return np.nan_to_num(values), ~np.isnan(values)


ALL = tuple(range(len(CATEGORIES)))

METRICS = [
    Metric("missed", "missed (false-negative rate of the foreground)", "of the foreground, predicted as background",
           _category_ratio((M,), (F, M, C, G)), needs=("background",)),
    *(Metric(f"missed_{size}", f"missed, {size} objects", f"of the pixels of objects that cover {share} of the image",
             _ratio("size_missed", "size_pixels", i), needs=("background",))
      for i, (size, share) in enumerate((("small", "less than 1 %"), ("medium", "1–10 %"), ("large", "over 10 %")))),
    Metric("spilled", "spilled (false-positive rate on background)", "of the background, predicted as an object",
           _category_ratio((O, H), (B, O, H)), needs=("background",)),
    Metric("mislabelled", "mislabelled", "of the foreground that was found, given another class",
           _category_ratio((C, G), (F, C, G)), needs=("labels",)),
    Metric("hallucinated", "hallucinated (classes absent from the image)", "of all pixels",
           _category_ratio((G, H), ALL), needs=("labels",)),
    Metric("hallucinated_inside", "hallucinated inside objects", "of all pixels", _category_ratio((G,), ALL),
           needs=("labels",)),
    Metric("hallucinated_outside", "hallucinated elsewhere", "of all pixels", _category_ratio((H,), ALL),
           needs=("background", "labels")),
    Metric("hallucinated_share", "hallucinated share", "of the predicted foreground, of classes absent from the image",
           _category_ratio((G, H), (F, C, G, O, H)), needs=("labels",)),
    Metric("absent_classes", "absent classes per image", "classes not in the image that cover 0.1 % of it or more",
           _ratio("absent", "image"), most=np.inf, needs=("labels",)),
    Metric("shape_iou", "shape IoU", "IoU of foreground against background, whatever the label",
           _category_ratio((F, C, G), (F, M, C, G, O, H)), needs=("background",)),
    Metric("precision", "foreground precision", "of the predicted foreground, on an object",
           _category_ratio((F, C, G), (F, C, G, O, H)), needs=("background",)),
    *(Metric(f"{place}_errors", f"errors at the {place}" if place == "boundary" else f"errors of {place}",
             "of the false positives and negatives of all classes but background",
             _share(i, "false_positives", "false_negatives"))
      for i, place in enumerate(("boundary", "extent", "segment"))),
    *(Metric(f"objects_{name.replace(' ', '_')}", f"objects: {name}", "of the objects", _share(i, "outcomes"),
             needs=("background",) if name in ("missed", "partial") else ("labels",) if name != "right" else ())
      for i, name in enumerate(OUTCOMES)),
    Metric("pieces", "pieces per object", "pieces of foreground in an object that was found",
           _ratio("pieces", "found_objects"), most=np.inf, needs=("background",)),
    Metric("class_pieces", "pieces of its class per object", "pieces of the right class in an object that was found",
           _ratio("class_pieces", "found_objects"), most=np.inf),
    Metric("coherence", "coherence", "largest piece's share of the found part of an object",
           _ratio("coherence", "found_objects"), needs=("background",)),
    Metric("boundary_iou", "Boundary IoU", "mean over classes, band of 2 % of the diagonal", _boundary_iou,
           by_class=True),
    Metric("boundary_f", "boundary F", "mean over images and classes, tolerance 0.75 % of the diagonal", _boundary_f),
    Metric("roughness", "roughness", "length of the predicted edges divided by that of the true edges",
           _ratio("cracks", "true_cracks"), most=np.inf),
    Metric("shift_consistency", "shift consistency", "of the pixels, same label when the image is shifted",
           _ratio("shift_kept", "shift_compared")),
    Metric("image_miou", "mIoU per image", "mean over images, of the classes in each", _image_miou_terms,
           from_counts=True),
    Metric("nll", "negative log-likelihood", "nats per pixel", _ratio("nll_all", "pixels_all"), most=np.inf),
]  # fmt: skip
"""Metrics that are ratios of sums; their intervals come from influences."""


def by_name(name: str) -> Metric:
    return next(f for f in METRICS if f.name == name)


MetricValue = tuple[float, np.ndarray]
"""A metric's value and the influence (N,) of each image (`statistics.influence`)."""


def worst(tested: TestResult, share: float = 0.05) -> MetricValue:
    """Mean mIoU of the worst 5 % of the images (Wang et al. 2023); NaN without any.

    Influence for a mean below a quantile q: (q − value − max(0, q − x_i)/share). Source: Rockafellar and Uryasev 2000.
    """
    values = image_miou(tested)
    there = ~np.isnan(values)
    influences = np.zeros(len(values))
    if not there.any():
        return float("nan"), np.full(len(values), np.nan)
    known = values[there]
    count = max(1, round(share * len(known)))
    lowest = np.sort(known)[:count]
    value, limit = float(lowest.mean()), lowest[-1]
    influences[there] = limit - value - np.maximum(0, limit - known) * len(known) / count
    return value, influences * len(values) / len(known)


def blockiness(tested: TestResult, step: int) -> MetricValue | None:
    """Blockiness R at this step over the split; NaN with fewer than 100 label changes along an axis. The influences
    come from leaving out each image; NaN, and so no interval, where fewer than 100 changes are left."""
    if not tested.sums:
        return None
    phases, changes = tested.sums["phases"], tested.sums["changes"]
    at = STEPS.index(step)
    value = float(blocks(phases.sum(0), changes.sum(0))[at])
    without = [blocks(phases.sum(0) - p, changes.sum(0) - c)[at] for p, c in zip(phases, changes, strict=True)]
    influences = (len(phases) - 1) * (value - np.array(without, float))
    return value, influences


IMAGE_METRICS: dict[str, Callable[[TestResult], MetricValue | None]] = {
    "worst": worst,
    **{f"blockiness_{step}": lambda t, step=step: blockiness(t, step) for step in STEPS},  # type: ignore[misc]
}
"""Metrics that are not ratios of sums."""

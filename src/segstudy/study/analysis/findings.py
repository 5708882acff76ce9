"""The findings of a study: metrics of its variants, planned differences with verdicts, claims. The reports (HTML,
Markdown, CSV, LaTeX) are written from these alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segstudy.study.statistics.comparison import Verdict
from segstudy.study.statistics.interval import Estimate

SURENESS: dict[Verdict, int] = {"better": 3, "worse": 3, "ahead": 2, "behind": 2, "equal": 1, "undecided": 0}
"""How much a verdict says, for the choice of the first sentence."""


@dataclass(frozen=True)
class Difference:
    """The mIoU of variant b minus that of variant a.

    low, high: plain 95 % interval. wide_low, wide_high: interval corrected for the number of planned pairs
    (Bonferroni), which decides the verdict. p: two-sided, corrected in the same way. detectable: a true difference that
    is shown with a power of 80 %. words: the verdict as a sentence. seeds: of a and b. needed: what would decide it.
    """

    a: str
    b: str
    delta: float
    low: float
    high: float
    wide_low: float
    wide_high: float
    p: float
    verdict: Verdict
    detectable: float
    words: str
    seeds: tuple[int, int] = (1, 1)
    needed: str = ""


@dataclass(frozen=True)
class ClaimResult:
    """A claim of the experiment file with its outcome and the reason."""

    text: str
    outcome: Literal["supported", "refuted", "undecided", "not measured"]
    words: str


@dataclass(frozen=True)
class Variant:
    """All trainings of one variant: their records (one for each seed) and metrics.

    miou: over the group's scored classes. miou_all: over all classes with truth. miou_original: the same at each
    image's original size, NaN if all figures are at that size. class_iou (C,): NaN without truth.
    metrics: by the names of `study/analysis/metrics.py`. outcomes: shares of objects missed, mixed, wrong label,
    partial and right; histograms: of the objects' `found` and `purity`, shares of
    objects in equal bins over 0…1. offsets: rows (background offset, missed, spilled, hallucinated, mIoU).
    confused: the most frequent confusions (truth, prediction, share of the truth's pixels). reliability: for each
    region (all, foreground, edge), rows (mean confidence, accuracy, share of pixels). history: each seed's rows of
    history.csv. Curves that were not measured are empty. inspected: (layer, flags) from the inspector; None: it did not
    run. title: its parts, or what it changes in an earlier variant; "" if unknown.
    """

    name: str
    changes: str
    records: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]
    miou: Estimate
    miou_all: Estimate
    miou_original: Estimate
    class_iou: np.ndarray
    metrics: Mapping[str, Estimate]
    outcomes: Mapping[str, float] = field(default_factory=dict)
    offsets: Sequence[tuple[float, float, float, float, float]] = ()
    confused: Sequence[tuple[str, str, float]] = ()
    reliability: Mapping[str, Sequence[tuple[float, float, float]]] = field(default_factory=dict)
    history: Sequence[Sequence[Mapping[str, float]]] = ()
    folders: Sequence[Path] = ()
    inspected: Sequence[tuple[str, str]] | None = None
    histograms: Mapping[str, np.ndarray] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Group:
    """Variants that may be compared: same images, protocol and classes.

    clusters: number of independent groups of images. class_images (C,): number of images that contain each class, at
    original size if known. supported (C,): classes in enough images for a verdict; if there are none, no verdict.
    sentence: the result. most_influential: images (index, name, share of the influence), those with most influence on
    each planned difference in turn.
    warnings: a sentence each. min_images: images that a supported class needs. margin: of "equal"; NaN: not declared.
    paired: differences were taken seed by seed. target: 90 % of the best final validation mIoU; NaN without histories.
    significant: for each planned pair (a, b), the classes and metrics that differ at a false discovery rate of 10 %.
    miou_name: the mIoU of the verdicts; "mIoU" alone is that of all classes with truth.
    """

    title: str
    classes: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    background: int | None
    images: int
    clusters: int
    class_images: np.ndarray
    supported: np.ndarray
    variants: Sequence[Variant]
    differences: Sequence[Difference]
    claims: Sequence[ClaimResult] = ()
    most_influential: Sequence[tuple[int, str, float]] = ()
    warnings: Sequence[str] = ()
    min_images: int = 20
    margin: float = math.nan
    paired: bool = False
    target: float = math.nan
    significant: Mapping[tuple[str, str], set[str]] = field(default_factory=dict)
    miou_name: str = "mIoU"
    sentence: str = ""

    @property
    def scored(self) -> np.ndarray:
        """Classes of the mIoU, bool (C,): the supported ones; all with truth if none is supported."""
        return self.supported if self.supported.any() else np.asarray(self.class_images) > 0

    @property
    def main_difference(self) -> Difference | None:
        """The planned difference of the first sentence: the largest of those decided most surely; None without any."""
        known = [d for d in self.differences if not math.isnan(d.delta)]
        return max(known, key=lambda d: (SURENESS[d.verdict], abs(d.delta)), default=None)

    @property
    def published(self) -> bool:
        """Whether the runs were selected as in a publication (`reproduce`); they are not compared with other runs."""
        return any(r.get("reproduce") for v in self.variants for r in v.records)


@dataclass(frozen=True)
class Findings:
    """A study: a summary sentence, groups of comparable variants, and (run, reason) of runs that could not be used."""

    name: str
    sentence: str
    groups: Sequence[Group]
    left_out: Sequence[tuple[str, str]] = ()

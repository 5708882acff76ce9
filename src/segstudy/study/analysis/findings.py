"""What a study says: the figures of its variants, their differences with verdicts, its claims. Everything that writes a
report (page, Markdown, tables, LaTeX) reads this and nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segstudy.study.statistics.comparison import Estimate, Verdict


@dataclass(frozen=True)
class Difference:
    """`figure` of variant b minus that of variant a.

    low, high: 95 %; wide_low, wide_high: 95 % for all planned pairs together; the verdict is read from it.
    p: two-sided, corrected likewise (Bonferroni). detectable: a difference that four of five such studies would show.
    words: the verdict as a sentence.
    """

    a: str
    b: str
    figure: str
    delta: float
    low: float
    high: float
    wide_low: float
    wide_high: float
    p: float
    verdict: Verdict
    detectable: float
    words: str


@dataclass(frozen=True)
class ClaimResult:
    """A claim of the experiment file, held against the data."""

    text: str
    outcome: Literal["supported", "refuted", "undecided", "not measured"]
    words: str


@dataclass(frozen=True)
class Variant:
    """All trainings of one variant: their records (one a seed) and figures.

    miou: over the group's scored classes; miou_all: over all classes with truth; miou_original: these, at each image's
    original size. class_iou (C,): NaN without truth.
    figures: by the names of `analysis/metrics.py`. outcomes: shares of objects missed, mixed, wrong label, partial,
    right,
    and outcome_areas the same by area. histograms: of the objects' `found` and `purity`, shares of objects in equal
    bins over 0…1. offsets: rows (background offset, missed, spilled, hallucinated, mIoU).
    confused: the commonest (truth, prediction, share of the truth's pixels). reliability: by region (all, foreground,
    edge) rows (mean confidence, accuracy, share of pixels). history: each seed's rows of history.csv.
    curve of a figure that is not there: empty. inspected: (layer, flags) of what the inspector found; None: not run.
    """

    name: str
    changes: str
    records: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]
    miou: Estimate
    miou_all: Estimate
    miou_original: Estimate
    class_iou: np.ndarray
    figures: Mapping[str, Estimate]
    outcomes: Mapping[str, float] = field(default_factory=dict)
    outcome_areas: Mapping[str, float] = field(default_factory=dict)
    offsets: Sequence[tuple[float, float, float, float, float]] = ()
    confused: Sequence[tuple[str, str, float]] = ()
    reliability: Mapping[str, Sequence[tuple[float, float, float]]] = field(default_factory=dict)
    history: Sequence[Sequence[Mapping[str, float]]] = ()
    folders: Sequence[Path] = ()
    inspected: Sequence[tuple[str, str]] | None = None
    histograms: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Variants that may be compared: same data, size, protocol and classes.

    class_images (C,): images with truth of each class, at original size where it is known. supported (C,): classes
    that carry verdicts; if there are none, nothing does. telling: images (index, name, share of the surest planned
    difference's influence), largest first. warnings: what a reader must know of the figures, each a sentence.
    min_images: what makes a class supported. margin: of "equal"; NaN: none was declared. paired: differences were taken
    seed by seed. target: 90 % of the best final val mIoU; NaN without histories. worth: by (a, b) of a planned pair,
    names of classes and figures that differ, at a false discovery rate of 10 %.
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

    @property
    def scored(self) -> np.ndarray:
        """The classes of the mIoU, bool (C,): the supported ones; all with truth where there are none."""
        return self.supported if self.supported.any() else np.asarray(self.class_images) > 0

    @property
    def published(self) -> bool:
        """Whether the runs were selected as a published study did: their figures stand beside no others."""
        return any(r.get("reproduce") for v in self.variants for r in v.records)


@dataclass(frozen=True)
class Findings:
    """A study: a first sentence, groups of comparable variants, and the runs that could not be used, with why."""

    name: str
    sentence: str
    groups: Sequence[Group]
    left_out: Sequence[tuple[str, str]] = ()

"""Compare two networks in mIoU, from the test results or the pixel counts of each image."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segstudy.errors import DataError
from segstudy.study.analysis.analyse import compare_pairs
from segstudy.study.analysis.plan import Plan, Side
from segstudy.study.analysis.samples import samples_of_miou
from segstudy.study.analysis.support import comparison_settings, few_images
from segstudy.study.results import TestResult, at_one_size
from segstudy.study.statistics.comparison import Verdict

Tests = TestResult | np.ndarray | Sequence[TestResult] | Sequence[np.ndarray]
"""Results of one training, or a list with one entry for each seed. An entry is a test result, or counts (N,C,3) of each
image and class: true positives, pixels of the truth, predicted pixels."""


@dataclass(frozen=True)
class MiouDifference:
    """mIoU of b minus mIoU of a, with its 95 % interval and the verdict on b. Printed, it is a sentence.

    verdict: better, worse, equal (within the margin) or undecided. With one seed on a side it is ahead or behind: this
    holds for these two trained networks only. p: two-sided. detectable: the true difference that is shown with a power
    of 80 %. classes: bool (C,), the classes of the mIoU. NaN: not defined.
    """

    difference: float
    low: float
    high: float
    p: float
    verdict: Verdict
    detectable: float
    classes: np.ndarray
    sentence: str
    warnings: Sequence[str] = ()

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self.warnings])


def compare(
    a: Tests, b: Tests, *, names: tuple[str, str] | None = None, min_images: int = 20, margin: float = 0.005,
    groups: Sequence[Hashable] | None = None,
) -> MiouDifference:  # fmt: skip
    """Compare b with a on the same images: difference of mIoU, 95 % interval over images and seeds, verdict.

    names: of a and b in the sentence (None: the variants of the results, such as the class of the network).
    min_images: the mIoU is over the classes that occur in at least this many images and in two groups; if there are
    none, it is over all classes with truth and there is no verdict. margin: differences within ±margin count as equal.
    groups: a label for each image, equal for images that are not independent (None: the groups of the results).
    Tests that saw the images at different sizes are compared at original size. Raises DataError if the results have
    different images, truths or classes.
    """
    sides = [_results(tests, name, groups) for tests, name in ((a, "a"), (b, "b"))]
    results = at_one_size([*sides[0], *sides[1]])
    sides = [results[: len(sides[0])], results[len(sides[0]) :]]
    first, other = sides[0][0], sides[1][0]
    for result in results:
        _check_same_images(first, result)
    names = names or (first.variant, other.variant)
    if names[0] == names[1]:
        names = f"{names[0]} a".strip(), f"{names[1]} b".strip()
    plan = Plan(margin=margin, min_images=min_images)
    setting, warnings = comparison_settings(first, plan)
    miou = {name: samples_of_miou(runs, setting.scored) for name, runs in zip(names, sides, strict=True)}
    (found,) = compare_pairs(miou, [(Side(names[0], [names[0]]), Side(names[1], [names[1]]))], setting, plan)
    return MiouDifference(
        found.delta, found.low, found.high, found.p, found.verdict, found.detectable, setting.scored, found.words,
        warnings + few_images(first, setting.clusters),
    )  # fmt: skip


def _results(tests: Tests, name: str, groups: Sequence[Hashable] | None) -> list[TestResult]:
    """The results of one side; arrays get the seeds 0, 1, 2, …"""
    several = list(tests) if isinstance(tests, list | tuple) else [tests]
    if not several:
        raise DataError(f"{name} is an empty list: give at least one result")
    results = []
    for seed, each in enumerate(several):
        if not isinstance(each, TestResult):
            counts = np.asarray(each)
            if counts.ndim != 3 or counts.shape[2] != 3:
                raise DataError(
                    f"{name}: an array of shape {counts.shape}\n"
                    "  expected: (images, classes, 3), the last axis: true positives, truth, predicted"
                )
            each = replace(TestResult.from_counts(*np.moveaxis(counts, 2, 0), seed=seed), variant=name)
        if groups is not None and len(groups) != len(each.names):
            raise DataError(f"groups: {len(groups)} labels for {len(each.names)} images; each image needs one")
        results.append(each if groups is None else replace(each, groups=[str(label) for label in groups]))
    return results


def _check_same_images(first: TestResult, other: TestResult) -> None:
    if list(first.names) != list(other.names):
        raise DataError(
            f"results can only be compared on the same images in the same order; found {len(first.names)} and "
            f"{len(other.names)} images, or different names"
        )
    if list(first.classes) != list(other.classes):
        raise DataError(f"results with different classes cannot be compared: {first.classes} and {other.classes}")
    if not np.array_equal(first.counts.truth, other.counts.truth):
        raise DataError("results can only be compared on the same truth; the numbers of true pixels differ")

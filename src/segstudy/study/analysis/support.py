"""Independent clusters of images, and classes that occur in enough images for a verdict."""

from collections.abc import Sequence

import numpy as np

from segstudy.study.analysis.plan import Plan
from segstudy.study.analysis.samples import ComparisonSettings
from segstudy.study.results import TestResult
from segstudy.study.statistics.influence import number_groups
from segstudy.study.statistics.interval import FEW_GROUPS, small_sample_warning

BLOCK = 20
"""Consecutive images that form a cluster if there are too few groups for an interval (results/statistics.md)."""


def comparison_settings(test: TestResult, plan: Plan) -> tuple[ComparisonSettings, list[str]]:
    """The settings for comparing tests on these images, and warnings. The mIoU is over the supported classes, or over
    all classes with truth if none is supported."""
    clusters, warnings = clusters_of(test)
    held = in_images(test)
    supported = supported_classes(held, plan.min_images, clusters)
    if supported.any():
        number = int(supported.sum())
        name = f"mIoU of the {number} class{'es' * (number > 1)} in {plan.min_images} or more images"
        name = "mIoU" if number == held.any(0).sum() else name
        return ComparisonSettings(supported, True, clusters, plan.pair_seeds, miou_name=name), warnings
    unsupported = (
        f"no class has truth in {plan.min_images} images (report.min_images): the mIoU is over all classes with truth, "
        "its intervals are rough, and its differences get no verdict"
    )
    return ComparisonSettings(np.asarray(held.any(0)), False, clusters, plan.pair_seeds), [unsupported, *warnings]


def in_images(test: TestResult) -> np.ndarray:
    """Which classes each image contains, bool (N,C); at original size if that was counted."""
    return (test.counts if test.original is None else test.original).truth > 0


def supported_classes(in_images: np.ndarray, min_images: int, clusters: Sequence[str] | None = None) -> np.ndarray:
    """Classes that enter the verdicts, bool (C,): those in at least `min_images` images and two clusters.

    in_images: which classes each image contains, bool (N,C).
    """
    in_clusters = in_images
    if clusters is not None:
        labels = number_groups(clusters, len(in_images))
        in_clusters = np.zeros((labels.max() + 1, in_images.shape[1]), bool)
        np.logical_or.at(in_clusters, labels, in_images)
    return (in_images.sum(0) >= min_images) & (in_clusters.sum(0) > 1)


def clusters_of(test: TestResult) -> tuple[list[str] | None, list[str]]:
    """A label for each image, equal for images that are not independent (None: all are independent), and warnings.

    With fewer than 10 groups, blocks of 20 consecutive images of a group are used instead.
    """
    groups = list(test.groups)
    distinct = len(set(groups))
    if distinct == len(groups):
        return None, []
    if distinct >= FEW_GROUPS:
        return groups, [f"intervals are over {distinct} groups of images: images of one group are not independent"]
    seen: dict[str, int] = {}
    clusters = []
    for group in groups:
        place = seen[group] = seen.get(group, -1) + 1
        clusters.append(f"{group} {place // BLOCK}")
    return clusters, [
        f"{distinct} groups of images are too few for an interval: intervals are over {len(set(clusters))} blocks of "
        f"{BLOCK} consecutive images of a group"
    ]


def few_images(test: TestResult, clusters: Sequence[str] | None) -> list[str]:
    """A warning if intervals come from few images or clusters."""
    warning = small_sample_warning(len(test.names), None if clusters is None else len(set(clusters)))
    return [warning] if warning else []

"""Samples of a variant's metrics (for each seed, the value and the influence of each image), and their comparison."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from segstudy.errors import DamagedFile
from segstudy.runs.history import read_history
from segstudy.runs.record import sealed
from segstudy.study.analysis.metrics import Metric, MetricValue, RatioTerms
from segstudy.study.results import TestResult
from segstudy.study.statistics import comparison, interval
from segstudy.study.statistics.comparison import Comparison, MetricSamples, average
from segstudy.study.statistics.influence import influence
from segstudy.study.statistics.interval import Estimate

RunsByVariant = Mapping[str, Sequence[TestResult]]

NAN = float("nan")


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of all comparisons of a group.

    scored: classes of the mIoU, bool (C,). verdicts: whether they are in enough images for a verdict. clusters: a label
    for each image, equal for images that are not independent. paired: differences are taken seed by seed.
    target: 90 % of the study's best final validation mIoU. miou_name: with its classes, if they are not all with truth.
    """

    scored: np.ndarray
    verdicts: bool
    clusters: Sequence[str] | None
    paired: bool = False
    target: float = NAN
    miou_name: str = "mIoU"

    def compare(self, a: Sequence[MetricSamples], b: Sequence[MetricSamples]) -> Comparison:
        """The mean over variants b minus the mean over variants a."""
        return comparison.compare(average(a), average(b), self.clusters, self.paired)

    def estimate(self, samples: MetricSamples | None, most: float | None = None) -> Estimate:
        """The mean over seeds with its interval, clipped to 0…most if `most` is given; NaN without samples."""
        if samples is None:
            return Estimate(NAN, NAN, NAN)
        e = interval.estimate(samples.values, samples.influences, self.clusters)
        if most is None:
            return e
        # A symmetric interval may reach beyond the possible values.
        return replace(e, low=float(np.maximum(e.low, 0)), high=float(np.minimum(e.high, most)))


def samples(runs: Sequence[TestResult], value_of: Callable[[TestResult], MetricValue | None]) -> MetricSamples | None:
    """A metric's samples, one for each seed; None if a seed has no value."""
    pairs = [pair for run in runs if (pair := value_of(run)) is not None]
    if len(pairs) < len(runs):
        return None
    return MetricSamples([value for value, _ in pairs], [each for _, each in pairs], [run.seed for run in runs])


def samples_of_ratio(
    runs: Sequence[TestResult], terms: Callable[[TestResult], RatioTerms | None], keep: np.ndarray | None = None
) -> MetricSamples | None:
    """Samples of a ratio of sums, or of the mean of such ratios over the kept columns."""

    def value_of(test: TestResult) -> MetricValue | None:
        pair = terms(test)
        return None if pair is None else influence(*pair, keep, leave_one_out=True)

    return samples(runs, value_of)


def samples_of_metric(runs: Sequence[TestResult], metric: Metric, scored: np.ndarray) -> MetricSamples | None:
    """Samples of one of METRICS; a mean over classes is over those of the mIoU."""
    has_truth = runs[0].counts.truth.sum(0) > 0
    return samples_of_ratio(runs, metric.of, scored[has_truth] if metric.by_class else None)


def samples_of_miou(runs: Sequence[TestResult], classes: np.ndarray) -> MetricSamples:
    """mIoU over these classes, bool (C,); each run has counts."""
    return samples_of_ratio(runs, lambda t: (t.counts.true_positives, t.counts.union), classes)  # type: ignore[return-value]


def history(test: TestResult) -> list[dict[str, float]]:
    """The rows of a training's history.csv; [] for masks, and without `sums`: its val mIoU is at another size, too."""
    if test.folder is None or not test.sums:
        return []
    with suppress(DamagedFile):  # the group's warnings name it
        return read_history(sealed(test.folder, "history.csv", test.record))
    return []

"""Measure each variant over its trainings."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from segstudy.errors import DamagedFile
from segstudy.files import read_csv
from segstudy.measures import calibration, operating_curve
from segstudy.measures.objects import OUTCOMES
from segstudy.study.analysis.findings import Variant
from segstudy.study.analysis.metrics import IMAGE_METRICS, METRICS, MetricValue
from segstudy.study.analysis.samples import NAN, ComparisonSettings, RunsByVariant, history, samples, samples_of_miou
from segstudy.study.results import TestResult, variant_changes
from segstudy.study.statistics.comparison import MetricSamples
from segstudy.study.statistics.influence import influence
from segstudy.study.statistics.interval import Estimate

RatioSamples = Mapping[str, MetricSamples | None]
"""The samples of a variant's METRICS."""


def measure_variants(
    seeds: RunsByVariant, setting: ComparisonSettings, ratios: Mapping[str, RatioSamples]
) -> list[Variant]:
    each = [set(t.record.get("changes", [])) for runs in seeds.values() for t in runs]
    common = set.intersection(*each) if len(seeds) > 1 else set()
    return [_measure(name, runs, setting, common, ratios[name]) for name, runs in seeds.items()]


def _measure(
    name: str, runs: Sequence[TestResult], setting: ComparisonSettings, common: set[str], ratios: RatioSamples
) -> Variant:
    records = [t.record for t in runs]
    there = runs[0].counts.truth.sum(0) > 0
    original = [replace(t, counts=t.original, original=None) for t in runs if t.original is not None]
    iou = np.mean([np.where(there, t.counts.whole().iou[0], NAN) for t in runs], 0)
    # An older version may not have written a sum, or in another shape.
    measured = [key for key in runs[0].sums if len({t.sums[key].shape if key in t.sums else None for t in runs}) == 1]
    added = {key: sum(t.sums[key].sum(0) for t in runs) for key in measured}
    return Variant(
        name=name,
        changes=_own_changes(records[0].get("changes", [name]), common),
        records=records,
        seeds=[t.seed for t in runs],
        miou=setting.estimate(samples_of_miou(runs, setting.scored), 1),
        miou_all=setting.estimate(samples_of_miou(runs, there), 1),
        miou_original=setting.estimate(samples_of_miou(original, there) if len(original) == len(runs) else None, 1),
        class_iou=iou,
        metrics=_metrics(runs, setting, ratios),
        outcomes=_shares(added["outcomes"]) if "outcomes" in added else {},
        histograms=_histograms(added),
        offsets=operating_curve.curve(added, setting.scored),
        confused=_confused(runs),
        reliability={
            region: calibration.reliability(*calibration.fine_bins(added, region))
            for region in calibration.REGIONS
            if f"confidence_{region}_pixels" in added
        },
        history=[history(t) for t in runs if t.folder],
        folders=[t.folder for t in runs if t.folder],
        inspected=inspected(runs),
    )


def _own_changes(changes: Sequence[str], common: set[str]) -> str:
    """The changes that not all variants share; a path is shortened to its file's name."""
    kept = [c.partition("=") for c in variant_changes(changes) if c not in common]
    return " ".join(f"{key}{equals}{value.rsplit('/', 1)[-1]}" for key, equals, value in kept)


def _metrics(runs: Sequence[TestResult], setting: ComparisonSettings, ratios: RatioSamples) -> dict[str, Estimate]:
    """All metrics of a variant, some without an interval; without `sums`, those from counts alone."""
    found = {m.name: setting.estimate(ratios[m.name], m.most) for m in METRICS if runs[0].sums or m.from_counts}
    measured = {name: samples(runs, value_of) for name, value_of in IMAGE_METRICS.items()}
    found |= {name: setting.estimate(each, 1) for name, each in measured.items() if each is not None}
    for region in calibration.REGIONS:
        if all(f"confidence_{region}_pixels" in t.sums for t in runs):
            found[f"ece_{region}"] = setting.estimate(samples(runs, partial(_ece, region=region)))
            areas = [
                calibration.risk_coverage(*(x.sum(0) for x in calibration.fine_bins(t.sums, region))) for t in runs
            ]
            found[f"risk_coverage_{region}"] = Estimate(float(np.mean(areas)), NAN, NAN, len(runs))
    return found


def _ece(test: TestResult, region: str) -> MetricValue:
    terms = calibration.ece_influence_terms(*calibration.fine_bins(test.sums, region))
    return influence(*terms, leave_one_out=True)


def _shares(counts: np.ndarray) -> dict[str, float]:
    total = counts.sum()
    return {name: float(counts[i] / total) for i, name in enumerate(OUTCOMES)} if total else {}


def _histograms(added: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    counts = {key: added[f"{key}_histogram"] for key in ("found", "purity") if f"{key}_histogram" in added}
    return {key: n / n.sum() for key, n in counts.items() if n.sum()}


def _confused(runs: Sequence[TestResult], most: int = 10) -> list[tuple[str, str, float]]:
    """The most frequent confusions (truth, prediction), with their share of the truth's pixels."""
    matrices = [t.counts.confusion for t in runs if t.counts.confusion is not None]
    if not matrices:
        return []
    confusion, classes = np.sum(matrices, 0), runs[0].classes
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(wrong, axis=None)[::-1][:most]
    return [
        (classes[truth], classes[guess], float(wrong[truth, guess] / confusion[truth].sum()))
        for truth, guess in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[truth, guess]
    ]


def inspected(runs: Sequence[TestResult]) -> list[tuple[str, str]] | None:
    """(layer, flags) from the model inspector's last report of the first run that has one; None without any."""
    for test in runs:
        places = (test.folder / "inspector").glob("*.csv") if test.folder else []
        files = sorted(place for place in places if place.is_file())  # opening a pipe would block
        if files:
            with suppress(DamagedFile):  # the group's warnings name it
                return [(row.get("layer", ""), row["flags"]) for row in read_csv(files[-1]) if row.get("flags")]
    return None

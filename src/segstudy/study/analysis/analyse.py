"""From test results to findings: each variant's metrics, planned differences with verdicts, claims, warnings."""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.console import format_fraction, format_range, format_signed
from segstudy.measures import calibration, operating_curve
from segstudy.measures.objects import OUTCOMES
from segstudy.study.analysis import time_to_accuracy, verdicts
from segstudy.study.analysis.claims import (
    ComparisonSettings,
    history,
    judge_claims,
    samples_of_image_metric,
    samples_of_metric,
    samples_of_ratio,
)
from segstudy.study.analysis.findings import Difference, Findings, Group, Variant
from segstudy.study.analysis.metrics import IMAGE_METRICS, METRICS, RatioTerms
from segstudy.study.analysis.plan import Plan, Side, read_plan
from segstudy.study.analysis.significance import significant_differences
from segstudy.study.results import TestResult, read_study, runs_by_variant, variant_changes
from segstudy.study.statistics import bootstrap, comparison, influence, multiplicity
from segstudy.study.statistics.comparison import Estimate, MetricSamples

BLOCK = 20
"""Consecutive images that form a cluster where there are too few groups for an interval (results/statistics.md)."""

NAN = float("nan")


def analyse_study(folder: Path, plan: Plan | None = None) -> tuple[Findings, list[list[TestResult]]]:
    """What a folder of runs says, and the tests of each of its groups. Raises DataError if it holds no run."""
    plan = read_plan(folder) if plan is None else plan
    tests, left_out = read_study(folder)
    titles = [_title(members[0]) for members in tests]
    # Groups that differ in their classes or background alone share a title, by which their pictures are known.
    titles = [t if titles.count(t) == 1 else f"{t} (table {i})" for i, t in enumerate(titles, 1)]
    groups = [analyse(members, plan, title) for members, title in zip(tests, titles, strict=True)]
    return Findings(folder.resolve().name, first_sentence(groups), groups, left_out), tests


def analyse(tests: Sequence[TestResult], plan: Plan, title: str) -> Group:
    """Variants, differences and claims of tests on the same images."""
    seeds = runs_by_variant(tests)
    first = tests[0]
    class_images = in_images(first).sum(0)
    clusters, warnings = clusters_of(first)
    supported, said = supported_classes(in_images(first), plan.min_images, clusters)
    warnings = said + warnings
    scored = supported if supported.any() else class_images > 0
    common = shared_changes(seeds)
    ratios = {name: {f.name: samples_of_metric(runs, f, scored) for f in METRICS} for name, runs in seeds.items()}
    variants = [_variant(name, runs, scored, clusters, common, ratios[name]) for name, runs in seeds.items()]
    target = time_to_accuracy.target_miou(rows for v in variants for rows in v.history)
    variants = [replace(v, metrics={**v.metrics, **times_to_accuracy(v.history, target)}) for v in variants]
    measured = {
        name: m
        for name, runs in seeds.items()
        if (m := samples_of_ratio(runs, lambda t: (t.counts.true_positives, t.counts.union), scored)) is not None
    }
    setting = ComparisonSettings(scored, bool(supported.any()), clusters, plan.pair_seeds, target)
    pairs, absent = planned_pairs(seeds, plan)
    warnings += absent
    differences, comparisons = compare_pairs(measured, pairs, setting, plan)
    warnings += _warnings(tests, variants, supported, comparisons, clusters, plan.min_images)
    if plan.pair_seeds and len({tuple(v.seeds) for v in variants}) > 1:
        warnings.append("not all variants have the same seeds: those with others are compared without pairs of seeds")
    warnings += cross_checks(seeds, scored, clusters)
    return Group(
        title=title,
        classes=list(first.classes),
        palette=[tuple(rgb) for rgb in first.record.get("palette", ())],
        background=first.background,
        images=len(first.names),
        clusters=len(first.names) if clusters is None else len(set(clusters)),
        class_images=class_images,
        supported=supported,
        variants=variants,
        differences=differences,
        claims=judge_claims(plan, seeds, setting, differences),
        most_influential=most_influential_images(first.names, measured, differences),
        warnings=warnings,
        min_images=plan.min_images,
        margin=plan.margin,
        paired=plan.pair_seeds,
        target=target,
        significant=significant_differences(seeds, ratios, pairs, setting),
    )


def in_images(test: TestResult) -> np.ndarray:
    """Which classes each image holds, bool (N,C): at its original size, where that was counted."""
    return (test.counts if test.original is None else test.original).truth > 0


def supported_classes(
    in_images: np.ndarray, min_images: int, clusters: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Classes that enter the verdicts (C,): in at least `min_images` images and two clusters; a warning without any.

    in_images: bool (N,C), as of the function of that name.
    """
    in_units = in_images
    if clusters is not None:
        labels = np.unique(clusters, return_inverse=True)[1]
        in_units = np.zeros((labels.max() + 1, in_images.shape[1]), bool)
        np.logical_or.at(in_units, labels, in_images)
    supported = (in_images.sum(0) >= min_images) & (in_units.sum(0) > 1)
    if supported.any():
        return supported, []
    return supported, [
        f"no class has truth in {min_images} images (report.min_images): the mIoU is over all classes with truth, its "
        "intervals are rough, and no difference of it gets a verdict"
    ]


def clusters_of(test: TestResult) -> tuple[list[str] | None, list[str]]:
    """A label for each image, equal where images are not independent (None: all are), and warnings.

    Where there are fewer than 10 groups, blocks of 20 consecutive images of a group are used instead.
    """
    groups = list(test.groups)
    distinct = len(set(groups))
    if distinct == len(groups):
        return None, []
    if distinct >= comparison.FEW_GROUPS:
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


def planned_pairs(
    variants: Mapping[str, Sequence[TestResult]], plan: Plan
) -> tuple[list[tuple[Side, Side]], list[str]]:
    """(a, b) for each planned comparison, without a plan each variant against the one before; and a warning about
    planned pairs without runs."""
    if not plan.pairs:
        return [(Side(a, [a]), Side(b, [b])) for a, b in itertools.pairwise(variants)], []
    changes = {name: runs[0].record.get("changes", [name]) for name, runs in variants.items()}
    pairs = [(Side.of(a, changes), Side.of(b, changes)) for a, b in plan.pairs]
    absent = [f"{b.name} against {a.name}" for a, b in pairs if not (a.variants and b.variants)]
    said = [f"planned, but not in this study: {'; '.join(absent)}"] if absent else []
    return [(a, b) for a, b in pairs if a.variants and b.variants], said


def compare_pairs(
    measured: Mapping[str, MetricSamples],
    pairs: Sequence[tuple[Side, Side]],
    setting: ComparisonSettings,
    plan: Plan,
) -> tuple[list[Difference], list[comparison.Comparison]]:
    """The planned differences of mIoU with verdicts, all in one family; all undecided without supported classes."""
    compared = {}
    for a, b in pairs:
        against, variant = (comparison.average([measured[name] for name in side.variants]) for side in (a, b))
        compared[a.name, b.name] = comparison.compare(against, variant, setting.clusters, setting.paired)
    decided = multiplicity.decide(compared, plan.margin)
    scatter = seed_deviation(measured)
    differences = []
    for (left, right), c in compared.items():
        d = decided[left, right]
        words = verdicts.verdict_sentence(left, right, "mIoU", c, d, plan.margin, scatter)
        if not setting.verdicts:
            d = replace(d, verdict="undecided")
            words = (
                f"no verdict: no class has truth in {plan.min_images} images. {right} − {left} in mIoU over all "
                f"classes with truth is {format_signed(c.delta)} ({format_range(d.wide_low, d.wide_high)})"
            )
        differences.append(
            Difference(
                left, right, "miou", c.delta, c.low, c.high,
                d.wide_low, d.wide_high, d.p, d.verdict, d.detectable, words,
            )
        )  # fmt: skip
    return differences, list(compared.values())


def seed_deviation(measured: Mapping[str, MetricSamples]) -> float | None:
    """The root mean square SD over seeds of the variants that have more than one; None without any."""
    variances = [np.var(m.values, ddof=1) for m in measured.values() if len(m.values) > 1]
    return float(np.sqrt(np.mean(variances))) if variances else None


def shared_changes(seeds: Mapping[str, Sequence[TestResult]]) -> set[str]:
    """The changes that all runs of all variants share."""
    each = [set(t.record.get("changes", [])) for runs in seeds.values() for t in runs]
    return set.intersection(*each) if len(seeds) > 1 else set()


def own_changes(changes: Sequence[str], common: set[str]) -> str:
    """The changes of this variant that not all share; of a path, its file."""
    kept = [c.partition("=") for c in variant_changes(changes) if c not in common]
    return " ".join(f"{key}{equals}{value.rsplit('/', 1)[-1]}" for key, equals, value in kept)


def _variant(
    name: str,
    runs: Sequence[TestResult],
    scored: np.ndarray,
    clusters: Sequence[str] | None,
    common: set[str],
    ratios: Mapping[str, MetricSamples | None],
) -> Variant:
    records = [t.record for t in runs]
    there = runs[0].counts.truth.sum(0) > 0
    matrices = [t.counts.confusion for t in runs if t.counts.confusion is not None]
    measured = [key for key in runs[0].sums if len({t.sums[key].shape if key in t.sums else None for t in runs}) == 1]
    added = {key: sum(t.sums[key].sum(0) for t in runs) for key in measured}
    outcomes, areas = added["outcomes"], added["outcome_areas"]

    def miou(keep: np.ndarray, original: bool = False) -> Estimate:
        def terms(t: TestResult) -> RatioTerms | None:
            counts = t.original if original else t.counts
            return None if counts is None else (counts.true_positives, counts.union)

        m = samples_of_ratio(runs, terms, keep)
        return (
            Estimate(NAN, NAN, NAN, len(runs)) if m is None else comparison.estimate(m.values, m.influences, clusters)
        )

    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.mean([np.where(there, t.counts.true_positives.sum(0) / t.counts.union.sum(0), NAN) for t in runs], 0)
    return Variant(
        name=name,
        changes=own_changes(records[0].get("changes", [name]), common),
        records=records,
        seeds=[t.seed for t in runs],
        miou=miou(scored),
        miou_all=miou(there),
        miou_original=miou(there, original=True),
        class_iou=iou,
        metrics=variant_metrics(runs, clusters, ratios),
        outcomes=_shares(outcomes),
        outcome_areas=_shares(areas),
        histograms=_histograms(added),
        offsets=operating_curve.curve(added, scored),
        confused=_confused(np.sum(matrices, 0), runs[0].classes) if matrices else (),
        reliability=_reliability(added),
        history=[history(t) for t in runs if t.folder],
        folders=[t.folder for t in runs if t.folder],
        inspected=_inspected(runs),
    )


def variant_metrics(
    runs: Sequence[TestResult], clusters: Sequence[str] | None, ratios: Mapping[str, MetricSamples | None]
) -> dict[str, Estimate]:
    """Every metric of a variant, some without an interval. ratios: the samples of METRICS."""
    found = {}
    for metric in METRICS:
        m = ratios[metric.name]
        if m is None:
            found[metric.name] = Estimate(NAN, NAN, NAN, len(runs))
            continue
        e = comparison.estimate(m.values, m.influences, clusters)
        # A symmetric interval may reach beyond 0 or the largest possible value: cut there.
        found[metric.name] = replace(e, low=float(np.maximum(e.low, 0)), high=float(np.minimum(e.high, metric.most)))
    for name, value_of in IMAGE_METRICS.items():
        m = samples_of_image_metric(runs, value_of)
        e = comparison.estimate(m.values, m.influences, clusters)
        found[name] = replace(e, low=float(np.maximum(e.low, 0)), high=float(np.minimum(e.high, 1)))
    for region in ("all", "foreground", "edge"):
        if all(f"confidence_{region}_pixels" in t.sums for t in runs):
            bins = [calibration.fine_bins(t.sums, region) for t in runs]
            pairs = [influence.influence(*calibration.ece_influence_terms(*b), leave_one_out=True) for b in bins]
            found[f"ece_{region}"] = comparison.estimate(
                [v for v, _ in pairs], [influences for _, influences in pairs], clusters
            )
            areas = [calibration.risk_coverage(*(x.sum(0) for x in b)) for b in bins]
            found[f"risk_coverage_{region}"] = Estimate(float(np.mean(areas)), NAN, NAN, len(runs))
    return found


def times_to_accuracy(histories: Sequence[time_to_accuracy.History], target: float) -> dict[str, Estimate]:
    """epochs_to_90 and seconds_to_90, means over the trainings; NaN where one never reached the target."""
    if math.isnan(target) or not histories:
        return {}
    when = [time_to_accuracy.time_to_target(rows, target) for rows in histories]
    means = {what: float(np.mean([getattr(w, what) for w in when])) for what in ("epochs", "seconds")}
    return {f"{what}_to_90": Estimate(value, NAN, NAN, len(when)) for what, value in means.items()}


def _shares(counts: np.ndarray) -> dict[str, float]:
    total = counts.sum()
    return {name: float(counts[i] / total) for i, name in enumerate(OUTCOMES)} if total else {}


def _histograms(added: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    counts = {key: added[f"{key}_histogram"] for key in ("found", "purity") if f"{key}_histogram" in added}
    return {key: n / n.sum() for key, n in counts.items() if n.sum()}


def _confused(confusion: np.ndarray, classes: Sequence[str], most: int = 10) -> list[tuple[str, str, float]]:
    """The most frequent confusions (truth, prediction), with their share of the truth's pixels."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(wrong, axis=None)[::-1][:most]
    found = []
    for truth, guess in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[truth, guess]:
            part = wrong[truth, guess] / confusion[truth].sum()
            found.append((classes[truth], classes[guess], float(part)))
    return found


def _reliability(added: Mapping[str, np.ndarray]) -> dict[str, list[tuple[float, float, float]]]:
    regions = [r for r in ("all", "foreground", "edge") if f"confidence_{r}_pixels" in added]
    return {r: calibration.reliability(*calibration.fine_bins(added, r)) for r in regions}


def _inspected(runs: Sequence[TestResult]) -> list[tuple[str, str]] | None:
    """(layer, flags) of the model inspector's last report, of the first run that has one."""
    for test in runs:
        places = (test.folder / "inspector").glob("*.csv") if test.folder else []
        files = sorted(place for place in places if place.is_file())  # a pipe would be waited for
        if files:
            with files[-1].open(newline="") as file:
                return [(row["layer"], row["flags"]) for row in csv.DictReader(file) if row.get("flags")]
    return None


def most_influential_images(
    names: Sequence[str], measured: Mapping[str, MetricSamples], differences: Sequence[Difference], most: int = 6
) -> list[tuple[int, str, float]]:
    """(index, name, share) of the images with the most influence on the planned difference of the smallest p-value.

    share: of the sum of all images' absolute influences; positive: in favour of variant b.
    """
    known = [d for d in differences if d.a in measured and d.b in measured and not math.isnan(d.p)]
    if not known:
        return []
    clearest = min(known, key=lambda d: d.p)
    influences = (
        np.mean(measured[clearest.b].influences, 0) - np.mean(measured[clearest.a].influences, 0) + clearest.delta
    )
    size = np.abs(influences).sum()
    if not size > 0:
        return []
    order = np.argsort(-np.abs(influences))[:most]
    return [(int(i), names[i], float(influences[i] / size)) for i in order]


def cross_checks(
    seeds: Mapping[str, Sequence[TestResult]], scored: np.ndarray, clusters: Sequence[str] | None
) -> list[str]:
    """A warning for each variant whose standard errors by influence and by bootstrap (10,000 draws) differ by over
    15 %, or whose standard error cannot be checked."""
    first = [runs[0] for runs in seeds.values()]
    tops, bottoms = (np.stack([getattr(t.counts, key) for t in first]) for key in ("true_positives", "union"))
    draws = bootstrap.bootstrap(tops[:, :, scored], bottoms[:, :, scored], groups=clusters)
    said = []
    for column, (name, test) in enumerate(zip(seeds, first, strict=True)):
        _, influences = influence.influence(test.counts.true_positives, test.counts.union, scored, leave_one_out=True)
        off = bootstrap.cross_check(influence.image_error(influences, clusters), draws[:, column])
        if math.isnan(off):
            said.append(
                f"{name}: its standard error cannot be checked by resampling: a class is in so few images that many "
                "draws lack it, or nothing varies over images; its intervals are rough"
            )
        elif abs(off) > bootstrap.DISAGREEMENT:
            said.append(
                f"{name}: its standard error by resampling is {abs(off):.0%} {'larger' if off > 0 else 'smaller'} than "
                "by influence: its intervals are rough"
            )
    return said


def _warnings(
    tests: Sequence[TestResult],
    variants: Sequence[Variant],
    supported: np.ndarray,
    comparisons: Sequence[comparison.Comparison],
    clusters: Sequence[str] | None,
    min_images: int,
) -> list[str]:
    first = tests[0]
    said = []
    if rough := comparison.small_sample_warning(len(first.names), None if clusters is None else len(set(clusters))):
        said.append(rough)
    if first.folder is None:
        said.append("each folder is one set of predictions: the results hold for these predictions, not for the method")
    elif any(len(v.seeds) == 1 for v in variants) and comparisons:
        said.append(
            "variants with one seed: their results hold for these trained networks, not for the variants; "
            "seed=0,1,2 trains three of each"
        )
    images = in_images(first).sum(0)
    rare = [
        f"{name} ({n} image{'s' if n > 1 else ''})"
        for name, n, s in zip(first.classes, images, supported, strict=True)
        if n and not s
    ]
    if rare and supported.any():
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        named = f"class{'es' * (len(rare) > 1)} {', '.join(rare[:5])}{more}"
        said.append(f"{named}: in the mIoU over all classes, but not in the verdicts (report.min_images={min_images})")
    if any(t.folder is not None and "offset_margins" not in t.sums for t in tests if t.background is not None):
        said.append(
            "some runs were tested by an older version: boundary F and comparisons at equal spill are n/a "
            "→ segstudy evaluate RUN --retest"
        )
    if first.background is not None and len(first.classes) > 2:
        objects = np.delete(in_images(first), first.background, 1).sum(1)
        alone = (objects == 1).mean()
        if alone > 0.5:
            said.append(
                f"{alone:.0%} of the images hold one class of objects: there, every wrong label is of an absent class, "
                "so hallucinated and mislabelled count the same pixels"
            )
    if first.record.get("reproduce"):
        said.append(
            "selected and reported as their authors did (reproduce=as_published): compare these figures "
            "with the published ones, never with those of other runs"
        )
    for v in variants:
        if any(r.get("selected_on_reported") for r in v.records):
            said.append(
                f"{v.name} was selected on the reported split: its figures are optimistic (data.select_fraction=.1)"
            )
        if any("(" in str(r.get("encoder_weights")) for r in v.records):
            said.append(
                f"{v.name}: ImageNet weights were asked for but not available; its encoder started from random weights"
            )
    budgets = {r.get("steps") for v in variants for r in v.records}
    if len(budgets) > 1:
        steps = ", ".join(str(b) for b in sorted(budgets, key=lambda budget: budget or 0))
        said.append(f"the runs had different budgets: {steps} steps")
    return said


def _title(test: TestResult) -> str:
    data: Mapping[str, Any] = test.record["data"]
    size = "×".join(map(str, data["size"]))
    protocol = f", {data['protocol']}" if data.get("protocol") else ""
    report = data["roles"]["report"]
    published = ", selected as published" if test.record.get("reproduce") else ""
    return f"{data['name']} at {size}{protocol}{published}: {report['images']} images of {report['split']!r}"


def first_sentence(groups: Sequence[Group]) -> str:
    """The result in a sentence or two."""
    said = []
    for group in groups:
        best = max(group.variants, key=lambda v: -1 if math.isnan(v.miou.value) else v.miou.value)
        classes = int(group.scored.sum())
        number = len(group.variants)
        miou = format_fraction(best.miou.value)
        text = f"{best.name} has the highest mIoU ({miou} over {classes} classes) of {number} variants"
        if group.differences:
            verdicts = [f"{d.b} {VERDICTS[d.verdict]} {d.a} ({format_signed(d.delta)})" for d in group.differences]
            text += "; " + ", ".join(verdicts)
        said.append(text + ".")
    return " ".join(said) or "No finished run could be compared."


VERDICTS = {
    "better": "is better than",
    "worse": "is worse than",
    "equal": "equals",
    "undecided": "is undecided against",
    "ahead": "(this training) is ahead of",
    "behind": "(this training) is behind",
}

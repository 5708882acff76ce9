"""Turns test results into findings: metrics of each variant, planned differences with verdicts, claims, warnings."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.formatting import format_interval, format_signed
from segstudy.runs.headline import headline_words, same_size
from segstudy.study.analysis import time_to_accuracy, verdicts
from segstudy.study.analysis.claims import judge_claims
from segstudy.study.analysis.findings import Difference, Findings, Group
from segstudy.study.analysis.metrics import METRICS
from segstudy.study.analysis.plan import Plan, Side, read_plan
from segstudy.study.analysis.samples import ComparisonSettings, RunsByVariant, samples_of_metric, samples_of_miou
from segstudy.study.analysis.significance import significant_differences
from segstudy.study.analysis.support import comparison_settings, in_images
from segstudy.study.analysis.titles import variant_titles
from segstudy.study.analysis.variants import measure_variants
from segstudy.study.analysis.warnings import cross_checks, group_warnings
from segstudy.study.results import NOT_COMPARED, TestResult, read_study, runs_by_variant
from segstudy.study.statistics import multiplicity
from segstudy.study.statistics.comparison import MetricSamples


def analyse_study(folder: Path, plan: Plan | None = None) -> tuple[Findings, list[list[TestResult]]]:
    """The findings of a study's folder, and the test results of each group. Raises DataError if it holds no run."""
    plan = read_plan(folder) if plan is None else plan
    tests, left_out = read_study(folder)
    titles = [_title(members) for members in tests]
    # Groups that differ only in classes or background have the same title; pictures are found by title.
    titles = [t if titles.count(t) == 1 else f"{t} (table {i})" for i, t in enumerate(titles, 1)]
    groups = [analyse(members, plan, title) for members, title in zip(tests, titles, strict=True)]
    return Findings(folder.resolve().name, verdicts.first_sentence(groups), groups, left_out), tests


def analyse(tests: Sequence[TestResult], plan: Plan, title: str) -> Group:
    """The findings of tests on the same images."""
    seeds, first = runs_by_variant(tests), tests[0]
    setting, warnings = comparison_settings(first, plan)
    ratios = {
        name: {f.name: samples_of_metric(runs, f, setting.scored) for f in METRICS} for name, runs in seeds.items()
    }
    miou = {name: samples_of_miou(runs, setting.scored) for name, runs in seeds.items()}
    variants = measure_variants(seeds, setting, ratios)
    setting = replace(setting, target=time_to_accuracy.target_miou(rows for v in variants for rows in v.history))
    titles = variant_titles(seeds)
    variants = [
        replace(
            v,
            title=titles[v.name],
            metrics={**v.metrics, **time_to_accuracy.times_to_accuracy(v.history, setting.target)},
        )
        for v in variants
    ]
    pairs, absent = planned_pairs(seeds, plan)
    differences = compare_pairs(miou, pairs, setting, plan)
    warnings += absent + group_warnings(tests, variants, setting, plan, compared=bool(differences))
    group = Group(
        title=title,
        classes=list(first.classes),
        palette=[tuple(rgb) for rgb in first.record.get("palette", ())],
        background=first.background,
        images=len(first.names),
        clusters=len(first.names) if setting.clusters is None else len(set(setting.clusters)),
        class_images=in_images(first).sum(0),
        supported=setting.scored & setting.verdicts,
        variants=variants,
        differences=differences,
        claims=judge_claims(plan, seeds, setting, differences),
        most_influential=most_influential_images(first.names, miou, differences),
        warnings=warnings + cross_checks(seeds, setting),
        min_images=plan.min_images,
        margin=plan.margin,
        paired=plan.pair_seeds,
        target=setting.target,
        significant=significant_differences(seeds, ratios, pairs, setting),
        miou_name=setting.miou_name,
    )
    return replace(group, sentence=" ".join([verdicts.result_sentence(group), *_not_compared(tests)]))


def planned_pairs(variants: RunsByVariant, plan: Plan) -> tuple[list[tuple[Side, Side]], list[str]]:
    """(a, b) for each planned comparison, and a warning about planned pairs without runs. Without a plan, each variant
    is compared with the one before it."""
    if not plan.pairs:
        return [(Side(a, [a]), Side(b, [b])) for a, b in itertools.pairwise(variants)], []
    changes = {name: runs[0].record.get("changes", [name]) for name, runs in variants.items()}
    pairs = [(Side.of(a, changes), Side.of(b, changes)) for a, b in plan.pairs]
    absent = [f"{b.name} against {a.name}" for a, b in pairs if not (a.variants and b.variants)]
    warnings = [f"planned, but not in this study: {'; '.join(absent)}"] if absent else []
    return [(a, b) for a, b in pairs if a.variants and b.variants], warnings


def compare_pairs(
    miou: Mapping[str, MetricSamples], pairs: Sequence[tuple[Side, Side]], setting: ComparisonSettings, plan: Plan
) -> list[Difference]:
    """The planned differences of mIoU with verdicts, all in one family; all undecided without supported classes."""
    compared = {
        (a.name, b.name): setting.compare([miou[name] for name in a.variants], [miou[name] for name in b.variants])
        for a, b in pairs
    }
    decided = multiplicity.decide(compared, plan.margin)
    deviation = seed_deviation(miou)
    differences = []
    for (a, b), c in compared.items():
        d = decided[a, b]
        d = replace(d, wide_low=max(d.wide_low, -1.0), wide_high=min(d.wide_high, 1.0))  # no difference is larger
        words = verdicts.verdict_sentence(a, b, setting.miou_name, c, d, plan.margin, deviation)
        needed = verdicts.what_would_decide(c, d)
        if not setting.verdicts:
            d = replace(d, verdict="undecided")
            needed = f"no class has truth in {plan.min_images} images: more images are needed"
            words = (
                f"no verdict: no class has truth in {plan.min_images} images. {b} − {a} in mIoU over all "
                f"classes with truth is {format_signed(c.delta)} {format_interval(d.wide_low, d.wide_high)}".rstrip()
            )
        differences.append(
            Difference(
                a, b, c.delta, max(c.low, -1.0), min(c.high, 1.0), d.wide_low, d.wide_high, d.p, d.verdict,
                d.detectable, words, c.seeds, needed,
            )
        )  # fmt: skip
    return differences


def seed_deviation(measured: Mapping[str, MetricSamples]) -> float | None:
    """Standard deviation over seeds: root mean square over the variants with several seeds; None without any."""
    variances = [np.var(m.values, ddof=1) for m in measured.values() if len(m.values) > 1]
    return float(np.sqrt(np.mean(variances))) if variances else None


def most_influential_images(
    names: Sequence[str], miou: Mapping[str, MetricSamples], differences: Sequence[Difference], most: int = 6
) -> list[tuple[int, str, float]]:
    """(index, name, share) of the images with most influence on the planned differences: those of each in turn.

    share: of the sum of absolute influences of all images on that difference; positive: in favour of variant b.
    """
    ranked = []
    for d in differences:
        if d.a not in miou or d.b not in miou or math.isnan(d.delta):
            continue
        influences = np.mean(miou[d.b].influences, 0) - np.mean(miou[d.a].influences, 0) + d.delta
        shares = influences / (np.abs(influences).sum() or 1)
        ranked.append([(int(i), names[i], float(shares[i])) for i in np.argsort(-np.abs(shares), kind="stable")])
    found: dict[int, tuple[int, str, float]] = {}
    for image in itertools.chain(*zip(*ranked, strict=True)):
        if image[2] and len(found) < most:
            found.setdefault(image[0], image)
    return list(found.values())


def _not_compared(tests: Sequence[TestResult]) -> list[str]:
    """A sentence on what could not be compared, if any."""
    if all(t.sums for t in tests):
        return []
    if same_size(*(t.record for t in tests)):
        return [f"{NOT_COMPARED.capitalize()}."]
    return ["Compared at original size: the runs saw the images at different sizes; how they fail is not compared."]


def _title(tests: Sequence[TestResult]) -> str:
    data: Mapping[str, Any] = tests[0].record["data"]
    size = headline_words(*(t.record for t in tests))
    protocol = f", {data['protocol']}" if data.get("protocol") else ""
    report = data["roles"]["report"]
    published = ", selected as published" if tests[0].record.get("reproduce") else ""
    return f"{data['name']} at {size}{protocol}{published}: {report['images']} images of {report['split']!r}"

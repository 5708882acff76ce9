"""Warnings about the results of a group, a sentence each."""

import math
from collections.abc import Sequence

import numpy as np

from segstudy.errors import DamagedFile, first_line
from segstudy.formatting import format_percent
from segstudy.runs.record import sealed
from segstudy.study.analysis.findings import Variant
from segstudy.study.analysis.plan import Plan
from segstudy.study.analysis.samples import ComparisonSettings, RunsByVariant
from segstudy.study.analysis.support import few_images, in_images
from segstudy.study.results import TestResult
from segstudy.study.statistics import bootstrap_check
from segstudy.study.statistics.influence import image_error, influence


def group_warnings(
    tests: Sequence[TestResult], variants: Sequence[Variant], setting: ComparisonSettings, plan: Plan, compared: bool
) -> list[str]:
    """All warnings about a group except those about its planned pairs. compared: whether there are differences."""
    masks = tests[0].folder is None
    single = compared and any(len(v.seeds) == 1 for v in variants)
    older = any(t.folder and t.sums and "offset_margins" not in t.sums for t in tests if t.background is not None)
    mixed = plan.pair_seeds and len({tuple(v.seeds) for v in variants}) > 1
    warnings = [
        (masks, "each folder is one set of predictions: the results hold for these predictions, not for the method"),
        (single and not masks, "variants with one seed: their results hold for these trained networks, not for the "
                               "variants; seed=0,1,2 trains three of each"),
        (setting.verdicts, _rare_classes(tests[0], setting, plan.min_images)),
        (older, "an older version tested some runs: boundary F and comparisons at equal spill are n/a "
                "→ segstudy evaluate RUN --retest"),
        (True, _one_class_images(tests[0])),
        (tests[0].record.get("reproduce"), "selected and reported as in the publication (reproduce=as_published): "
                                           "compare these results with the published ones, not with other runs"),
        *((True, text) for text in _records(variants)),
        *((True, text) for test in tests for text in _damaged(test)),
        (mixed, "not all variants have the same seeds: those with different seeds are compared without pairing"),
    ]  # fmt: skip
    return few_images(tests[0], setting.clusters) + [text for holds, text in warnings if holds and text]


def _damaged(test: TestResult) -> list[str]:
    """A line for each file of a run that the report had to do without."""
    lines: list[str] = []
    if test.folder is None:
        return lines
    for name in test.record.get("files", {}):
        if not name.startswith("checkpoints/"):  # large, and not read here
            try:
                sealed(test.folder, name, test.record)
            except DamagedFile as error:
                lines.append(f"{first_line(error)}: left out here")
    return lines


def _rare_classes(test: TestResult, setting: ComparisonSettings, min_images: int) -> str:
    rare = [
        f"{name} ({n} image{'s' if n > 1 else ''})"
        for name, n, scored in zip(test.classes, in_images(test).sum(0), setting.scored, strict=True)
        if n and not scored
    ]
    if not rare:
        return ""
    more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
    named = f"class{'es' * (len(rare) > 1)} {', '.join(rare[:5])}{more}"
    return f"{named}: in the mIoU over all classes, but not in the verdicts (report.min_images={min_images})"


def _one_class_images(test: TestResult) -> str:
    if test.background is None or len(test.classes) <= 2:
        return ""
    alone = (np.delete(in_images(test), test.background, 1).sum(1) == 1).mean()
    if alone <= 0.5:
        return ""
    return (
        f"{format_percent(alone)} of the images contain only one object class: every wrong label in them is of an "
        "absent class, so hallucinated and mislabelled count the same pixels there"
    )


def _records(variants: Sequence[Variant]) -> list[str]:
    """Warnings from the records: about selection, initial weights and training budgets."""
    warnings = []
    for v in variants:
        if any(r.get("selected_on_reported") for r in v.records):
            warnings.append(
                f"{v.name} was selected on the reported split: its results are optimistic (data.select_fraction=0.1)"
            )
        if any("(" in str(r.get("encoder_weights")) for r in v.records):
            warnings.append(
                f"{v.name}: ImageNet weights were asked for but not available; its encoder started from random weights"
            )
    budgets = {r.get("steps") for v in variants for r in v.records}
    if len(budgets) > 1:
        steps = ", ".join(str(b) for b in sorted(budgets, key=lambda budget: budget or 0))
        warnings.append(f"the runs had different budgets: {steps} steps")
    return warnings


def cross_checks(seeds: RunsByVariant, setting: ComparisonSettings) -> list[str]:
    """A warning for each variant whose standard errors by influence and by bootstrap (10,000 draws) differ by more than
    15 %, or whose standard error cannot be checked."""
    first = [runs[0].counts for runs in seeds.values()]
    tops = np.stack([counts.true_positives[:, setting.scored] for counts in first])
    bottoms = np.stack([counts.union[:, setting.scored] for counts in first])
    draws = bootstrap_check.bootstrap(tops, bottoms, groups=setting.clusters)
    warnings = []
    for name, top, bottom, drawn in zip(seeds, tops, bottoms, draws.T, strict=True):
        _, influences = influence(top, bottom, leave_one_out=True)
        excess = bootstrap_check.cross_check(image_error(influences, setting.clusters), drawn)
        if math.isnan(excess):
            warnings.append(
                f"{name}: its standard error cannot be checked by bootstrap: a class is in so few images that many "
                "draws lack it, or nothing varies between images; its intervals are rough"
            )
        elif abs(excess) > bootstrap_check.DISAGREEMENT:
            warnings.append(
                f"{name}: its bootstrap standard error is {format_percent(abs(excess))} "
                f"{'larger' if excess > 0 else 'smaller'} than the one from influences: its intervals are rough"
            )
    return warnings

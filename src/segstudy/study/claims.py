"""Claims of an experiment file, held against the data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segstudy.callbacks.history import read_history
from segstudy.study import operating, pace, statistics
from segstudy.study.cells import share, signed
from segstudy.study.figures import PLAIN, Terms, Valued, by_name
from segstudy.study.findings import ClaimResult, Difference
from segstudy.study.plan import OF_SEEDS, Claim, Plan, Side
from segstudy.study.statistics import Comparison, Measured
from segstudy.study.tested import Tested

DRAWS = 400
"""Resamplings of the images for a claim at equal spill, which is no ratio of sums."""
Seeds = Mapping[str, Sequence[Tested]]


@dataclass(frozen=True)
class Setting:
    """What all comparisons share: verdict-carrying classes, units of images, paired seeds, and the val mIoU that is
    90 % of the study's best."""

    supported: np.ndarray
    units: Sequence[str] | None
    paired: bool
    target: float


def hold_claims(
    plan: Plan, seeds: Seeds, setting: Setting, differences: Sequence[Difference] = ()
) -> list[ClaimResult]:
    """Each claim of the plan with its outcome, by its own 95 % interval.

    A claim on the mIoU of a planned pair takes the interval of that pair's verdict, so that both say the same.
    """
    changes = {name: runs[0].record.get("changes", [name]) for name, runs in seeds.items()}
    planned = {(d.a, d.b): (d.wide_low, d.wide_high) for d in differences if d.figure == "miou"}
    planned |= {(b, a): (-high, -low) for (a, b), (low, high) in planned.items()}
    held = []
    for claim in plan.claims:
        against, variant = Side.of(claim.against, changes), Side.of(claim.variant, changes)
        if not (against.variants and variant.variants):
            absent = claim.variant if against.variants else claim.against
            held.append(ClaimResult(claim.say, "not measured", f"no run of {absent!r} in this study"))
            continue
        runs = [[seeds[name] for name in side.variants] for side in (against, variant)]
        found = _compare(claim, runs, setting)
        if found is None or np.isnan(found.p):
            words = f"{claim.figure} is not defined for this data, or was not measured"
            if claim.figure == "epochs_to_90":
                words = f"not every training reached a val mIoU of {share(setting.target)}, 90 % of the best"
            held.append(ClaimResult(claim.say, "not measured", words))
            continue
        pair = against.name, variant.name
        same = claim.figure == "miou" and pair in planned
        held.append(_outcome(claim, found, planned[pair] if same else (found.low, found.high)))
    return held


def _outcome(claim: Claim, compared: Comparison, wide: tuple[float, float]) -> ClaimResult:
    """Supported or refuted where the interval lies on one side of the limit, else undecided."""
    if claim.figure in OF_SEEDS and min(compared.seeds) == 1:
        words = f"{claim.figure}: {claim.variant} − {claim.against} = {signed(compared.delta)}"
        return ClaimResult(claim.say, "undecided", f"{words}; its interval is over seeds alone, and one seed has none")
    sign = 1 if claim.direction == "higher" else -1
    low, high = sorted((sign * wide[0], sign * wide[1]))
    limit = -claim.margin if claim.no_worse else claim.margin
    outcome = "supported" if low > limit else "refuted" if high < limit else "undecided"
    where = " at equal spill" if claim.at == "equal_spill" else ""
    words = (
        f"{claim.figure}{where}: {claim.variant} − {claim.against} = {signed(compared.delta)} "
        f"({signed(wide[0])} … {signed(wide[1])})"
    )
    if claim.no_worse:
        words += f", not worse by {share(claim.margin)}?"
    if min(compared.seeds) == 1 and outcome != "undecided":
        words += f"; these trainings say {outcome}, of the variants one seed says nothing"
        outcome = "undecided"
    return ClaimResult(claim.say, outcome, words)  # type: ignore[arg-type]


def _compare(
    claim: Claim,
    sides: Sequence[Sequence[Sequence[Tested]]],
    setting: Setting,
) -> Comparison | None:
    """The claimed figure of `variant` minus that of `against`; either side may be the mean of several variants."""
    if claim.at == "equal_spill":
        flat = [[t for runs in side for t in runs] for side in sides]
        found = _at_equal_spill(claim.figure, flat[0], flat[1], setting.units)
        # Trainings of several variants are no seeds of one: each variant has as many as it has.
        fewest = tuple(min(len(runs) for runs in side) for side in sides)
        return found and replace(found, seeds=(fewest[0], fewest[1]))
    measured = [[_measured(claim.figure, runs, setting) for runs in side] for side in sides]
    against, variant = ([m for m in side if m is not None] for side in measured)
    if [len(against), len(variant)] != [len(side) for side in sides]:
        return None
    return statistics.compare(statistics.pooled(against), statistics.pooled(variant), setting.units, setting.paired)


def _measured(figure: str, runs: Sequence[Tested], setting: Setting) -> Measured | None:
    if figure == "miou":
        return measure(runs, lambda t: (t.counts.hit, t.counts.union), setting.supported)
    if figure == "epochs_to_90":
        values = [pace.reached(history(t), setting.target).epochs for t in runs]
        # Scatter over seeds alone is known.
        return Measured(values, [np.zeros(len(t.names)) for t in runs], [t.seed for t in runs])
    if figure in PLAIN:
        return measure_plain(runs, PLAIN[figure])
    return measure(runs, by_name(figure).of)


def measure(
    runs: Sequence[Tested], terms: Callable[[Tested], Terms | None], keep: np.ndarray | None = None
) -> Measured | None:
    """The ratio of the terms' sums for each seed (over the kept classes); None if a seed has no terms."""
    known = [t for run in runs if (t := terms(run)) is not None]
    if len(known) < len(runs):
        return None
    pairs = [statistics.influence(top, bottom, keep, leave_one_out=True) for top, bottom in known]
    return Measured([value for value, _ in pairs], [phi for _, phi in pairs], [run.seed for run in runs])


def measure_plain(runs: Sequence[Tested], value_of: Callable[[Tested], Valued]) -> Measured:
    """The same for a figure that is no ratio of sums."""
    pairs = [value_of(t) for t in runs]
    return Measured([value for value, _ in pairs], [phi for _, phi in pairs], [t.seed for t in runs])


def _at_equal_spill(
    figure: str, against: Sequence[Tested], variant: Sequence[Tested], units: Sequence[str] | None
) -> Comparison | None:
    """`missed` or `hallucinated` with `against` brought to the spill of `variant`: images drawn again for the standard
    error over images, the scatter of the trainings for that over seeds."""
    if any("offset_cells" not in t.sums for t in (*against, *variant)):
        return None

    def delta(weights: np.ndarray, a: Sequence[Tested], b: Sequence[Tested]) -> float:
        spill = operating.at_equal_spill(_drawn(a, weights), _drawn(b, weights))
        return getattr(spill, f"{figure}_b") - getattr(spill, f"{figure}_a")

    images = len(against[0].names)
    labels = np.unique(np.arange(images) if units is None else np.array(units), return_inverse=True)[1]
    count = labels.max() + 1
    ones = np.ones(images, int)
    if math.isnan(delta(ones, against, variant)):
        return None
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    values = [delta(w[labels], against, variant) for w in draws]
    variances = [(float(np.nanvar(values)), np.inf)]
    for mine, other, flip in ((against, variant, False), (variant, against, True)):
        each = [delta(ones, other, [t]) if flip else delta(ones, [t], other) for t in mine]
        if len(each) > 1:
            variances.append((float(np.var(each, ddof=1)) / len(each), len(each) - 1))
    return statistics.from_parts(delta(ones, against, variant), variances, (len(against), len(variant)))


def _drawn(tests: Sequence[Tested], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The offsets' sums over weighted images and all tests."""
    keys = ("offset_cells", "offset_hit", "offset_predicted", "offset_truth")
    return {key: sum(np.tensordot(weights, t.sums[key], 1) for t in tests) for key in keys}  # type: ignore[misc]


def history(test: Tested) -> list[dict[str, float]]:
    """The epochs of a training; none of masks."""
    return read_history(test.folder / "history.csv") if test.folder else []

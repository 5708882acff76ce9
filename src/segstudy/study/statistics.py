"""How sure a study is: standard errors over images and seeds, differences, verdicts and the words for them.

A figure is the mean, over a fixed set of columns (classes), of a ratio of sums over images. Its standard error over
images comes from its influence function, one number an image; the seeds' scatter is added to it. All data are taken as
given: which columns are kept, which images belong together, which seeds are pairs.
"""

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

from segstudy.errors import ConfigError, DataError
from segstudy.study.findings import Estimate, Verdict

Key = TypeVar("Key", bound=Hashable)
Groups = Sequence[Hashable] | np.ndarray

LEVEL = 0.95
FEW_IMAGES, FEW_GROUPS = 50, 10
POWER = 0.8  # of showing a true difference as large as `detectable`
DISAGREEMENT = 0.15  # of the two standard errors over images: more is said in the report
TINY = 1e-12  # a standard error below it is rounding: nothing varies
WIDTH = 512  # columns of one matrix product of the bootstrap: 40 MB at 10,000 draws


@dataclass(frozen=True)
class Measured:
    """A figure of one variant: its value and its phi (N,) for each seed.

    seeds: which they are, in the same order; two variants can be paired where they have the same ones.
    """

    values: Sequence[float]
    phis: Sequence[np.ndarray]
    seeds: Sequence[Hashable] = ()


@dataclass(frozen=True)
class Comparison:
    """A figure of b minus that of a, with standard error, degrees of freedom, two-sided p and 95 % interval.

    seeds: of a and of b. image_se: the part of `se` that more images would lessen. NaN: not defined (n/a).
    """

    delta: float
    se: float
    df: float
    p: float
    low: float
    high: float
    seeds: tuple[int, int]
    image_se: float = float("nan")


@dataclass(frozen=True)
class Decision:
    """What one of several comparisons says. p and the wide interval, which the verdict is read from, are corrected for
    the number of comparisons (Bonferroni)."""

    p: float
    wide_low: float
    wide_high: float
    verdict: Verdict
    detectable: float


def influence(
    top: np.ndarray, bottom: np.ndarray, keep: np.ndarray | None = None, leave_one_out: bool = False
) -> tuple[float, np.ndarray]:
    """The figure's value, and phi (N,): n times what each image adds to it.

    top, bottom (N,) or (N,C); keep (C,), all columns if not given. With R_c = Σtop/Σbottom, B_c = Σbottom and K the
    kept columns, the value is the mean of R_c over K, phi_i = n/|K| · Σ_c (top_ic − R_c·bottom_ic)/B_c, Σ phi = 0.
    With leave_one_out, phi_i = (n − 1)·(value − value without image i), the jackknife's: B_c − bottom_ic in place of
    B_c. The same for many images; for few, phi as above makes the standard error too small (results/statistics.md).
    A kept column whose bottom sums to 0 is left out; if none is left (or n = 0), the value and phi are NaN.
    IoU loses no column that way where K holds classes with truth.
    If one image alone has a bottom in some column, phi is NaN: how that column varies over images is unknown.
    """
    top, bottom = _columns(top), _columns(bottom)
    if top.shape != bottom.shape:
        raise DataError(f"numerators {top.shape} and denominators {bottom.shape} of a figure differ in shape")
    images, sums = len(top), bottom.sum(0)
    used = _kept(keep, top.shape[1]) & (sums != 0)
    if not used.any():
        return float("nan"), np.full(images, np.nan)
    top, bottom, sums = top[:, used], bottom[:, used], sums[used]
    ratios = top.sum(0) / sums
    if ((bottom != 0).sum(0) == 1).any():
        return float(ratios.mean()), np.full(images, np.nan)
    rest, count = (sums - bottom, images - 1) if leave_one_out else (sums, images)
    return float(ratios.mean()), count / used.sum() * ((top - ratios * bottom) / rest).sum(1)


def image_error(phi: np.ndarray, groups: Groups | None = None) -> float:
    """Standard error over images: SD(phi)/√n, with n − 1 in the SD. NaN for fewer than two images or groups.

    With groups (N labels), images of a group may depend on each other: SE² = G/(G − 1) · Σ_g (Σ_{i in g} phi_i)² / n²
    for G groups, the cluster-robust variance of a ratio. A group an image gives the same as none.
    Source: Liang and Zeger 1986; the factor G/(G − 1) as in Cameron and Miller 2015, section II.
    """
    phi = np.asarray(phi, float)
    sums = phi if groups is None else np.bincount(_numbered(groups, len(phi)), weights=phi)
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt(len(sums) * sums.var(ddof=1)) / len(phi))


def estimate(values: Sequence[float], phis: Sequence[np.ndarray], groups: Groups | None = None) -> Estimate:
    """The mean over seeds with its 95 % interval over images and seeds; phis (N,) a seed.

    SE² = SE²_images(mean phi) + s²/S, t quantile with Satterthwaite's degrees of freedom from the parts' (images or
    groups − 1, seeds − 1). One seed: images only.
    A seed whose value is NaN makes the figure n/a: a mean over the others would be of other trainings.
    The interval is NaN where nothing varies (SE = 0), such as a share that is 0 in every image.
    """
    parts = [_image_part(_mean_phi(phis), groups), *_seed_parts(values)]
    value, (se, df) = float(np.mean(values)), _sum(parts)
    return Estimate(value, *_interval(value, se or np.nan, df, LEVEL), seeds=len(values))


def compare(a: Measured, b: Measured, groups: Groups | None = None, paired: bool = False) -> Comparison:
    """b minus a, both on the same images in the same order.

    SE² = SE²_images(mean phi of b − mean phi of a) + s²_a/S_a + s²_b/S_b. With `paired` and the same seeds of b as of a
    (two or more), the seeds' part is that of the differences seed by seed. A side with one seed adds nothing: what is
    said then holds for that trained network, not for the variant.
    """
    seeds = (len(a.values), len(b.values))
    phi_a, phi_b = _mean_phi(a.phis), _mean_phi(b.phis)
    if phi_a.shape != phi_b.shape:
        raise DataError(f"variants can only be compared on the same images: {len(phi_a)} and {len(phi_b)} were found")
    images = _image_part(phi_b - phi_a, groups)
    if paired and seeds[0] == seeds[1] and list(a.seeds) == list(b.seeds):
        parts = [images, *_seed_parts(np.subtract(b.values, a.values))]
    else:
        parts = [images, *_seed_parts(a.values), *_seed_parts(b.values)]
    return from_parts(float(np.mean(b.values) - np.mean(a.values)), parts, seeds)


def from_parts(delta: float, parts: Sequence["Part"], seeds: tuple[int, int]) -> Comparison:
    """A comparison from a difference and the parts (variance, degrees of freedom) of its error, images first.

    Where nothing varies (SE = 0), a difference other than 0 has no p and no interval.
    """
    se, df = _sum(parts)
    se = np.nan if se == 0 and delta != 0 else se
    interval = _interval(delta, se, df, LEVEL)
    return Comparison(delta, se, df, _p(delta, se, df), *interval, seeds, float(parts[0][0] ** 0.5))


def pooled(sides: Sequence[Measured]) -> Measured:
    """The mean over variants, seed by seed, of as many seeds as all have: one side of a comparison of settings.

    Where the variants' seeds differ, a place's seed is all of theirs, so that no other side is paired with it.
    """
    count = min(len(side.values) for side in sides)
    values = [float(np.mean([side.values[s] for side in sides])) for s in range(count)]
    named = zip(*(side.seeds for side in sides), strict=False)
    seeds: list[Hashable] = [each[0] if len(set(each)) == 1 else each for each in named]
    return Measured(values, [np.mean([side.phis[s] for side in sides], 0) for s in range(count)], seeds)


def bootstrap(
    tops: np.ndarray, bottoms: np.ndarray, keep: np.ndarray | None = None,
    draws: int = 10_000, seed: int = 0, groups: Groups | None = None,
) -> np.ndarray:  # fmt: skip
    """Values (draws,R) of R runs when the images are drawn again with replacement, the same draw for all runs.

    tops, bottoms (R,N,C) or (R,N). With groups, whole groups are drawn. The columns stay fixed: a draw in which the
    bottom of one of them is 0 has no value (NaN). Source: Efron 1979, as multinomial weights times sums.
    """
    tops, bottoms = _runs(tops), _runs(bottoms)
    runs, images, columns = tops.shape
    units = np.arange(images) if groups is None else _numbered(groups, images)
    count = int(units.max()) + 1
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    weights = weights[:, units].astype(np.float64)  # float32 cannot hold sums of pixels
    used = _kept(keep, columns) & (bottoms.sum(1) != 0)
    values = np.zeros((draws, runs))
    step = max(1, WIDTH // (2 * runs))
    for first in range(0, columns, step):
        part = slice(first, first + step)
        drawn = [
            (weights @ np.moveaxis(x[:, :, part], 1, 0).reshape(images, -1)).reshape(draws, runs, -1)
            for x in (tops, bottoms)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            values += np.where(used[:, part], drawn[0] / drawn[1], 0).sum(2)
    with np.errstate(invalid="ignore"):
        return values / used.sum(1)  # 0/0 where no column is left


def percentile(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of one column of draws; NaN if more than 1 % of the draws have no value."""
    there = draws[~np.isnan(draws)]
    if len(there) < 0.99 * len(draws) or not len(there):
        return float("nan"), float("nan")
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def cross_check(se: float, draws: np.ndarray) -> float:
    """SD of a column of draws relative to the standard error over images, minus 1: beyond ±`DISAGREEMENT`, say so.

    NaN, no check, if the standard error is NaN or 0 or if more than 1 % of the draws have no value.
    For a mean over seeds or a difference, take the same mean or difference of the draws' columns first.
    """
    there = draws[~np.isnan(draws)]
    if not se > 0 or len(there) < 0.99 * len(draws):
        return float("nan")
    return float(np.std(there, ddof=1)) / se - 1


def decide(
    comparisons: Mapping[Key, Comparison], margin: float = 0.005, alpha: float = 0.05, falling: Container[Key] = ()
) -> dict[Key, Decision]:
    """Verdicts of all planned comparisons, read from simultaneous intervals (`together`): the chance that any of the
    intervals misses its true difference, or that any verdict is wrong, is at most alpha.

    * equal: inside ±margin, also if it leaves out 0: a difference surely smaller than the smallest that matters (two
      one-sided tests, Schuirmann 1987).
    * better, worse: on one side of 0. ahead, behind: likewise, where a side has one seed and nothing is known of
      variants; there, "equal" is not said either.
    * undecided: else, and where a figure is n/a (such pairs do not count).

    detectable: a true difference that is shown in four of five such studies.
    falling: keys whose figure is the better the smaller it is. Raises ConfigError for a margin below 0 or an alpha
    outside 0…1.
    """
    if not margin >= 0 or not 0 < alpha < 1:
        raise ConfigError(f"margin must be 0 or more and alpha between 0 and 1; got margin={margin}, alpha={alpha}")
    number = sum(not np.isnan(c.p) for c in comparisons.values())
    decisions = {}
    for key, c in comparisons.items():
        low, high = together(c, number, alpha)
        verdict = _verdict(low, high, margin, min(c.seeds) == 1, key in falling)
        detectable = (high - low) / 2 + float(stats.t.ppf(POWER, c.df)) * c.se
        decisions[key] = Decision(float(np.minimum(1.0, number * c.p)), low, high, verdict, detectable)
    return decisions


def together(comparison: Comparison, number: int, alpha: float = 0.05) -> tuple[float, float]:
    """The comparison's interval as one of `number` that all hold at once with probability 1 − alpha, whatever the
    correlation between them: each has level 1 − alpha/number, with a t quantile of its own degrees of freedom.
    NaN if it has no standard error. Source: Bonferroni's inequality, as Dunn 1961 uses it.
    """
    if np.isnan(comparison.p):
        return float("nan"), float("nan")
    return _interval(comparison.delta, comparison.se, comparison.df, 1 - alpha / number)


def benjamini_hochberg(p: Sequence[float] | np.ndarray, level: float = 0.1) -> np.ndarray:
    """Which of many p are worth a look (bool, like p): false discovery rate `level`; NaN is not counted, and False.

    Source: Benjamini and Hochberg 1995.
    """
    p = np.asarray(p, float)
    ordered = np.sort(p[~np.isnan(p)])
    below = np.flatnonzero(ordered <= level * np.arange(1, len(ordered) + 1) / max(len(ordered), 1))
    return p <= ordered[below[-1]] if len(below) else np.zeros(p.shape, bool)


def rough(images: int, groups: int | None = None) -> str | None:
    """The warning beside intervals from fewer than 50 images or 10 groups (None: images are independent)."""
    few = []
    if images < FEW_IMAGES:
        few.append(f"{images} images: too few images for a 95 % interval to be trusted")
    if groups is not None and groups < FEW_GROUPS:
        few.append(f"interval from {groups} {'group' if groups == 1 else 'groups'}: rough")
    return "; ".join(few) or None


def sentence(
    a: str, b: str, figure: str, comparison: Comparison, decision: Decision,
    margin: float = 0.005, spread: float | None = None,
) -> str:  # fmt: skip
    """The verdict on variant b against variant a in words, with the wide interval.

    spread: SD over seeds of the same recipe elsewhere in this study, told where a side has one seed.
    """
    if np.isnan(comparison.delta) or np.isnan(decision.wide_low):
        return f"undecided: {figure} is not defined (n/a) for {a} or {b}, or has no standard error"
    size, signed = _ranges(comparison.delta, decision.wide_low, decision.wide_high)
    seeds = _seed_words(*comparison.seeds)
    if decision.verdict in ("better", "worse"):
        return f"{b} is {decision.verdict} than {a} in {figure} by {size}; {seeds})"
    if decision.verdict == "equal":
        text = f"{b} and {a} are equal in {figure} within ±{_short(margin)} ({signed}; {seeds})"
        shown = not decision.wide_low <= 0 <= decision.wide_high
        return text + "; their difference is more than chance, but smaller than what matters" * shown
    if decision.verdict in ("ahead", "behind"):
        place = "ahead of" if decision.verdict == "ahead" else "behind"
        return (
            f"checkpoint {b} is {place} checkpoint {a} in {figure} by {size}, {_known(*comparison.seeds)}). "
            f"{_one_training(a, b, decision.verdict, comparison.seeds, spread)}"
        )
    smallest = f"the smallest difference this study could have shown is {_short(decision.detectable)}"
    text = f"undecided: {b} − {a} in {figure} is {_short(comparison.delta, True)} ({signed}; {seeds}); {smallest}"
    one = min(comparison.seeds) == 1
    return text + f", between these checkpoints; {halving(comparison)}" * one + f"; {halving(comparison)}" * (not one)


def halving(comparison: Comparison, most: float = 20) -> str:
    """What would halve the smallest difference that can be shown: more seeds, or more images, where one is enough.

    Nothing beyond `most` times as many is proposed.
    """
    images = comparison.image_se**2
    seeds = max(comparison.se**2 - images, 0.0)
    aim = comparison.se**2 / 4
    if aim == 0:
        return "no seed or image could narrow it"
    ways = []
    if images < aim and seeds / (aim - images) <= most:
        a, b = (int(np.ceil(round(count * seeds / (aim - images), 6))) for count in comparison.seeds)
        ways.append(f"{a} seeds" if a == b else f"{a} and {b} seeds")
    if seeds < aim and images / (aim - seeds) <= most:
        ways.append(f"{images / (aim - seeds):.0f} times the images")
    if ways:
        return f"about {' (or '.join(ways)}{')' * (len(ways) - 1)} would halve it"
    return "only more seeds and more images together (four times of each) would halve it"


def _columns(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, float)
    return x[:, None] if x.ndim == 1 else x


def _runs(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, float)
    return x[:, :, None] if x.ndim == 2 else x


def _kept(keep: np.ndarray | None, columns: int) -> np.ndarray:
    keep = np.ones(columns, bool) if keep is None else np.asarray(keep, bool)
    if keep.shape != (columns,):
        raise DataError(f"a figure has {columns} columns, but {keep.shape} of them were named as kept or not")
    return keep


def _numbered(groups: Groups, images: int) -> np.ndarray:
    """Labels of any kind → 0…G−1, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    labels = np.array([numbers.setdefault(label, len(numbers)) for label in groups], int)
    if len(labels) != images:
        raise DataError(f"each image needs one group: {images} images, {len(labels)} labels")
    return labels


def _mean_phi(phis: Sequence[np.ndarray]) -> np.ndarray:
    lengths = {len(phi) for phi in phis}
    if len(lengths) != 1:
        raise DataError(f"all seeds must be measured on the same images: {sorted(lengths) or 'no'} images were found")
    return np.mean(phis, 0)


Part = tuple[float, float]
"""A variance and its degrees of freedom."""


def _image_part(phi: np.ndarray, groups: Groups | None) -> Part:
    df = (len(phi) if groups is None else len(set(groups))) - 1
    return image_error(phi, groups) ** 2, df


def _seed_parts(values: Sequence[float] | np.ndarray) -> list[Part]:
    if len(values) < 2:
        return []
    return [(float(np.var(values, ddof=1)) / len(values), len(values) - 1)]


def _sum(parts: Sequence[Part]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of independent parts (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in parts)
    if total < TINY**2:
        return 0.0, np.inf
    # Shares, not squares of variances: these would underflow.
    inverse = sum((variance / total) ** 2 / df for variance, df in parts if variance > 0)
    return float(np.sqrt(total)), 1 / inverse if inverse > 0 else np.inf


def _interval(value: float, se: float, df: float, level: float) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + level) / 2, df)) * se
    return value - half, value + half


def _p(delta: float, se: float, df: float) -> float:
    if se == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(delta) / se, df))


def _verdict(low: float, high: float, margin: float, one_seed: bool, falling: bool) -> Verdict:
    inside = -margin <= low and high <= margin
    if inside and not one_seed:
        return "equal"
    if inside or not (low > 0 or high < 0):
        return "undecided"
    if (low > 0) != falling:
        return "ahead" if one_seed else "better"
    return "behind" if one_seed else "worse"


COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _seed_words(a: int, b: int) -> str:
    first, second = (COUNTS[n] if n < len(COUNTS) else str(n) for n in (a, b))
    if a == b:
        return f"{first} seed{'s' * (a != 1)} each" + ", images only" * (a == 1)
    return f"{first} and {second} seeds"


def _known(a: int, b: int) -> str:
    return "images only" if a == b == 1 else f"images and the seeds of the other; {_seed_words(a, b)}"


def _one_training(a: str, b: str, verdict: Verdict, seeds: tuple[int, int], spread: float | None) -> str:
    of = "each" if seeds == (1, 1) else f"of {a if seeds[0] == 1 else b}"
    moved = "unknown here" if spread is None else f"{_short(spread)} (SD) in this study"
    said = {"ahead": "better", "behind": "worse"}[verdict]
    return (
        f"One training {of}: whether variant {b} is {said} is not known; how far the same recipe moves with another "
        f"seed: {moved}"
    )


def _ranges(delta: float, low: float, high: float) -> tuple[str, str]:
    """'.016 (.005 … .027' of the difference's size, and '−.006 … +.014' of the difference itself."""
    signed = f"{_short(low, True)} … {_short(high, True)}"
    small, large = (-high, -low) if delta < 0 else (low, high)
    return f"{_short(abs(delta))} ({_short(small)} … {_short(large)}", signed


def _short(value: float, sign: bool = False) -> str:
    """.016; +.016 with sign. Three decimals, five for what would be .000."""
    size = abs(value)
    text = f"{size:.{3 if size == 0 or size >= 0.0005 else 5}f}"
    text = text[1:] if text.startswith("0.") else text
    return ("−" if value < 0 else "+" if sign and value > 0 else "") + text

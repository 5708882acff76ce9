"""How often a study calls two equal variants different, and how often its intervals hold the truth: a simulation."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from machine import machine, machine_line, write_json
from rich.console import Console
from rich.table import Table
from scipy import stats

from segstudy.study.statistics.comparison import Comparison, MetricSamples, compare
from segstudy.study.statistics.influence import image_error, influence
from segstudy.study.statistics.interval import estimate
from segstudy.study.statistics.multiplicity import decide, simultaneous_interval

IMAGES, PIXELS, CLASSES = 2000, 65536, 7
SEEDS = (1, 2, 3, 5)
SHARES = (0.75, 0.15, 0.10)  # of the scatter of quality: the image, image × variant, image × training
GRID = np.linspace(-6, 6, 2001)
FIGURES = ("images only", "compare", "coverage", "compare, left out", "coverage, left out")
PAIRED = ("images only", "compare", "paired")


@dataclass(frozen=True)
class Population:
    """Photographs (P,C): true pixels, how hard each is for all networks and for each of two variants, how it errs."""

    truth: np.ndarray
    common: np.ndarray
    own: np.ndarray
    split: np.ndarray
    ghost: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Population":
        """A background and six classes of 10 to 25 % of the images, one or (28 %) two in each."""
        odds = np.array([0.25, 0.20, 0.17, 0.15, 0.13, 0.10])
        there = np.stack([rng.permutation(rng.choice(6, 2, replace=False, p=odds)) for _ in range(IMAGES)])
        size = rng.standard_normal((IMAGES, 2))
        area = np.minimum(0.08 * np.exp(1.1 * size), 0.45)  # heavy-tailed: median 8 % of the image
        area[:, 1] *= rng.random(IMAGES) < 0.28
        truth = np.zeros((IMAGES, CLASSES))
        np.put_along_axis(truth, there + 1, area, 1)
        truth[:, 0] = 1 - truth.sum(1)
        common = rng.standard_normal(truth.shape)
        large = np.log(np.maximum(truth, 1e-3) / 0.08) / 1.1
        common[:, 1:] = np.where(truth > 0, 0.9 * common + 0.4 * large, common)[:, 1:]  # the small are harder
        ghost = 0.02 * rng.lognormal(0, 1, truth.shape)
        return cls(truth, common, rng.standard_normal((2, *truth.shape)), rng.uniform(0.2, 0.8, truth.shape), ghost)

    def counts(
        self, variant: int, noise: np.ndarray, effect: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Intersections and unions (n,C) of one training on the images `rows`; noise (P,C), effect of its seed (C,)."""
        image, own, training = np.sqrt(SHARES)
        z = image * self.common[rows] + own * self.own[variant][rows] + training * noise[rows] + effect
        quality = np.concatenate([np.interp(z[:, :1], GRID, BACKGROUND), np.interp(z[:, 1:], GRID, FOREGROUND)], 1)
        truth, split = self.truth[rows], self.split[rows]
        absent = self.ghost[rows] * np.maximum(0, -1 - z)  # where a class is not, the worst sixth shows some of it
        top = truth * quality ** (1 - split)
        bottom = np.where(truth > 0, truth * quality**-split, absent)
        return np.round(PIXELS * top), np.round(PIXELS * bottom)


def _quantiles(a: float, b: float) -> np.ndarray:
    """IoU per image, Beta(a, b), as a function of a normal score."""
    return np.maximum(stats.beta.ppf(stats.norm.cdf(GRID), a, b), 1e-3)


BACKGROUND, FOREGROUND = _quantiles(20, 1.5), _quantiles(1.6, 0.7)


def effects(rng: np.random.Generator, scatter: float, seeds: int) -> np.ndarray:
    """What seeds do to the normal score (S,C): half of the variance is the same in all classes."""
    shared, single = rng.standard_normal((seeds, 1)), rng.standard_normal((seeds, CLASSES))
    return scatter * np.sqrt(0.5) * (shared + single)


def true_values(population: Population, variant: int, rng: np.random.Generator, scatter: float, runs: int) -> list:
    """mIoU on the whole population of `runs` trainings."""
    everything, values = np.arange(IMAGES), []
    for effect in effects(rng, scatter, runs):
        noise = rng.standard_normal((IMAGES, CLASSES))
        values.append(influence(*population.counts(variant, noise, effect, everything))[0])
    return values


def calibrate(population: Population, rng: np.random.Generator, images: int, ratio: float) -> tuple[float, float]:
    """(scatter of the seeds' effects, SE over images of a difference), so that the SD of mIoU over seeds is ratio · SE.

    Part of that SD is there without effects: the trainings' noise does not average out over the population.
    """
    everything, errors = np.arange(IMAGES), []
    for _ in range(20):
        a, b = (
            influence(*population.counts(v, rng.standard_normal((IMAGES, CLASSES)), np.zeros(CLASSES), everything))[1]
            for v in (0, 1)
        )
        errors.append(image_error(b - a) * np.sqrt(IMAGES / images))
    se = float(np.mean(errors))
    floor = np.var(true_values(population, 0, rng, 0, 200), ddof=1)
    slope = np.sqrt(max(np.var(true_values(population, 0, rng, 0.1, 400), ddof=1) - floor, 0)) / 0.1
    return float(np.sqrt(max((ratio * se) ** 2 - floor, 0)) / slope), se


def cell(
    population: Population, seed: int, images: int, ratio: float, correlation: float, repeats: int
) -> dict[str, Any]:
    """Rates at one number of images and one scatter of the seeds; correlation: of the pairs' seed effects."""
    rng = np.random.default_rng(seed)
    scatter, se = calibrate(population, rng, images, ratio)
    runs = [true_values(population, v, rng, scatter, 400) for v in (0, 1)]
    truth = [float(np.mean(r)) for r in runs]
    hits: dict[str, dict[int, list[bool]]] = {}
    for _ in range(repeats):
        rows = rng.integers(IMAGES, size=images)
        first = effects(rng, scatter, max(SEEDS))
        second = correlation * first + np.sqrt(1 - correlation**2) * effects(rng, scatter, max(SEEDS))
        both = [trainings(population, v, rng, e, rows) for v, e in ((0, first), (1, second))]
        for s in SEEDS:
            for way in (0, 1):
                a, b = (MetricSamples([x - t for x in m[way].values[:s]], m[way].influences[:s])
                        for m, t in zip(both, truth, strict=True))  # fmt: skip
                for figure, hit in judged(a, b, ("", ", left out")[way], correlation > 0).items():
                    hits.setdefault(figure, {k: [] for k in SEEDS})[s].append(hit)
    rates = {figure: {s: float(np.mean(of)) for s, of in by.items()} for figure, by in hits.items()}
    found = float(np.std(runs[0], ddof=1) / se)
    return {"images": images, "ratio": ratio, "found": found, "correlation": correlation, "se": se} | rates


def trainings(
    population: Population, variant: int, rng: np.random.Generator, of_seeds: np.ndarray, rows: np.ndarray
) -> tuple[MetricSamples, MetricSamples]:
    """A variant's trainings, one a row of effects, measured on `rows` (an image drawn twice counts twice).

    The second has phi by leaving each image out.
    """
    there, again = np.unique(rows, return_inverse=True)
    plain, left_out = MetricSamples([], []), MetricSamples([], [])
    for effect in of_seeds:
        top, bottom = population.counts(variant, rng.standard_normal((IMAGES, CLASSES)), effect, there)
        for measured, way in ((plain, False), (left_out, True)):
            value, phi = influence(top[again], bottom[again], leave_one_out=way)
            measured.values.append(value)
            measured.influences.append(phi)
    return plain, left_out


def judged(a: MetricSamples, b: MetricSamples, way: str, paired: bool) -> dict[str, bool]:
    """Was a difference seen, did the interval hold the truth? Both have their true value taken off."""
    found = compare(a, b)
    interval = estimate(a.values, a.influences)
    hits = {f"compare{way}": found.p <= 0.05, f"coverage{way}": interval.low <= 0 <= interval.high}
    if not way:
        hits["images only"] = abs(found.delta) > stats.norm.isf(0.025) * found.image_se
        hits |= {"paired": compare(a, b, paired=True).p <= 0.05} if paired else {}
    return hits


def family(seed: int, pairs: int, true: float, se: float, repeats: int) -> float:
    """How often `decide` says anything wrong of normal differences that are all `true`, three seeds each.

    Wrong are "better" and "worse" where they are 0, "worse" and "equal" where they are as large as the margin.
    """
    rng, wrong = np.random.default_rng(seed), {"better", "worse"} if true == 0 else {"equal", "worse"}
    seen = 0
    for deltas in rng.normal(true, se, (repeats, pairs)):
        p = 2 * stats.norm.sf(np.abs(deltas) / se)
        found = {i: Comparison(d, se, np.inf, p[i], np.nan, np.nan, (3, 3), se) for i, d in enumerate(deltas)}
        seen += any(decision.verdict in wrong for decision in decide(found, margin=0.005).values())
    return seen / repeats


def chain(seed: int, pairs: int, ratio: float, apart: float, repeats: int) -> dict[str, float]:
    """Rates of studies in which each variant stands against the one before, three seeds and 100 images each.

    ratio: SD over seeds by the standard error over images of a difference; apart: each true difference, in its standard
    error. `holm` are the intervals that a step-down by Holm leaves: those of the k-th smallest p of m at
    1 − .05/(m − k + 1), down to the first that holds 0.
    """
    rng, images, seeds = np.random.default_rng(seed), 100, 3
    error = np.sqrt(2 / images)
    true = apart * error * np.sqrt(1 + ratio**2 / seeds * 2)
    seen: dict[str, list[float]] = {}
    for _ in range(repeats):
        phis = rng.standard_normal((pairs + 1, images))
        values = phis.mean(1)[:, None] + ratio * error * rng.standard_normal((pairs + 1, seeds))
        values += true * np.arange(pairs + 1)[:, None]
        measured = [MetricSamples(list(v), [phi - phi.mean()] * seeds) for v, phi in zip(values, phis, strict=True)]
        found = {i: compare(measured[i], measured[i + 1]) for i in range(pairs)}
        decided = decide(found, margin=0)
        down = holm(found)
        shown = {"plain": [(c.low, c.high) for c in found.values()], "holm": [down[i] for i in found],
                 "together": [(d.wide_low, d.wide_high) for d in decided.values()]}  # fmt: skip
        for name, intervals in shown.items():
            low, high = np.array(intervals).T
            apart_from_0 = (low > 0) | (high < 0)
            seen.setdefault(f"{name}: all hold", []).append(float(np.all((low <= true) & (true <= high))))
            seen.setdefault(f"{name}: any shown", []).append(float(apart_from_0.any()))
            seen.setdefault(f"{name}: shown", []).append(float(apart_from_0.mean()))
    facts = {"pairs": pairs, "ratio": ratio, "apart": apart}
    return facts | {name: float(np.mean(rates)) for name, rates in seen.items()}


def holm(found: dict[int, Comparison]) -> dict[int, tuple[float, float]]:
    """Intervals of a step-down, as described in `chain`."""
    intervals, tests, going = {}, len(found), True
    for left, key in zip(range(len(found), 0, -1), sorted(found, key=lambda k: found[k].p), strict=True):
        tests = left if going else tests
        low, high = intervals[key] = simultaneous_interval(found[key], tests)
        going = going and not low <= 0 <= high
    return intervals


def largest_t(pairs: int, draws: int = 400_000) -> float:
    """The .95 quantile of the largest |t| of a chain (neighbours correlate by −.5, many degrees of freedom)."""
    variants = np.random.default_rng(0).standard_normal((draws, pairs + 1))
    return float(np.quantile(np.abs(np.diff(variants)).max(1) / np.sqrt(2), 0.95))


def chains(seed: int, repeats: int) -> list[dict[str, float]]:
    """The rates of `chain`: intervals and false verdicts of equal variants, power at three standard errors."""
    rows = []
    for pairs in (3, 6, 10, 12):
        for ratio in (0.3, 1.0, 2.0):
            equal, apart = (chain(seed, pairs, ratio, by, repeats) for by in (0.0, 3.0))
            rows.append({
                "pairs": pairs, "ratio": ratio,
                **{f"{n}, hold": apart[f"{n}: all hold"] for n in ("plain", "holm", "together")},
                **{f"{n}, false": equal[f"{n}: any shown"] for n in ("plain", "together")},
                **{f"{n}, power": apart[f"{n}: shown"] for n in ("plain", "holm", "together")},
            })  # fmt: skip
    return rows


def several(rows: list[dict[str, float]]) -> Table:
    """A row for each number of pairs and scatter of the seeds."""
    shown = Table(*rows[0], title="several pairs, three seeds: all intervals hold, any false verdict, shown at 3 SE")
    for row in rows:
        whole = ("pairs", "ratio")
        shown.add_row(*(str(v) if k in whole else f"{v:.3f}".removeprefix("0") for k, v in row.items()))
    return shown


def table(cells: list[dict[str, Any]], title: str, figures: tuple[str, ...]) -> Table:
    """A row a cell; the rates by number of seeds, 1 / 2 / 3 / 5."""
    shown = Table("images", "seed SD / image SE", *figures, title=title)
    for c in cells:
        rates = [" ".join(f"{c[figure][s]:.3f}".removeprefix("0") for s in SEEDS) for figure in figures]
        shown.add_row(str(c["images"]), f"{c['ratio']} ({c['found']:.2f})", *rates)
    return shown


def main(
    repeats: Annotated[int, typer.Option(help="of each cell; 1,000 give ±.007 (SE) at .05")] = 1000,
    seed: Annotated[int, typer.Option(help="of the population and everything drawn from it")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Rates of false differences at .05 and coverage of 95 % intervals, images and seeds drawn anew each time."""
    console, machine_facts = Console(width=150), machine("cpu")
    began = time.perf_counter()
    population = Population.drawn(np.random.default_rng(seed))
    plan = [(n, ratio, 0.0) for n in (445, 100) for ratio in (0.3, 1.0, 2.0)] + [(445, r, 0.9) for r in (1.0, 2.0)]
    cells = []
    for i, settings in enumerate(plan):
        cells.append(cell(population, seed + i + 1, *settings, repeats))
        console.print(f"{i + 1} of {len(plan)} cells, {time.perf_counter() - began:.0f} s", highlight=False)
    independent = [c for c in cells if not c["correlation"]]
    pairs = [c for c in cells if c["correlation"]]
    console.print(table(independent, "independent seeds; 1 2 3 5 of them", FIGURES))
    console.print(table(pairs, "paired seeds, correlation .9; 1 2 3 5 of them", PAIRED))
    families = {f"{true}, SE {se}": [family(seed, m, true, se, repeats) for m in (1, 3, 6)]
                for true, se in ((0.0, 0.01), (0.005, 0.002), (0.005, 0.0005))}  # fmt: skip
    for name, rates in families.items():
        console.print(f"a wrong verdict among 1, 3, 6 pairs whose differences are all {name}: {rates}", highlight=False)
    rows = chains(seed, repeats)
    console.print(several(rows))
    quantiles = {m: (largest_t(m), float(stats.norm.isf(0.025 / m))) for m in (3, 6, 10, 12)}
    console.print(f"the largest |t| of a chain, and Bonferroni's: {quantiles}", highlight=False)
    for way in ("", ", left out"):
        worst = max(c[f"compare{way}"][3] for c in independent)
        covered = [c[f"coverage{way}"][3] for c in independent]
        console.print(
            f"three seeds{way}: at most {worst:.1%} false differences (limit 7 %), coverage {min(covered):.1%} to "
            f"{max(covered):.1%} (limits 92 and 97 %)",
            highlight=False,
        )
    seconds = time.perf_counter() - began
    console.print(f"{repeats} repeats, seed {seed}, {seconds:.0f} s", highlight=False)
    console.print(machine_line(machine_facts), highlight=False)
    facts = {"repeats": repeats, "seed": seed, "seconds": seconds, "cells": cells, "families": families}
    facts |= {"chains": rows, "quantiles": quantiles}
    write_json(out, {"benchmark": "false_differences", "machine": machine_facts} | facts)


if __name__ == "__main__":
    typer.run(main)

"""Nine made predictors under every figure of a study: the table and the picture of docs/failure_modes.md."""

import math
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure

from segstudy.drawing import colorize, save
from segstudy.formatting import format_number
from segstudy.study.analysis.metrics import METRICS, Metric
from segstudy.study.results import TestResult, from_masks

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the predictors are those of the tests
from archetypes import STORIES, predictors, scene

DOCS = Path(__file__).parents[1] / "docs"
SCENES, CLASSES, DRAWN = 6, 6, 0
BEGIN, END = "<!-- the table: benchmarks/failure_table.py -->\n", "<!-- end of the table -->\n"
PALETTE = [(242, 242, 242), (38, 110, 180), (230, 140, 30), (60, 150, 80), (150, 90, 170), (200, 60, 60)]
MOST_AFFECTED = {
    "perfect": ("boundary_iou",),
    "speckled": ("objects_mixed", "absent_classes"),
    "core only": ("objects_partial", "missed"),
    "wrong label": ("objects_wrong_label", "mislabelled"),
    "dilated": ("spilled", "extent_errors"),
    "ghost": ("hallucinated_outside", "segment_errors"),
    "striped": ("pieces", "coherence"),
    "holed": ("roughness", "pieces"),
    "all background": ("objects_missed", "missed"),
}
"""The metrics that each predictor moves most: bold in the table, below its picture."""


def main(docs: Annotated[Path, typer.Option(help="The folder with failure_modes.md.")] = DOCS) -> None:
    """Write the table into docs/failure_modes.md and draw docs/failure_modes.png."""
    tested = stories_tested()
    page = docs / "failure_modes.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + table(tested) + END + rest.split(END)[1])
    draw(tested, docs / "failure_modes.png")


def stories_tested() -> dict[str, TestResult]:
    """The test of each predictor on the made scenes."""
    truths = [scene(seed) for seed in range(SCENES)]
    labels = [predictors(truth, CLASSES, seed) for seed, truth in enumerate(truths)]
    pairs = {
        name: [(str(i), t, p[name]) for i, (t, p) in enumerate(zip(truths, labels, strict=True))] for name in STORIES
    }
    classes = [str(c) for c in range(CLASSES)]
    return {name: from_masks(name, stories, classes, 0) for name, stories in pairs.items()}


def value(figure: Metric, test: TestResult) -> float:
    """The figure over all scenes; NaN where it is not defined."""
    terms = figure.of(test)
    if terms is None:
        return math.nan
    top, bottom = (np.asarray(part.sum(0), float) for part in terms)
    return float((top / bottom).mean()) if (bottom > 0).all() else math.nan


def miou(test: TestResult) -> float:
    """The mean over classes with truth."""
    right, union = test.counts.true_positives.sum(0), test.counts.union.sum(0)
    return float((right / np.maximum(union, 1))[test.counts.truth.sum(0) > 0].mean())


def table(tested: dict[str, TestResult]) -> str:
    """Figures down, predictors across, in Markdown."""
    lines = ["| | " + " | ".join(tested) + " |", "|---|" + "---:|" * len(tested)]
    lines.append("| mIoU | " + " | ".join(format_number(miou(t), 2) for t in tested.values()) + " |")
    for figure in METRICS:
        if all(figure.of(t) is None for t in tested.values()):
            continue  # of a network, not of masks
        cells = [format_number(value(figure, t), 2) for t in tested.values()]
        told = [f"**{c}**" if figure.name in MOST_AFFECTED[s] else c for s, c in zip(tested, cells, strict=True)]
        lines.append(f"| `{figure.name}` | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def draw(tested: dict[str, TestResult], path: Path) -> None:
    """The truth of one scene and the nine predictors, each with the figures that tell it over all scenes."""
    truth = scene(DRAWN)
    pictures = {"truth": truth} | predictors(truth, CLASSES, DRAWN)
    titles = {f.name: f.title.split(" (")[0] for f in METRICS}
    by_name = {f.name: f for f in METRICS}
    figure = Figure(figsize=(10, 5.1))
    axes = figure.subplots(2, 5)
    for ax, (name, labels) in zip(axes.flat, pictures.items(), strict=True):
        ax.imshow(colorize(labels, PALETTE), interpolation="nearest")
        ax.set_title(name, fontsize=10, fontweight="bold", pad=4)
        told = [
            f"{titles[n]}: {format_number(value(by_name[n], tested[name]), 2)}" for n in MOST_AFFECTED.get(name, ())
        ]
        ax.set_xlabel("\n".join(told or ["void: cream ring"]), fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_color("0.75")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.09, wspace=0.06, hspace=0.42)
    save(figure, path)


if __name__ == "__main__":
    typer.run(main)

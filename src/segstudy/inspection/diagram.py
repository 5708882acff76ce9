"""Diagram of an encoder-decoder: encoder downwards, bridge at the bottom, decoder upwards, skips across."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from segstudy.inspection.summary import Architecture, Stage

COLOURS = {
    "image": "#8a8f98", "encoder": "#3f78b5", "bridge": "#d98e2b", "decoder": "#4d9a6a", "logits": "#8a8f98",
}  # fmt: skip

GAP, LEVEL, TEXT, SKIP = 0.52, 0.74, "#20242a", "#9aa3ad"
"""Inches between two boxes, inches down for each halving of the size, and the colours of text and of skips."""

Box = tuple[float, float, float, float]
"""A box in inches: x and y of its centre, width and height."""


def draw(architecture: Architecture, title: str) -> Figure:
    """Draw each feature map as a box: its width shows log(channels), its height log(rows)."""
    stages, boxes = architecture.stages, _boxes(architecture.stages)
    left, right = boxes[0][0] - 0.65, boxes[-1][0] + 0.65
    top = max(y + h / 2 for _, y, _, h in boxes) + 0.65
    bottom = min(y - h / 2 for _, y, _, h in boxes) - 1.1
    figure = Figure(figsize=(right - left, top - bottom), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    for a, b in architecture.skips:
        _draw_arrow(axes, boxes[a], boxes[b], "--", SKIP)
    for start, end in itertools.pairwise(boxes):
        _draw_arrow(axes, start, end, "-", "#4a5058")
    for stage, box in zip(stages, boxes, strict=True):
        _draw_box(axes, stage, box)
    axes.text((left + right) / 2, top - 0.12, title, ha="center", va="top", fontsize=11, color=TEXT)
    _draw_legend(figure, stages, 1 / (top - bottom))
    return figure


def _boxes(stages: Sequence[Stage]) -> list[Box]:
    """The boxes from left to right in order, one level lower for each halving of the size."""
    boxes, right = [], 0.0
    for stage in stages:
        width, height = 0.055 * math.log2(stage.channels + 1), 0.16 + 0.085 * math.log2(stage.height)
        boxes.append((right + width / 2, LEVEL * math.log2(stage.height / stages[0].height), width, height))
        right += width + GAP
    return boxes


def _draw_box(axes: Axes, stage: Stage, box: Box) -> None:
    """Draw the box of a feature map, and below it its channels, height and width."""
    x, y, w, h = box
    style: dict[str, Any] = {"fc": COLOURS[stage.part], "ec": "white", "zorder": 3}
    axes.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, "round,pad=0,rounding_size=0.05", **style))
    background = {"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.85}
    text: dict[str, Any] = {"ha": "center", "va": "top", "color": TEXT, "zorder": 4, "bbox": background}
    axes.text(x, y - h / 2 - 0.05, str(stage.channels), fontsize=9, fontweight="bold", **text)
    axes.text(x, y - h / 2 - 0.22, f"{stage.height}×{stage.width}", fontsize=7, **text)


def _draw_arrow(axes: Axes, start: Box, end: Box, line: str, colour: str) -> None:
    """Draw an arrow from the right edge of one box to the left edge of another."""
    style = {"arrowstyle": "-|>", "linestyle": line, "color": colour, "shrinkA": 2, "shrinkB": 2, "mutation_scale": 8}
    places = (end[0] - end[2] / 2, end[1]), (start[0] + start[2] / 2, start[1])
    axes.annotate("", *places, arrowprops=style, zorder=1 if line == "--" else 2)


def _draw_legend(figure: Figure, stages: Sequence[Stage], inch: float) -> None:
    """Draw the legend of the parts' colours. inch: an inch as a fraction of the figure's height."""
    parts = [part for part in dict.fromkeys(stage.part for stage in stages) if part != "logits"]
    handles: list[Any] = [Patch(fc=COLOURS[part], label="image, logits" if part == "image" else part) for part in parts]
    handles.append(Line2D([], [], ls="--", color=SKIP, label="skip"))
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.24 * inch)}
    figure.legend(handles=handles, **place, ncols=6, fontsize=8, frameon=False)
    figure.text(0.5, 0.14 * inch, "numbers: channels, below them height × width", ha="center", fontsize=7.5, color=TEXT)

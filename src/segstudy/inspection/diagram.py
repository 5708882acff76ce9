"""A network's U as a picture: encoder down, bridge at the bottom, decoder up, skips across."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from segstudy.inspection.summary import Shape, Stage

COLOURS = {
    "image": "#8a8f98", "encoder": "#3f78b5", "bridge": "#d98e2b", "decoder": "#4d9a6a", "logits": "#8a8f98",
}  # fmt: skip

GAP, LEVEL, TEXT = 0.52, 0.74, "#20242a"
"""Inches between two boxes, inches down for each halving, and the colour of words."""


def draw(shape: Shape, title: str) -> Figure:
    """Each map as a box, its width by the logarithm of its channels, its height by that of its rows."""
    centres = _places(shape.stages)
    boxes = [_box(stage) for stage in shape.stages]
    lows = [y - h / 2 for (_, y), (_, h) in zip(centres, boxes, strict=True)]
    left, right = centres[0][0] - 0.65, centres[-1][0] + 0.65
    top, bottom = max(y + h / 2 for (_, y), (_, h) in zip(centres, boxes, strict=True)) + 0.65, min(lows) - 1.1
    figure = Figure((right - left, top - bottom), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.axis("off")
    for a, b in shape.skips:
        _arrow(ax, _side(centres[a], boxes[a], 1), _side(centres[b], boxes[b], -1), "--", "#9aa3ad")
    for a in range(len(boxes) - 1):
        _arrow(ax, _side(centres[a], boxes[a], 1), _side(centres[a + 1], boxes[a + 1], -1), "-", "#4a5058")
    for stage, (x, y), (w, h) in zip(shape.stages, centres, boxes, strict=True):
        rounded = FancyBboxPatch(
            (x - w / 2, y - h / 2), w, h, "round,pad=0,rounding_size=0.05", fc=COLOURS[stage.part], ec="white", zorder=3
        )
        ax.add_patch(rounded)
        ground = {"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.85}
        words: dict[str, Any] = {"ha": "center", "va": "top", "color": TEXT, "zorder": 4, "bbox": ground}
        ax.text(x, y - h / 2 - 0.05, str(stage.channels), fontsize=9, fontweight="bold", **words)
        ax.text(x, y - h / 2 - 0.22, f"{stage.height}×{stage.width}", fontsize=7, **words)
    ax.text((left + right) / 2, top - 0.12, title, ha="center", va="top", fontsize=11, color=TEXT)
    there = dict.fromkeys(stage.part for stage in shape.stages)
    handles: list[Any] = [
        Patch(fc=COLOURS[p], label={"image": "image, logits"}.get(p, p)) for p in there if p != "logits"
    ]
    handles.append(Line2D([], [], ls="--", color="#9aa3ad", label="skip"))
    inch = 1 / (top - bottom)
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.24 * inch), ncols=6, fontsize=8, frameon=False
    )
    figure.text(0.5, 0.14 * inch, "channels, and below them height × width", ha="center", fontsize=7.5, color=TEXT)
    return figure


def _places(stages: list[Stage]) -> list[tuple[float, float]]:
    """The boxes' centres in inches: left to right in order, one level down for each halving."""
    places, right = [], 0.0
    for stage in stages:
        width = _box(stage)[0]
        x = right + width / 2
        places.append((x, LEVEL * math.log2(stage.height / stages[0].height)))
        right = x + width / 2 + GAP
    return places


def _box(stage: Stage) -> tuple[float, float]:
    """Width and height in inches."""
    return 0.055 * math.log2(stage.channels + 1), 0.16 + 0.085 * math.log2(stage.height)


def _side(centre: tuple[float, float], box: tuple[float, float], towards: int) -> tuple[float, float]:
    return centre[0] + towards * box[0] / 2, centre[1]


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], line: str, colour: str) -> None:
    style = {"arrowstyle": "-|>", "linestyle": line, "color": colour, "shrinkA": 2, "shrinkB": 2, "mutation_scale": 8}
    ax.annotate("", end, start, arrowprops=style, zorder=1 if line == "--" else 2)

"""The first screen of a report as one picture, for a README: drawn from the same parts as the page."""

import io
import textwrap
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from segstudy.drawing import as_array
from segstudy.formatting import format_duration, format_millions, format_percent
from segstudy.study.analysis.findings import Group, Variant
from segstudy.study.report.pictures import GroupPictures
from segstudy.study.report.plots import INK, MUTED, OUTCOME_COLORS, PAPER, STYLE, VERDICTS
from segstudy.study.report.text import (
    OUTCOME_WORDS,
    VERDICT_WORDS,
    mean_over_runs,
    outcome_share,
    outcomes_shown,
    own_words,
    shorten,
    verdict_size,
    verdicts_of,
)

WIDTH, MARGIN, LABEL = 12.0, 0.15, 0.9
"""Inches."""

TILE, ROW, LINE = 0.6, 1.02, 0.26

COLORS = VERDICTS | {"ahead": VERDICTS["better"], "behind": VERDICTS["worse"], "undecided": MUTED}


def first_screen(group: Group, held: GroupPictures, shown: Iterable[Variant]) -> bytes:
    """The sentence, the same images through all variants, their outcomes and the table: a PNG of 256 colours."""
    variants = list(shown)
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure((WIDTH, 8), facecolor=PAPER)
        ax = figure.add_axes((0, 0, 1, 1), facecolor=PAPER)
        short = own_words([v.name for v in variants])
        sentence = textwrap.wrap(group.sentence, 122)
        top = 0.12 + 0.26 * len(sentence)
        _text(ax, MARGIN, 0.1, "\n".join(sentence), fontsize=12, linespacing=1.35)
        left = _images(ax, held, short, top + 0.1) if held.rows else top
        x = 5.6 if held.rows else MARGIN
        right = _outcomes(ax, [v for v in variants if v.outcomes], held, short, x, top + 0.1)
        height = max(left, _table(ax, group, variants, short, x, right + 0.1)) + MARGIN
        figure.set_size_inches(WIDTH, height)
        ax.set(xlim=(0, WIDTH), ylim=(height, 0), aspect="auto")
        ax.axis("off")
        file = io.BytesIO()
        Image.fromarray(as_array(figure)).quantize(256).save(file, "PNG", optimize=True)
    return file.getvalue()


def _text(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    look: dict[str, Any] = {"va": "top", "fontsize": 9}
    printable = "".join(c for c in text.replace("\u00a0", " ") if c.isprintable() or c == "\n")
    ax.text(x, y, printable, **(look | style))


def _picture(
    ax: Axes, x: float, y: float, width: float, height: float, array: np.ndarray, smooth: bool = False
) -> None:
    """Draw a picture as large as fits into a place with its upper left corner at (x, y), in its middle."""
    scale = min(width / array.shape[1], height / array.shape[0])
    right, down = (width - scale * array.shape[1]) / 2, (height - scale * array.shape[0]) / 2
    place = (x + right, x + width - right, y + height - down, y + down)
    ax.imshow(array, extent=place, interpolation="antialiased" if smooth else "nearest", aspect="auto")


def _images(ax: Axes, held: GroupPictures, short: Mapping[str, str], y: float) -> float:
    """The same images through all variants, and the legend; returns where they end."""
    blocks = held.blocks
    width = 4.5 / max(len(row[blocks[0]]) for row in held.rows.values())
    height = (width - 0.02) / held.cell
    for block in blocks:
        for name, row in held.rows.items():
            for i, array in enumerate(row[block]):
                _picture(ax, LABEL + i * width, y, width - 0.02, height, array, name == "image")
            label = shorten(short.get(name, name), 10)
            size = 9 if len(label) < 9 else 8
            _text(ax, MARGIN, y + height / 2, label, va="center", fontweight="bold", fontsize=size)
            y += height + 0.02
        y += 0.08
    x, y = MARGIN, y + 0.05
    for name, color in held.legend.items():
        label = shorten(name, 18)
        if x > MARGIN and x + 0.3 + 0.068 * len(label) > 5.4:
            x, y = MARGIN, y + 0.18
        ax.add_patch(Rectangle((x, y), 0.11, 0.11, facecolor=[c / 255 for c in color], edgecolor=MUTED, linewidth=0.5))
        _text(ax, x + 0.16, y, label, fontsize=7.5)
        x += 0.3 + 0.068 * len(label)
    return y + 0.2


def _outcomes(
    ax: Axes, variants: list[Variant], held: GroupPictures, short: Mapping[str, str], x: float, y: float
) -> float:
    """A row for each variant: its name, a bar, and each outcome with an example; returns where they end."""
    outcomes = outcomes_shown(variants)
    step = (WIDTH - MARGIN - x - 1.45) / max(1, len(outcomes))
    for v in variants:
        _text(ax, x, y, shorten(short[v.name], 16), fontweight="bold")
        _text(ax, x, y + 0.17, "\n".join(textwrap.wrap(v.title, 24)[:3]), fontsize=7, color=MUTED)
        start = x
        for i, name in enumerate(outcomes):
            share, place = outcome_share(v, name), x + 1.45 + i * step
            color = OUTCOME_COLORS.get(name, PAPER)
            if name in OUTCOME_COLORS:
                ax.add_patch(Rectangle((start, y + 0.62), 1.25 * share, 0.14, facecolor=color, edgecolor=PAPER))
                start += 1.25 * share
            if example := held.examples.get(v.name, {}).get(name):
                _picture(ax, place, y, TILE, TILE, example.picture, True)
            ax.add_patch(Rectangle((place, y + 0.64), 0.05, 0.28, facecolor=color))
            _text(ax, place + 0.08, y + 0.63, format_percent(share), fontsize=8, fontweight="bold")
            _text(ax, place + 0.08, y + 0.78, OUTCOME_WORDS[name][0], fontsize=7, color=MUTED)
        y += ROW
    return y


def _table(ax: Axes, group: Group, variants: list[Variant], short: Mapping[str, str], x: float, y: float) -> float:
    """Variant, mIoU, difference, parameters, time; returns where it ends."""
    columns = (x, x + 0.9, x + 2.3, WIDTH - 0.7, WIDTH - MARGIN)
    rows = [("variant", "mIoU (95 % interval)", "difference", "parameters", "time")]
    for v in variants:
        cost = format_millions(mean_over_runs(v, "parameters")), format_duration(mean_over_runs(v, "seconds"))
        rows.append((shorten(short[v.name], 12), str(v.miou), "", *cost))
    for i, row in enumerate(rows):
        for at, cell in zip(columns, row, strict=True):
            style: dict[str, Any] = {"ha": "right"} if at > WIDTH - 1 else {}
            _text(ax, at, y + 0.05, cell, fontsize=8, fontweight="normal" if i else "bold", **style)
        for d in verdicts_of(group, variants[i - 1])[:1] if i else ():
            text = f"{VERDICT_WORDS[d.verdict]} {shorten(short.get(d.a, d.a), 9)} {verdict_size(d)}"
            _text(ax, columns[2], y + 0.05, text, fontsize=8, color=COLORS[d.verdict])
        y += LINE
        ax.plot([x, WIDTH - MARGIN], [y, y], color=MUTED if i else INK, linewidth=0.4 if i else 1)
    return y

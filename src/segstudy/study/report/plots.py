"""A study's plots, for its report and for papers: one column wide, so that they can be read on a phone as well.

Colours after Okabe and Ito, which colour-blind readers can tell apart; names stand at what they name.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from segstudy.console import format_fraction
from segstudy.measures.objects import FOUND_AT_ALL, FOUND_WHOLE, OUTCOMES, PURE
from segstudy.study.analysis.findings import Difference, Group
from segstudy.study.report.text import has_one_seed, metric_label, shorten

INK, MUTED, GRID, PAPER = "#1b1f24", "#6b727b", "#d9dee4", "#fffffe"

BLUE, SKY = "#0072b2", "#56b4e9"

THEME = {
    INK: ("ink", "#e6e8eb"), MUTED: ("muted", "#9aa4b0"), GRID: ("grid", "#363d46"), PAPER: ("paper", "#15181c"),
    BLUE: ("blue", "#3f98e0"), SKY: ("sky", "#a5dcff"),
}  # fmt: skip
"""Colours that are others on a dark page: their names, and those."""

VARIANT_COLORS = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", SKY, INK)

OTHER = "#9a9fa6"
"""Of variants beyond seven."""

VERDICTS = {"better": BLUE, "worse": "#d55e00", "equal": "#009e73"}

OUTCOME_COLORS = dict(zip(OUTCOMES, ("#0571b0", "#e69f00", "#b5427f", "#7cc5ea", "#009e73"), strict=True))

REGIONS = ("all", "foreground", "edge")

WIDTH = 3.5
"""Inches: one column of a journal. At 320 px, letters of 8 pt are 10 px high."""

MOST_CLASSES = 60

FONTS = "'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
"""For an SVG's letters: narrower than DejaVu Sans, by which they are laid out, so that all fit."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "text.parse_math": False,  # a name may hold a $
    "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
    "ytick.major.width": 0.7, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "hatch.linewidth": 0.7, "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.07, "figure.constrained_layout.h_pad": 0.06,
    "svg.fonttype": "none", "svg.hashsalt": "segstudy", "pdf.fonttype": 42,  # text stays text
}  # fmt: skip


def draw_all(group: Group) -> dict[str, Figure]:
    """All that can be drawn of a group, by name: forest_<metric>, outcomes, distributions, operating_spilled,
    operating_hallucinated, learning, classes, reliability."""
    drawn: dict[str, Figure | None] = {
        f"forest_{metric}": forest_plot(group, metric) for metric in dict.fromkeys(d.metric for d in group.differences)
    }
    drawn |= {
        "outcomes": object_outcomes(group),
        "distributions": distributions(group),
        "operating_spilled": operating(group, "spilled"),
        "operating_hallucinated": operating(group, "hallucinated"),
        "learning": learning(group),
        "classes": classes(group),
        "reliability": reliability(group),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


@rc_context(STYLE)
def forest_plot(group: Group, metric: str) -> Figure | None:
    """Planned differences: wide bar, the interval corrected for the number of pairs; thin line, plain 95 %.

    Hatched and hollow: one training per variant. None if there is no such difference.
    """
    rows = [d for d in group.differences if d.metric == metric]
    if not rows:
        return None
    drawn = _figure(0.62 + 0.36 * len(rows))
    ax = drawn.subplots()
    if math.isfinite(group.margin):
        ax.axvspan(-group.margin, group.margin, color=GRID, alpha=0.6, linewidth=0)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    for place, difference in zip(reversed(range(len(rows))), rows, strict=True):
        _difference(ax, place, difference, has_one_seed(group, difference))
    ends = [v for d in rows for v in (d.wide_low, d.wide_high, d.low, d.high, d.delta, 0.0) if math.isfinite(v)]
    room = 0.06 * (max(ends) - min(ends) or 0.02)
    ax.set(xlim=(min(ends) - room, max(ends) + room), ylim=(-0.4, len(rows) - 0.3), yticks=[])
    ax.set_xlabel(f"difference in {metric_label(metric)}")
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(_tick)
    ax.spines["left"].set_visible(False)
    return drawn


def _difference(ax: Axes, y: int, d: Difference, alone: bool) -> None:
    """One row of a forest plot: what is compared and the verdict above its interval."""
    grey = alone or d.verdict in ("ahead", "behind", "undecided")
    color = MUTED if grey else VERDICTS[d.verdict]
    # What lies behind is covered: lines through letters cannot be read.
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.7}
    plain: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "fontsize": 7.5, "bbox": paper}
    ax.text(0, y + 0.3, f"{shorten(d.b, 20)} − {shorten(d.a, 20)}", **plain)
    said = d.verdict if math.isfinite(d.delta) else "n/a"
    ax.text(1, y + 0.3, said, ha="right", color=color, **plain)
    if not math.isfinite(d.delta):
        return
    if math.isfinite(d.wide_low) and math.isfinite(d.wide_high):
        interval = Rectangle(
            (d.wide_low, y - 0.13), d.wide_high - d.wide_low, 0.26,
            facecolor="none" if alone else (*to_rgb(color), 0.3), edgecolor=color if alone else "none",
            hatch="/////" if alone else None, linewidth=0.6,
        )  # fmt: skip
        ax.add_patch(interval)
    ax.plot([d.low, d.high], [y, y], color=color, linewidth=1.3, solid_capstyle="butt")
    ax.plot(d.delta, y, "o", color=color, markersize=4.5, markerfacecolor=PAPER if alone else color)


@rc_context(STYLE)
def object_outcomes(group: Group) -> Figure | None:
    """Object outcomes: shares of the objects, and thin below, of their area. None if none were counted."""
    rows = [v for v in group.variants if any(math.isfinite(x) for x in v.outcomes.values())]
    if not rows:
        return None
    drawn = _figure(0.62 + 0.46 * len(rows))
    ax = drawn.subplots()
    for y, variant in zip(reversed(range(len(rows))), rows, strict=True):
        ax.text(0, y + 0.27, shorten(variant.name, 44), fontsize=7.5)
        _stack(ax, y + 0.02, 0.36, variant.outcomes, True)
        _stack(ax, y - 0.26, 0.13, variant.outcome_areas, False)
    ax.set(xlim=(0, 1), ylim=(-0.4, len(rows) - 0.4), yticks=[], xlabel="share of objects; thin bar: of their area")
    ax.xaxis.set_major_formatter(_tick)
    ax.spines["left"].set_visible(False)
    keys = [Patch(color=color, label=name) for name, color in OUTCOME_COLORS.items()]
    drawn.legend(
        handles=keys, loc="outside upper left", ncols=5, handlelength=0.8, handletextpad=0.35, columnspacing=0.8
    )
    return drawn


def _stack(ax: Axes, y: float, height: float, values: Mapping[str, float], named: bool) -> None:
    left = 0.0
    for name in OUTCOMES:
        value = values.get(name, math.nan)
        if not math.isfinite(value) or value <= 0:
            continue
        color = OUTCOME_COLORS[name]
        ax.barh(y, value, height, left=left, color=color, edgecolor=PAPER, linewidth=0.5)
        if named and value >= 0.065:
            ax.text(
                left + value / 2,
                y - 0.02,
                format_fraction(value, 2),
                ha="center",
                va="center",
                color=_readable_on(color),
                fontsize=7,
            )
        left += value


@rc_context(STYLE)
def distributions(group: Group) -> Figure | None:
    """The share of objects of which at most so much was found, and so pure: where a curve crosses a dashed line stands
    the share of an outcome, and how it would change with the limit. None if no object was counted.
    """
    panels = {"found": ("share found", (FOUND_AT_ALL, FOUND_WHOLE)), "purity": ("most frequent label in it", (PURE,))}
    named = {v.name: v for v in group.variants if v.histograms}
    there = [key for key in panels if any(key in v.histograms for v in named.values())]
    if not there:
        return None
    drawn = _figure(1.9, named)
    colors = colors_of(group)
    for ax, key in zip(drawn.subplots(1, len(there), sharey=True, squeeze=False)[0], there, strict=True):
        title, limits = panels[key]
        for limit in limits:
            ax.axvline(limit, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        for name, variant in named.items():
            if key in variant.histograms:
                shares = np.concatenate([[0], np.cumsum(variant.histograms[key])])
                x = np.linspace(0, 1, len(shares))
                ax.plot(x, shares, color=colors[name], linewidth=1.2, zorder=_order(colors[name]))
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], xlabel=title)
        _plain_axes(ax)
    drawn.axes[0].set_ylabel("share of objects up to it")
    _legend(drawn, group, named)
    return drawn


@rc_context(STYLE)
def operating(group: Group, against: str) -> Figure | None:
    """Missed foreground against what is `spilled` or `hallucinated`, as the background's logit is shifted.

    The large point is the network as trained (offset 0). None if no curve is there.
    """
    column = {"spilled": 2, "hallucinated": 3}[against]
    curves = {v.name: np.array(sorted(v.offsets), float)[:, [0, 1, column]] for v in group.variants if v.offsets}
    curves = {n: c[np.isfinite(c).all(1)] for n, c in curves.items()}
    curves = {n: c for n, c in curves.items() if len(c)}
    if not curves:
        return None
    drawn = _figure(2.7, curves)
    ax = drawn.subplots()
    colors = colors_of(group)
    for name, c in curves.items():
        order = _order(colors[name])
        ax.plot(c[:, 1], c[:, 2], "-o", color=colors[name], linewidth=1.2, markersize=2, zorder=order)
        here = c[c[:, 0] == 0]
        ax.plot(
            here[:, 1], here[:, 2], "o", color=colors[name], markersize=6.5, markeredgecolor=PAPER, zorder=order + 0.5
        )
    ax.set(
        xlabel="missed foreground (false-negative rate)",
        ylabel=f"{against} {'background' if against == 'spilled' else 'pixels'}",
    )
    ax.set_xlim(0, max(float(c[:, 1].max()) for c in curves.values()) * 1.05 or 1)
    ax.set_ylim(0, max(float(c[:, 2].max()) for c in curves.values()) * 1.05 or 1)
    _plain_axes(ax)
    _legend(drawn, group, curves)
    return drawn


@rc_context(STYLE)
def learning(group: Group) -> Figure | None:
    """Validation mIoU over the epochs: a thin line a training, a thick one their mean. None without two epochs."""
    curves = {v.name: [c for rows in v.history if len(c := _curve(rows))] for v in group.variants}
    curves = {name: lines for name, lines in curves.items() if lines}
    if max((len(line) for lines in curves.values() for line in lines), default=0) < 2:
        return None
    direct = len(curves) <= len(VARIANT_COLORS) and max(map(len, curves)) <= 14
    drawn = _figure(2.5, None if direct else curves)
    ax = drawn.subplots()
    colors = colors_of(group)
    ends = {}
    for name, lines in curves.items():
        for line in lines if len(lines) > 1 else ():
            ax.plot(line[:, 0], line[:, 1], color=colors[name], linewidth=0.6, alpha=0.55)
        mean = _mean_curve(lines)
        width = 0.8 if colors[name] == OTHER else 1.6
        dot, order = "o" if len(mean) == 1 else "", _order(colors[name])
        ax.plot(mean[:, 0], mean[:, 1], color=colors[name], linewidth=width, marker=dot, zorder=order)
        ends[name] = float(mean[-1, 1])
    ax.set(xlabel="epoch", ylabel="validation mIoU")
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    _plain_axes(ax, x=False)
    if direct:
        _name_ends(ax, ends, colors)
    else:
        _legend(drawn, group, curves)
    return drawn


def _curve(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    """(epoch, val/miou) of the epochs that were validated."""
    points = [(row["epoch"], row["val/miou"]) for row in rows if math.isfinite(row.get("val/miou", math.nan))]
    return np.array(points, float).reshape(-1, 2)


def _mean_curve(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the trainings at the epochs that all have; the first training's curve where none is common."""
    common = sorted(set.intersection(*({float(e) for e in line[:, 0]} for line in lines)))
    if not common:
        return lines[0]
    return np.array([[e, np.mean([line[line[:, 0] == e, 1][0] for line in lines])] for e in common])


def _name_ends(ax: Axes, ends: Mapping[str, float], colors: Mapping[str, str]) -> None:
    """Names to the right of where curves end, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    gap = 0.075 * (high - low)
    order = sorted(ends, key=lambda name: ends[name])
    places = [ends[name] for name in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    over = max(0.0, places[-1] - (high - gap / 2))
    for name, y in zip(order, places, strict=True):
        place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 8}
        ax.text(1.02, y - over, shorten(name, 14), color=colors[name], **place)
    ax.set_ylim(low, high)


@rc_context(STYLE)
def classes(group: Group) -> Figure | None:
    """IoU of each class (row) in each variant (column); grey: too few images to say more. None if none is defined.

    Of more than 60 classes, those that differ most between the variants.
    """
    if not group.variants or not len(group.classes):
        return None
    iou = np.array([v.class_iou for v in group.variants], float).T
    order = shown_classes(group)
    if not order:
        return None
    columns = len(group.variants)
    name_room, cell = 1.55, 0.42 if columns <= 4 else 0.3
    longest = max(min(len(v.name), 24) for v in group.variants)
    above = 0.8 if columns <= 4 else 0.5 + 0.065 * longest  # names stand upright there
    drawn = Figure((max(WIDTH, name_room + (cell if columns <= 6 else 0.17) * columns), above + 0.165 * len(order)))
    drawn.set_layout_engine("constrained")
    ax = drawn.subplots()
    _heat_map(ax, iou[order], group.supported[order])
    names = [f"{shorten(group.classes[c], 18)} ({group.class_images[c]:,})" for c in order]
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(len(order) - 0.5, -0.5))
    ax.set_yticks(range(len(order)), names)
    for text, c in zip(ax.get_yticklabels(), order, strict=True):
        text.set_color(INK if group.supported[c] else MUTED)
    _column_names(ax, [v.name for v in group.variants])
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    return drawn


def _column_names(ax: Axes, names: Sequence[str]) -> None:
    """Above a heat map: in lines where columns are wide enough, else upright."""
    letters = 30 // len(names)
    if len(names) <= 4 or max(map(len, names)) <= letters:
        lines = [[shorten(line, letters) for line in wrap(n, letters, break_long_words=False)[:3]] for n in names]
        ax.set_xticks(range(len(names)), ["\n".join(part) for part in lines], fontsize=7)
    else:
        ax.set_xticks(range(len(names)), [shorten(n, 24) for n in names], rotation=90, fontsize=7)


def shown_classes(group: Group) -> list[int]:
    """Classes of the heat map, supported ones first, best first; without truth: left out."""
    iou = np.array([v.class_iou for v in group.variants], float).T
    there = [c for c in range(len(group.classes)) if np.isfinite(iou[c]).any()]
    if len(there) > MOST_CLASSES:
        spread = {c: np.nanmax(iou[c]) - np.nanmin(iou[c]) for c in there}
        there = sorted(there, key=lambda c: (not group.supported[c], -spread[c]))[:MOST_CLASSES]
    return sorted(there, key=lambda c: (not group.supported[c], -float(np.nanmean(iou[c]))))


def _heat_map(ax: Axes, iou: np.ndarray, supported: np.ndarray) -> None:
    """Fields of a heat map, with their numbers where there is room; iou (classes, variants)."""
    fields, colors = [], []
    for (y, x), value in np.ndenumerate(iou):
        if not math.isfinite(value):
            ax.text(x, y, "n/a", ha="center", va="center", fontsize=6.5, color=MUTED)
            continue
        # Greys end half-way: they are not to catch the eye.
        named, end = ("Blues", 0.9) if supported[y] else ("Greys", 0.45)
        colors.append(matplotlib.colormaps[named](0.06 + end * value))
        fields.append(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94))
        if iou.shape[1] <= 6:
            ax.text(
                x,
                y,
                format_fraction(value, 2),
                ha="center",
                va="center_baseline",
                fontsize=7,
                color=_readable_on(colors[-1]),
            )
    ax.add_collection(PatchCollection(fields, facecolors=colors, linewidths=0))


@rc_context(STYLE)
def reliability(group: Group) -> Figure | None:
    """Accuracy against confidence in all pixels, the foreground and near edges. None if not measured."""
    there = [r for r in REGIONS if any(len(v.reliability.get(r, ())) for v in group.variants)]
    if not there:
        return None
    named = {v.name: v for v in group.variants if any(len(v.reliability.get(r, ())) for r in there)}
    drawn = _figure(1.55, named)
    colors = colors_of(group)
    for ax, region in zip(drawn.subplots(1, len(there), sharey=True, squeeze=False)[0], there, strict=True):
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        for name, variant in named.items():
            points = np.array(sorted(variant.reliability.get(region, ())), float).reshape(-1, 3)
            x, y, _ = points[np.isfinite(points).all(1)].T
            ax.plot(x, y, "-o", color=colors[name], linewidth=1, markersize=1.4, zorder=_order(colors[name]))
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_title({"all": "all pixels", "edge": "near edges"}.get(region, region), fontsize=7.5)
        _plain_axes(ax)
    drawn.supxlabel("mean confidence", fontsize=8)
    drawn.axes[0].set_ylabel("accuracy")
    _legend(drawn, group, named)
    return drawn


def colors_of(group: Group) -> dict[str, str]:
    """A colour for each variant, the same in all plots; of more than seven, for the first and the best."""
    first, *rest = [v.name for v in group.variants]
    miou = {v.name: v.miou.value if math.isfinite(v.miou.value) else -1.0 for v in group.variants}
    best = sorted(rest, key=lambda name: -miou[name])[: len(VARIANT_COLORS) - 1]
    chosen = [first, *(name for name in rest if name in best)]
    return dict.fromkeys(rest, OTHER) | dict(zip(chosen, VARIANT_COLORS, strict=False))


def save(figure: Figure, stem: Path) -> None:
    """Write `<stem>.svg` and `<stem>.pdf`; the same figure gives the same bytes."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a browser has other letters, a PDF has not
        svg = io.StringIO()
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
        text = svg.getvalue().replace("'DejaVu Sans'", FONTS)
        stem.with_suffix(".svg").write_text(text, encoding="utf-8")
        FigureCanvasPdf(figure).print_pdf(stem.with_suffix(".pdf"), metadata={"CreationDate": None})


def follow_theme(svg: str) -> str:
    """An SVG whose lines and letters follow a page's light or dark colours."""
    for color, (name, _) in THEME.items():
        svg = svg.replace(color, f"var(--{name})")
    light = "".join(f"--{name}:{color};" for color, (name, _) in THEME.items())
    dark = "".join(f"--{name}:{color};" for name, color in THEME.values())
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, tag, rest = svg.partition("<defs>")
    return f"{head}{style}{tag}{rest}"


def _figure(height: float, legend: Mapping[str, object] | None = None) -> Figure:
    """A figure one column wide; legend: names that stand above the axes."""
    return Figure((WIDTH, height + (_legend_height(legend) if legend else 0)), layout="constrained")


def _order(color: str) -> float:
    """Drawing order: grey lines lie below the others."""
    return 2.0 if color == OTHER else 3.0


def _legend(drawn: Figure, group: Group, names: Mapping[str, object]) -> None:
    """Names in their colours above the axes; grey ones under one name."""
    colors = colors_of(group)
    shown = {n: colors[n] for n in names if colors[n] != OTHER}
    if len(shown) < len(names):
        shown[f"{len(names) - len(shown)} others"] = OTHER
    lines = [Line2D([], [], color=c, linewidth=2, label=shorten(n, 44)) for n, c in shown.items()]
    drawn.legend(
        handles=lines, loc="outside upper left", ncols=_legend_columns(shown), handlelength=1.1, handletextpad=0.4,
        columnspacing=1.1, labelcolor="linecolor",
    )  # fmt: skip


def _legend_columns(names: Mapping[str, object]) -> int:
    longest = max(min(len(n), 44) for n in names)
    return max(1, min(len(names), 46 // (longest + 5)))


def _legend_height(names: Mapping[str, object]) -> float:
    """Inches that the key takes."""
    return 0.16 * -(-min(len(names), len(VARIANT_COLORS) + 1) // _legend_columns(names)) + 0.05


def _plain_axes(ax: Axes, x: bool = True) -> None:
    """A light grid, and shares without their leading 0."""
    ax.grid(True)
    for axis in (ax.xaxis, ax.yaxis) if x else (ax.yaxis,):
        axis.set_major_formatter(_tick)


def _tick(value: float, _: float) -> str:
    """.5, 1, −.02."""
    return format_fraction(value, 4).rstrip("0").rstrip(".") or "0"


def _readable_on(color: Any) -> str:
    """Black or white letters, whichever can be read on the colour."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(color)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "#000000" if luminance > 0.2 else "#ffffff"  # WCAG's contrast, a little in favour of white

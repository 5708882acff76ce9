"""A study's plots for its report and for papers, as wide as a journal's column; readable on a phone, too.

Colours after Okabe and Ito, which colour-blind readers can distinguish.
"""

import io
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from segstudy.formatting import NOT_DEFINED, format_number, format_percent
from segstudy.measures.objects import FOUND_AT_ALL, FOUND_WHOLE, PURE
from segstudy.study.analysis.findings import Difference, Group
from segstudy.study.report.text import OUTCOME_WORDS, has_one_seed, shorten

INK, MUTED, GRID, PAPER = "#1b1f24", "#6b727b", "#d9dee4", "#fffffe"

BLUE, SKY = "#0072b2", "#56b4e9"

THEME = {
    INK: ("ink", "#e6e8eb"), MUTED: ("muted", "#9aa4b0"), GRID: ("grid", "#363d46"), PAPER: ("paper", "#15181c"),
    BLUE: ("blue", "#3f98e0"), SKY: ("sky", "#a5dcff"),
}  # fmt: skip
"""Colours that change on a dark page → name of the CSS variable, colour there."""

VARIANT_COLORS = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", SKY, INK)

OTHER = "#9a9fa6"
"""Colour of all variants beyond the seventh."""

VERDICTS = {"better": BLUE, "worse": "#d55e00", "equal": "#009e73"}

OUTCOME_COLORS = {
    "right": "#009e73", "partial": "#7cc5ea", "mixed": "#e69f00", "wrong label": "#b5427f", "missed": "#0571b0",
}  # fmt: skip

REGIONS = {"all": "all pixels", "foreground": "foreground", "edge": "near edges"}

CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}

DASHED: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (3, 2))}

WIDTH = 3.5
"""Inches: a journal's column. On a screen 320 px wide, 8 pt letters are 10 px high."""

FONTS = "'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
"""Fonts of an SVG. They are narrower than DejaVu Sans, which the layout is computed with, so all text fits."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "text.parse_math": False,  # a name may hold a $
    "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
    "ytick.major.width": 0.7, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "hatch.linewidth": 0.7, "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.07, "figure.constrained_layout.h_pad": 0.06,
    "lines.linewidth": 1.2, "svg.fonttype": "none", "svg.hashsalt": "segstudy", "pdf.fonttype": 42,  # text stays text
}  # fmt: skip


def draw_all(group: Group) -> dict[str, Figure]:
    """All plots that a group has data for, by name."""
    drawn = {
        "forest_miou": forest_plot(group),
        "outcomes": object_outcomes(group),
        "distributions": distributions(group),
        "operating_spilled": operating(group, "spilled"),
        "operating_hallucinated": operating(group, "hallucinated"),
        "learning": learning(group),
        "reliability": reliability(group),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


@rc_context(STYLE)
def forest_plot(group: Group) -> Figure | None:
    """Planned differences. Wide bar: interval corrected for the number of pairs; thin line: plain 95 % interval.

    Hatched and hollow: a variant has only one training. None without planned differences.
    """
    rows = group.differences
    if not rows:
        return None
    figure = Figure((WIDTH, 0.62 + 0.36 * len(rows)), layout="constrained")
    ax = figure.subplots()
    if math.isfinite(group.margin):
        ax.axvspan(-group.margin, group.margin, color=GRID, alpha=0.6, linewidth=0)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    for i, difference in enumerate(rows, 1):
        _difference(ax, len(rows) - i, difference, has_one_seed(group, difference))
    ends = [v for d in rows for v in (d.wide_low, d.wide_high, d.low, d.high, d.delta, 0.0) if math.isfinite(v)]
    room = 0.06 * (max(ends) - min(ends) or 0.02)
    ax.set(xlim=(min(ends) - room, max(ends) + room), ylim=(-0.4, len(rows) - 0.3), yticks=[])
    ax.set_xlabel("difference in mIoU")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(_tick)
    ax.spines["left"].set_visible(False)
    return figure


def _difference(ax: Axes, y: int, d: Difference, alone: bool) -> None:
    """One row of a forest plot: the variants and the verdict as text above the interval."""
    color = MUTED if alone else VERDICTS.get(d.verdict, MUTED)
    # The text has a background, since lines behind letters make them hard to read.
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.7}
    plain: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "fontsize": 7.5, "bbox": paper}
    ax.text(0, y + 0.3, f"{shorten(d.b, 20)} − {shorten(d.a, 20)}", **plain)
    known = math.isfinite(d.delta)
    ax.text(1, y + 0.3, d.verdict if known else NOT_DEFINED, ha="right", color=color, **plain)
    if not known:
        return
    if math.isfinite(d.wide_low) and math.isfinite(d.wide_high):
        look: dict[str, Any] = {"facecolor": (*to_rgb(color), 0.3), "edgecolor": "none"}
        if alone:
            look = {"facecolor": "none", "edgecolor": color, "hatch": "/////"}
        ax.add_patch(Rectangle((d.wide_low, y - 0.13), d.wide_high - d.wide_low, 0.26, linewidth=0.6, **look))
    ax.plot([d.low, d.high], [y, y], color=color, linewidth=1.3, solid_capstyle="butt")
    ax.plot(d.delta, y, "o", color=color, markersize=4.5, markerfacecolor=PAPER if alone else color)


@rc_context(STYLE)
def object_outcomes(group: Group) -> Figure | None:
    """Object outcomes as shares of the objects. None if no objects were counted."""
    rows = [v for v in group.variants if any(math.isfinite(x) for x in v.outcomes.values())]
    if not rows:
        return None
    figure = Figure((WIDTH, 0.62 + 0.42 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for y, variant in enumerate(reversed(rows)):
        ax.text(0, y + 0.27, shorten(variant.name, 44), fontsize=7.5)
        left = 0.0
        for name, color in OUTCOME_COLORS.items():
            if (share := variant.outcomes.get(name, math.nan)) > 0:  # and not NaN
                ax.barh(y, share, 0.4, left=left, color=color, edgecolor=PAPER, linewidth=0.5)
                if share >= 0.075:
                    ax.text(left + share / 2, y, format_percent(share), color=_readable_on(color), **CENTRED)
                left += share
    ax.set(xlim=(0, 1), ylim=(-0.4, len(rows) - 0.4), yticks=[], xlabel="share of objects")
    ax.xaxis.set_major_formatter(_tick)
    ax.spines["left"].set_visible(False)
    keys = [Patch(color=color, label=OUTCOME_WORDS[name][0]) for name, color in OUTCOME_COLORS.items()]
    spacing = {"handlelength": 0.8, "handletextpad": 0.35, "columnspacing": 0.8}
    figure.legend(handles=keys, loc="outside upper left", ncols=5, **spacing)
    return figure


@rc_context(STYLE)
def distributions(group: Group) -> Figure | None:
    """Cumulative distributions over the objects: of the share found, and of the most frequent label's share.

    A curve's height at a dashed line is the share of objects below that limit between outcomes; its slope shows how an
    outcome's share depends on the limit. None if no objects were counted.
    """
    panels = {"found": ("share found", (FOUND_AT_ALL, FOUND_WHOLE)), "purity": ("most frequent label in it", (PURE,))}
    measured = [v for v in group.variants if v.histograms]
    keys = [key for key in panels if any(key in v.histograms for v in measured)]
    if not keys:
        return None
    figure, axes = _panels(group, [v.name for v in measured], 1.9, len(keys))
    for ax, key in zip(axes, keys, strict=True):
        title, limits = panels[key]
        for limit in limits:
            ax.axvline(limit, **DASHED)
        for variant in measured:
            if key in variant.histograms:
                shares = np.concatenate([[0], np.cumsum(variant.histograms[key])])
                ax.plot(np.linspace(0, 1, len(shares)), shares, **_line(group, variant.name))
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], xlabel=title)
    axes[0].set_ylabel("cumulative share of objects")
    return figure


@rc_context(STYLE)
def operating(group: Group, against: str) -> Figure | None:
    """`spilled` or `hallucinated` pixels against missed foreground, for shifts of the background logit.

    The large point is the network as trained (offset 0). None without curves.
    """
    column = {"spilled": 2, "hallucinated": 3}[against]
    measured = {v.name: np.array(sorted(v.offsets), float)[:, [0, 1, column]] for v in group.variants if v.offsets}
    finite = {name: curve[np.isfinite(curve).all(1)] for name, curve in measured.items()}
    curves = {name: curve for name, curve in finite.items() if len(curve)}
    if not curves:
        return None
    figure, (ax,) = _panels(group, curves, 2.7)
    for name, curve in curves.items():
        line = _line(group, name)
        ax.plot(*curve[:, 1:].T, "-o", markersize=2, **line)
        trained = curve[curve[:, 0] == 0]
        line["zorder"] += 0.5
        ax.plot(*trained[:, 1:].T, "o", markersize=6.5, markeredgecolor=PAPER, **line)
    right, top = np.concatenate(list(curves.values()))[:, 1:].max(0) * 1.05
    ax.set(xlim=(0, right or 1), ylim=(0, top or 1), xlabel="missed foreground (false-negative rate)")
    ax.set_ylabel("spilled background" if against == "spilled" else "hallucinated pixels")
    return figure


@rc_context(STYLE)
def learning(group: Group) -> Figure | None:
    """Validation mIoU over the epochs: thin lines for trainings, thick for their mean. None without two epochs."""
    all_curves = {v.name: [curve for rows in v.history if len(curve := _curve(rows))] for v in group.variants}
    curves = {name: lines for name, lines in all_curves.items() if lines}
    if max((len(line) for lines in curves.values() for line in lines), default=0) < 2:
        return None
    figure, (ax,) = _panels(group, curves, 2.5)
    for name, lines in curves.items():
        look = _line(group, name)
        for line in lines if len(lines) > 1 else ():
            ax.plot(*line.T, linewidth=0.6, alpha=0.55, color=look["color"])
        mean = _mean_curve(lines)
        width = 0.8 if look["color"] == OTHER else 1.6
        ax.plot(*mean.T, linewidth=width, marker="o" if len(mean) == 1 else "", **look)
    ax.set(xlabel="epoch", ylabel="validation mIoU, all classes")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    return figure


def _curve(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    """(epoch, val/miou) of the epochs that were validated."""
    points = [(row["epoch"], row["val/miou"]) for row in rows if math.isfinite(row.get("val/miou", math.nan))]
    return np.array(points, float).reshape(-1, 2)


def _mean_curve(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the trainings at the epochs that all have; the first training's curve if there are none."""
    common = sorted(set.intersection(*(set(line[:, 0].tolist()) for line in lines)))
    if not common:
        return lines[0]
    return np.mean([line[np.isin(line[:, 0], common)] for line in lines], 0)


@rc_context(STYLE)
def reliability(group: Group) -> Figure | None:
    """Accuracy against confidence: over all pixels, the foreground, and near edges. None if not measured."""
    there = [r for r in REGIONS if any(len(v.reliability.get(r, ())) for v in group.variants)]
    if not there:
        return None
    measured = [v for v in group.variants if any(len(v.reliability.get(r, ())) for r in there)]
    figure, axes = _panels(group, [v.name for v in measured], 1.55, len(there))
    for ax, region in zip(axes, there, strict=True):
        ax.plot([0, 1], [0, 1], **DASHED)
        for variant in measured:
            points = np.array(sorted(variant.reliability.get(region, ())), float).reshape(-1, 3)
            confidence, accuracy, _ = points[np.isfinite(points).all(1)].T
            ax.plot(confidence, accuracy, "-o", linewidth=1, markersize=1.4, **_line(group, variant.name))
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_title(REGIONS[region], fontsize=7.5)
    figure.supxlabel("mean confidence", fontsize=8)
    axes[0].set_ylabel("accuracy")
    return figure


def colors_of(group: Group) -> dict[str, str]:
    """A colour for each variant, the same in all plots. With more than seven, the first and the best six have their
    own colour; the others are grey."""
    first, *rest = [v.name for v in group.variants]
    miou = {v.name: v.miou.value if math.isfinite(v.miou.value) else -1.0 for v in group.variants}
    best = sorted(rest, key=lambda name: -miou[name])[: len(VARIANT_COLORS) - 1]
    chosen = [first, *(name for name in rest if name in best)]
    return dict.fromkeys(rest, OTHER) | dict(zip(chosen, VARIANT_COLORS, strict=False))


def _line(group: Group, name: str) -> dict[str, Any]:
    """Style of a variant's line; grey lines are drawn below the others."""
    color = colors_of(group)[name]
    return {"color": color, "zorder": 2.0 if color == OTHER else 3.0}


def _panels(group: Group, names: Collection[str], height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Axes side by side with a light grid, and a legend above; grey variants share one entry."""
    colors = colors_of(group)
    shown = {shorten(n, 44): colors[n] for n in names if colors[n] != OTHER}
    if len(shown) < len(names):
        shown[f"{len(names) - len(shown)} others"] = OTHER
    beside = max(1, min(len(shown), 46 // (max(map(len, shown)) + 5)))
    figure = Figure((WIDTH, height + 0.05 + 0.16 * math.ceil(len(shown) / beside)), layout="constrained")
    lines = [Line2D([], [], color=color, linewidth=2, label=name) for name, color in shown.items()]
    spacing = {"handlelength": 1.1, "handletextpad": 0.4, "columnspacing": 1.1}
    figure.legend(handles=lines, loc="outside upper left", ncols=beside, labelcolor="linecolor", **spacing)
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for ax in axes:
        ax.grid(True)
        ax.xaxis.set_major_formatter(_tick)
        ax.yaxis.set_major_formatter(_tick)
    return figure, axes


def _tick(value: float, _: float) -> str:
    """0.5, 1, −0.02."""
    return format_number(value, 4).rstrip("0").rstrip(".") or "0"


def _readable_on(color: Any) -> str:
    """Black or white, whichever is readable on the colour."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(color)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "#000000" if luminance > 0.2 else "#ffffff"  # WCAG contrast, slightly in favour of white


def save(figure: Figure, stem: Path) -> None:
    """Write `<stem>.svg` and `<stem>.pdf`; the same figure always gives the same bytes."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a browser has other fonts for them
        svg = io.StringIO()
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
        text = svg.getvalue().replace("'DejaVu Sans'", FONTS)
        stem.with_suffix(".svg").write_text(text, encoding="utf-8")
        FigureCanvasPdf(figure).print_pdf(stem.with_suffix(".pdf"), metadata={"CreationDate": None})


def follow_theme(svg: str) -> str:
    """An SVG whose lines and text use the page's light or dark colours."""
    for color, (name, _) in THEME.items():
        svg = svg.replace(color, f"var(--{name})")
    light = "".join(f"--{name}:{color};" for color, (name, _) in THEME.items())
    dark = "".join(f"--{name}:{color};" for name, color in THEME.values())
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return svg.replace("<defs>", f"{style}<defs>", 1)

"""Pictures: labels in colours, grids with titles, legends."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # without pyplot, which would choose a backend for a notebook too
from matplotlib.patches import Patch
from PIL import Image

from segstudy.files import atomic_write
from segstudy.labels import IGNORE

Palette = Sequence[tuple[int, int, int]]
VOID = (224, 224, 192)
"""Colour of ignored pixels (255): the cream of the VOC devkit."""
TALL = 1.5
"""Largest ratio of height to width of the cells of a grid; taller pictures are fitted in."""
WIDTH, GUTTER = 1.65, 0.05
"""Width of a column of a grid and of the gap beside it, in inches."""

ERRORS = {"correct": (235, 235, 235), "missed": (66, 133, 244), "spilled": (255, 160, 0), "mislabelled": (200, 30, 110)}


def colorize(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Labels (H,W) → RGB uint8 (H,W,3); 255 in the colour VOID."""
    table = np.full((256, 3), VOID, np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def error_picture(truth: np.ndarray, prediction: np.ndarray, background: int | None = 0) -> np.ndarray:
    """Kind of error of each pixel: RGB uint8 (H,W,3) in the colours of ERRORS; ignored pixels in the colour VOID."""
    kind = np.select(
        [truth == IGNORE, truth == prediction, truth == background, prediction == background], [IGNORE, 0, 2, 1], 3
    )
    return colorize(kind, list(ERRORS.values()))


def photo_of(image: np.ndarray, factor: int = 1) -> np.ndarray:
    """What is shown of an image uint8 (H,W,channels): RGB uint8 (⌈H/factor⌉,⌈W/factor⌉,3), the mean of each block of
    factor×factor pixels. Of more than three channels, the first three; of fewer, the first in grey.
    """
    photo = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(photo)).reduce(factor)) if factor > 1 else photo


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    legend: dict[str, tuple[int, int, int]],
    row_names: Sequence[str] = (),
) -> Figure:
    """Pictures in rows and columns, with a title above each column, a name above each row, and the legend below.

    A row is as high as its highest picture at full width, at most TALL times the width; other pictures are fitted in.
    """
    titles, row_names = [plain(title) for title in titles], [plain(name) for name in row_names]
    columns = len(titles)
    lines = -(-len(legend) // max(1, columns))
    gap = 0.17 if row_names else 0.05
    above = 0.13 + 0.15 * max(title.count("\n") + 1 for title in titles) + gap * bool(row_names)
    heights = [WIDTH * min(TALL, max(p.shape[0] / p.shape[1] for p in row)) for row in rows]
    size = (WIDTH + GUTTER) * columns + GUTTER, sum(heights) + gap * len(rows) + above + 0.15 + 0.16 * lines
    figure = Figure(figsize=size)
    # One pair of axes, in inches: a pair for each picture takes longer than all the rest.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    top = size[1] - above
    for r, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for c, picture in enumerate(row):
            left = GUTTER + c * (WIDTH + GUTTER)
            axes.imshow(picture, interpolation="nearest", extent=_fitted(picture, left, top, height), aspect="auto")
            if r == 0:
                bottom = top + (0.2 if row_names else 0.07)
                axes.text(left + WIDTH / 2, bottom, titles[c], fontsize=9, ha="center", va="bottom")
            if c == 0 and row_names:
                axes.text(left, top + 0.03, row_names[r], fontsize=7, va="bottom")
        top -= height + gap
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
    colors = {name: (red / 255, green / 255, blue / 255) for name, (red, green, blue) in legend.items()}
    patches = [Patch(facecolor=color, edgecolor="0.6", label=plain(name)) for name, color in colors.items()]
    figure.legend(handles=patches, loc="lower center", ncols=columns, fontsize=7, frameon=False)
    return figure


def plain(text: str) -> str:
    """A text for Matplotlib: without control characters, and $ is no formula, on which Matplotlib may fail."""
    return "".join(c for c in text if c.isprintable() or c == "\n").replace("$", r"\$")


def _fitted(picture: np.ndarray, left: float, top: float, height: float) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of a picture in the middle of a cell of WIDTH × `height`, as large as it fits in."""
    scale = min(WIDTH / picture.shape[1], height / picture.shape[0])
    high, wide = scale * picture.shape[0], scale * picture.shape[1]
    x, y = left + (WIDTH - wide) / 2, top - (height - high) / 2
    return x, x + wide, y - high, y


def class_legend(labels: Sequence[np.ndarray], classes: Sequence[str], palette: Palette) -> dict:
    """Names and colours of the classes in `labels`, and of void if it occurs."""
    present = sorted(set(np.concatenate([np.unique(a) for a in labels]).tolist()))
    legend = {classes[c]: palette[c] for c in present if c != IGNORE}
    return legend | ({"void (ignored)": VOID} if IGNORE in present else {})


def save(figure: Figure, file: Path | BinaryIO) -> None:
    """Write the figure: to an open file as PNG, to a path in the format of its suffix, completely or not at all."""
    if isinstance(file, Path):
        with atomic_write(file.parent, file.name) as opened:
            figure.savefig(opened, dpi=110, format=file.suffix[1:])
    else:
        figure.savefig(file, dpi=110)


def as_array(figure: Figure) -> np.ndarray:
    """RGB uint8 (H,W,3) of a figure."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

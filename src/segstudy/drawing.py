"""Pictures: labels in colours, grids with titles, legends."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # without pyplot, which would choose a backend for a notebook too
from matplotlib.patches import Patch
from PIL import Image

from segstudy.labels import IGNORE

Palette = Sequence[tuple[int, int, int]]
VOID = (224, 224, 192)
"""Colour of ignored pixels (255): the cream of the VOC devkit."""
TALL = 1.5
"""Largest ratio of height to width of the cells of a grid; taller pictures are fitted in."""

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
    columns = len(titles)
    lines = -(-len(legend) // max(1, columns))
    gap = 0.17 if row_names else 0.05
    above = 0.13 + 0.15 * max(title.count("\n") + 1 for title in titles) + gap * bool(row_names)
    heights = [1.75 * min(TALL, max(p.shape[0] / p.shape[1] for p in row)) for row in rows]
    height = sum(heights) + gap * len(rows) + above + 0.1 + 0.24 * lines
    figure = Figure(figsize=(1.75 * columns, height))
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            ax = axes[r][c]
            ax.imshow(picture, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if r == 0:
                ax.set_title(titles[c], fontsize=9, pad=15 if row_names else None)
            if c == 0 and row_names:
                ax.annotate(row_names[r], (0, 1), (0, 2), "axes fraction", "offset points", fontsize=7)
    colors = {name: (red / 255, green / 255, blue / 255) for name, (red, green, blue) in legend.items()}
    patches = [Patch(facecolor=color, edgecolor="0.6", label=name) for name, color in colors.items()]
    bottom = (0.1 + 0.22 * lines) / height
    space = gap / ((height - above - bottom * height + gap) / len(rows) - gap)
    figure.legend(handles=patches, loc="lower center", ncols=columns, fontsize=7, frameon=False)
    figure.subplots_adjust(left=0.02, right=0.99, top=1 - above / height, bottom=bottom, wspace=0.03, hspace=space)
    return figure


def class_legend(labels: Sequence[np.ndarray], classes: Sequence[str], palette: Palette) -> dict:
    """Names and colours of the classes in `labels`, and of void if it occurs."""
    present = sorted(set(np.concatenate([np.unique(a) for a in labels]).tolist()))
    legend = {classes[c]: palette[c] for c in present if c != IGNORE}
    return legend | ({"void (ignored)": VOID} if IGNORE in present else {})


def save(figure: Figure, file: Path | BinaryIO) -> None:
    """Write the figure: to an open file as PNG, to a path in the format of its extension."""
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def as_array(figure: Figure) -> np.ndarray:
    """RGB uint8 (H,W,3) of a figure."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

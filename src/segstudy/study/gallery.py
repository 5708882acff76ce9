"""The evolution gallery: the same validation images through all variants, side by side."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np

from segstudy.drawing import as_array, class_legend, coloured, grid
from segstudy.study.table import number
from segstudy.study.tested import Tested


def gallery(seeds: Mapping[str, Sequence[Tested]]) -> np.ndarray | None:
    """Image, truth and one column a variant (its first seed), RGB uint8 (H,W,3).

    None if fewer than two variants kept samples. Those that show other images than the first one are left out.
    """
    runs = {name: tests[0] for name, tests in seeds.items()}
    files = {name: test.folder / "test" / "samples.npz" for name, test in runs.items() if test.folder}
    held = {name: dict(np.load(file)) for name, file in files.items() if file.is_file()}
    if len(held) < 2:
        return None
    first_name, first = next(iter(held.items()))
    held = {n: h for n, h in held.items() if np.array_equal(h["truth"], first["truth"])}
    palette = [tuple(rgb) for rgb in runs[first_name].record["palette"]]
    predictions = [h["prediction"] for h in held.values()]
    rows = [
        [first["image"][i], *(coloured(labels[i], palette) for labels in (first["truth"], *predictions))]
        for i in range(len(first["image"]))
    ]
    titles = ["image", "truth", *(f"{fill(n, 22)}\nmIoU {_miou(runs[n])}" for n in held)]
    return as_array(grid(rows, titles, class_legend([first["truth"], *predictions], runs[first_name].classes, palette)))


def _miou(test: Tested) -> str:
    return number(test.record["metrics"]["network"]["miou"])

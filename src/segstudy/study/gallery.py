"""The evolution gallery: the same validation images through all variants, side by side."""

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from segstudy.drawing import class_legend, coloured, grid, save
from segstudy.study.collect import without_seeds
from segstudy.study.table import number, records


def write_gallery(folder: Path) -> Path | None:
    """Draw `gallery.png` in a study's folder: image, truth, one column a variant (its first seed).

    None if fewer than two variants are done. Those that show other images than the first one (another size or data
    set) are left out.
    """
    done = {name: record for name, record in records(folder).items() if record.get("status") == "done"}
    named = without_seeds(done)
    runs: dict[str, tuple[Path, dict[str, Any]]] = {}
    for name, record in done.items():
        runs.setdefault(named[name], (folder / name, record))
    held = {n: np.load(f) for n, (run, _) in runs.items() if (f := run / "test" / "samples.npz").is_file()}
    if len(held) < 2:
        return None
    first_name, first = next(iter(held.items()))
    held = {n: h for n, h in held.items() if np.array_equal(h["truth"], first["truth"])}
    record = runs[first_name][1]
    names, palette = record["class_names"], [tuple(rgb) for rgb in record["palette"]]
    predictions = [h["prediction"] for h in held.values()]
    rows = [
        [first["image"][i], *(coloured(labels[i], palette) for labels in (first["truth"], *predictions))]
        for i in range(len(first["image"]))
    ]
    titles = ["image", "truth", *(f"{fill(n, 22)}\nmIoU {_miou(runs[n][1])}" for n in held)]
    legend = class_legend([first["truth"], *predictions], names, palette)
    path = folder / "gallery.png"
    save(grid(rows, titles, legend), path)
    return path


def _miou(record: dict[str, Any]) -> str:
    return number(record["metrics"]["network"]["miou"])

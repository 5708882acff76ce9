"""How far a run's labels in tiles agree with those of the whole image, for overlaps and steepnesses of the weights."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from machine import write_json
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segstudy.inference import tiles as tiling
from segstudy.inference.model import as_picture, load
from segstudy.inference.photos import find_photos
from segstudy.tiles import Tiles


def agreement(counts: np.ndarray) -> dict[str, float]:
    """Of counts (C,C), whole against tiles: the mean IoU of the classes that occur, and the share of equal pixels."""
    both = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - both
    return {"miou": float((both[union > 0] / union[union > 0]).mean()), "equal": float(both.sum() / counts.sum())}


def main(
    run: Annotated[Path, typer.Option(help="a run's folder")],
    root: Annotated[Path, typer.Option(help="a folder of photos")],
    images: Annotated[int, typer.Option(help="photos")] = 16,
    side: Annotated[int, typer.Option(help="of a tile")] = 256,
    overlaps: Annotated[str, typer.Option(help="shares of the side")] = "0.25,0.5",
    steeps: Annotated[str, typer.Option(help="powers of the weights' sine")] = f"2,4,{tiling.STEEPNESS},16,64",
    enlarge: Annotated[float, typer.Option(help="factor of the photos' size first")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Labels in tiles against those of the whole image."""
    console, model = Console(), load(run, device)
    settings = [(float(o), int(s)) for o in overlaps.split(",") for s in steeps.split(",")]
    classes = len(model.classes)
    counts = {setting: np.zeros((classes, classes), np.int64) for setting in settings}
    photos = find_photos([str(root)])[0][:images]
    for photo in track(photos, console=console, transient=True):
        picture = as_picture(photo.file)
        if enlarge != 1:
            size = round(picture.width * enlarge), round(picture.height * enlarge)
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        whole = model.predict(picture, "original").astype(np.int64)
        for (overlap, steep), sums in counts.items():
            tiling.STEEPNESS = steep
            parts = model.predict(picture, "original", tiles=Tiles(side, overlap))
            sums += np.bincount((whole * classes + parts).ravel(), minlength=classes**2).reshape(classes, classes)
    table = Table("overlap", "steepness", "mean IoU", "equal pixels", title=f"{run.name}: tiles of {side}")
    results: list[dict[str, Any]] = []
    for (overlap, steep), sums in counts.items():
        figures = agreement(sums)
        table.add_row(f"{overlap:g}", str(steep), f"{figures['miou']:.4f}", f"{figures['equal']:.4f}")
        results.append({"overlap": overlap, "steep": steep} | figures)
    console.print(table)
    console.print(
        f"{len(photos)} photos, the last {picture.width}×{picture.height}; {model.device_line}", highlight=False
    )
    about = {"run": run.name, "images": len(photos), "side": side, "enlarge": enlarge, "device": model.device_line}
    write_json(out, {"benchmark": "tiles", "settings": about, "results": results})


if __name__ == "__main__":
    typer.run(main)

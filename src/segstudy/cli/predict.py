"""`segstudy predict`: masks, overlays and a table of photos."""

from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import USE
from segstudy.console import silence_warnings

app = typer.Typer()


@app.command(rich_help_panel=USE)
def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    paths: Annotated[list[str], typer.Argument(help="Photos, folders (walked), patterns in quotes: 'photos/*.jpg'")],
    out: Annotated[Path, typer.Option(help="The folder for masks and predictions.csv.")] = Path("predictions"),
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also photos with the classes in colour, a legend below.")
    ] = False,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="How opaque an overlay's colours are.")] = 0.5,
    classes: Annotated[str | None, typer.Option(help="Keep these, the others become background: cat,dog")] = None,
    size: Annotated[str, typer.Option(help="Of the network's image: train, original, N or HEIGHTxWIDTH.")] = "train",
    tiles: Annotated[
        int | None, typer.Option(help="See photos in tiles of this side, in their own size or --size.")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Of neighbouring tiles, 0 to 0.9 of their side.")] = 0.5,
    tta: Annotated[str | None, typer.Option(help="Average views: flip, factors of the size: flip,0.75,1")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Photos, or tiles, at a time; by their size.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict again what is there already.")] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger photos are refused, undecoded.")] = 178_956_970,
    json: Annotated[Path | None, typer.Option(help="A file for all rows, failures and the speed.")] = None,
) -> None:
    """Predict photos: masks in their own size, colour overlays, and a table of each class's share.

    The same command again continues: what is there is skipped. Photos that cannot be read are named at the end, and
    make the exit code 1. Example: segstudy predict runs/study/v4 photos --overlay --out predictions
    """
    from segstudy.inference.loading import parse_size
    from segstudy.inference.model import load
    from segstudy.inference.predict import PredictionTask, kept_classes
    from segstudy.inference.predictions import predict_all
    from segstudy.inference.tiles import Tiles
    from segstudy.inference.tta import TestTimeAugmentation

    silence_warnings()
    if size not in ("train", "original"):
        parse_size(size)
    views = TestTimeAugmentation.parse(tta) if tta else None
    parts = None if tiles is None else Tiles(tiles, overlap)
    model = load(run, device)
    keep = kept_classes(model, classes) if classes is not None else None
    task = PredictionTask(size, views, parts, batch, keep, alpha if overlay else None, max_pixels)
    if not predict_all(model, task, paths, out, overwrite, json):
        raise typer.Exit(1)

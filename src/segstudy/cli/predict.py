"""`segstudy predict`: masks, overlays and a table for images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import USE, ViewOptions, output, refuse_without, with_options
from segstudy.console import silence_warnings

app = typer.Typer()


@dataclass
class PredictOptions(ViewOptions):
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the images with coloured classes and a legend.")
    ] = False
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="Opacity of an overlay's colours.", show_default="0.5")
    ] = None
    classes: Annotated[str | None, typer.Option(help="Classes to keep; the others become background: cat,dog")] = None
    batch: Annotated[
        int | None, typer.Option(min=1, help="Photos or tiles in a batch; default: depends on their size.")
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also predict images that have predictions.")] = False
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse images with more pixels.")] = 178_956_970
    json: Annotated[Path | None, typer.Option(callback=output(), help="File for all rows, failures and the speed.")] = (
        None
    )


@app.command(rich_help_panel=USE)
@with_options
def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    paths: Annotated[list[str], typer.Argument(help="Images, folders, patterns in quotes: 'photos/*.jpg'")],
    out: Annotated[
        Path, typer.Option(callback=output(folder=True), help="Folder for masks and predictions.csv.")
    ] = Path("predictions"),
    *,
    options: PredictOptions,
) -> None:
    """Predict images: masks of the images' sizes, colour overlays, and a table with each class's share.

    The network sees an image as those of the run's test: at data.size, or with data.fit=crop at its own size.
    The same command continues after an interruption: images with predictions are skipped. Unreadable images are listed
    at the end; the exit code is then 1. Example: segstudy predict runs/study/v4 photos --overlay --out predictions
    """
    from segstudy.inference.model import load
    from segstudy.inference.predict import PredictionTask, kept_classes
    from segstudy.inference.predictions import predict_all

    silence_warnings()
    if not options.overlay:
        refuse_without("--alpha", options.alpha, "--overlay")
    views, tiles = options.parsed()
    alpha = (0.5 if options.alpha is None else options.alpha) if options.overlay else None
    model = load(run, options.device)
    keep = kept_classes(model, options.classes) if options.classes is not None else None
    task = PredictionTask(options.size, views, tiles, options.batch, keep, alpha, options.max_pixels)
    if not predict_all(model, task, paths, out, options.overwrite, options.json):
        raise typer.Exit(1)

"""`segstudy export`: write a run's network for other programs."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from segstudy.cli.arguments import USE, output
from segstudy.console import console, print_line, silence_warnings
from segstudy.errors import ConfigError
from segstudy.runs.listing import size

app = typer.Typer()


class Format(StrEnum):
    onnx = "onnx"
    torch_export = "torch.export"
    state_dict = "state_dict"
    hub = "hub"


@app.command(rich_help_panel=USE)
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    format: Annotated[Format, typer.Option(help="hub: a folder with weights, config and model card.")] = Format.onnx,
    out: Annotated[
        Path | None,
        typer.Option(help="File or folder; default: a file here, with the name of the run's folder."),
    ] = None,
    json: Annotated[Path | None, typer.Option(callback=output(), help="File for the comparison with PyTorch.")] = None,
) -> None:
    """Write a run's network for other programs: image in 0…1 → logits, with normalisation, classes and colours.

    The exported file is run and compared with PyTorch at several sizes before it is kept. state_dict and hub
    hold only weights, for segstudy's own network; segstudy.load opens hub's folder. Height and width of the input are
    free where the format allows it. The file says how to prepare an image: `preprocessing` in its metadata.
    Example: segstudy export runs/study/v4 --format onnx --out v4.onnx
    """
    from segstudy.inference import export as exports
    from segstudy.inference.evaluate import write_json
    from segstudy.inference.model import load

    silence_warnings()
    model = load(run, "cpu")
    place = exports.output_path(out, run.resolve().name, format.value)  # a run's short name can be that of others
    exports.require_packages(format.value)
    earlier = place.exists()
    try:
        with console.status(f"writing {place} and running it …"):
            done = exports.export(model, format.value, place)
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error}") from error
    print_export(done, format.value)
    if earlier:
        print_line("an earlier export of this name was replaced (--out names another)", "yellow")
    if json:
        write_json([asdict(row) for row in done.comparisons], {"format": format.value} | done.as_json(), json)


def print_export(done: Any, kind: str) -> None:
    """Print an ExportResult: the comparison with PyTorch, the input, and the file."""
    table = Table(title=f"{kind} against PyTorch, float32 on the CPU")
    for column in ("images", "largest difference", "largest logit", "pixels of equal class"):
        table.add_column(column, justify="right")
    for row in done.comparisons:
        shape = f"{row.batch}×{done.metadata['input_shape'][1]}×{row.height}×{row.width}"
        table.add_row(shape, f"{row.difference:.1e}", f"{row.largest:.3g}", f"{row.agreement:.4%}")
    console.print(table)
    for line in done.refused:
        print_line(f"not compared, since the network does not accept it: {line}")
    sides = "×".join(map(str, done.metadata["input_shape"]))
    fixed = "" if len(done.dynamic) == 3 else f"; numbers are fixed ({'; '.join(done.why_not_more)})"
    image = done.metadata["preprocessing"]
    print_line(f"input: image {sides}, float32, {image['channels']} in 0…1{fixed}; a photo is {image['resize']}")
    print_line(f"written: {done.path} ({size(done.path) / 1e6:.1f} MB)")

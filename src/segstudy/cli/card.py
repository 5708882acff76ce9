"""`segstudy card`: a run's model card."""

from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import USE, output
from segstudy.console import console, print_line, silence_warnings

app = typer.Typer()


@app.command(rich_help_panel=USE)
def card(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[
        Path | None,
        typer.Option(callback=output(), help="File to write; default RUN/card.md. Pictures go into the same folder."),
    ] = None,
    latency: Annotated[bool, typer.Option(help="Measure the network's speed on this machine.")] = True,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, in the model hubs' notation: mit, cc-by-4.0.")
    ] = None,
) -> None:
    """Write a run's model card: network, data, results with intervals, failures, speed, use and limits.

    Example: segstudy card runs/study/v4 --license mit
    """
    from segstudy.inference.card import write_card

    silence_warnings()
    with console.status("measuring the network's speed …" if latency else "writing …"):
        file = write_card(run, out, latency, license)
    print_line(f"card: {file}")

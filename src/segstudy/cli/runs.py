"""`segstudy runs`: list all runs with their status."""

from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import USE
from segstudy.console import console
from segstudy.errors import ConfigError

app = typer.Typer()


@app.command(rich_help_panel=USE)
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of studies, a study, or a run.")] = Path("runs"),
    status: Annotated[
        list[str] | None, typer.Option(help="Only done, failed, running, interrupted or unreadable runs; repeatable.")
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Print only the runs' folders, one per line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """List all runs: status, changed settings, results, epochs, time, size on disk. Writes nothing.

    Example: segstudy runs runs/voc-animals --status failed
    """
    from segstudy.runs import listing

    if json and paths:
        raise ConfigError("--json and --paths exclude each other\n  → leave out one of the two")
    found = listing.with_status(listing.list_runs(folder), status or [])
    if json or paths:
        return print(listing.as_json(found) if json else "\n".join(str(run.folder) for run in found))
    listing.print_runs(found, console)

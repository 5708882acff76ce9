"""The `segstudy` command: its subcommands, one file a family."""

import sys

import typer

from segstudy.cli import card, data, demo, evaluate, export, network, predict, runs, study, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train segmentation networks under equal conditions, and see which one is better, by how much and how surely.",
    epilog="To begin: segstudy train -m model=v1,v2,v3,v4 trains four networks on generated scenes and compares them.",
)
for family in (train, data, network, evaluate, predict, export, card, demo, runs, study):
    app.add_typer(family.app)


def main() -> None:
    """Entry point: the user's mistakes are printed plainly, with exit code 2."""
    from segstudy.errors import SegstudyError

    try:
        app()
    except SegstudyError as error:
        from segstudy.console import print_error

        print_error(error)
        sys.exit(2)

"""The `segstudy` command and its subcommands."""

import sys

import typer

from segstudy.cli import card, data, demo, evaluate, export, network, predict, runs, study, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train segmentation networks under equal conditions and compare them: which is better, and by how much.",
    epilog="First step: segstudy train -m model=v1,v2,v3,v4 trains and compares four networks on generated scenes.",
)
for family in (train, data, network, evaluate, predict, export, card, demo, runs, study):
    app.add_typer(family.app)


def main() -> None:
    """Entry point: a user's mistake is printed without a traceback, with exit code 2."""
    from segstudy.errors import DataError, SegstudyError

    try:
        app()
    except (SegstudyError, OSError) as error:
        from segstudy.console import print_error

        if isinstance(error, OSError):  # a disk that has filled up, a folder that may not be read: no bug
            error = DataError(f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
        print_error(error)
        sys.exit(2)

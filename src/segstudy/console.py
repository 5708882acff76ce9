"""Printing: the console, errors, silenced warnings."""

import logging
import sys
import time
import warnings

from rich.console import Console

from segstudy import interruption
from segstudy.ranks import RANK

console = Console(quiet=RANK > 0)  # one process of several speaks


def print_line(line: str, style: str | None = None) -> None:
    """Print a line as it is: no wrapping, and brackets in names and paths are not markup."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


PATIENCE = 20
"""Seconds within which the first of several processes should meet an error that all of them meet."""

INTERRUPTED = [128 + number for number in interruption.SIGNALS]
"""Exit codes of a run's process that was asked to end."""


def print_error(error: BaseException) -> None:
    """Print the user's mistake in red, without a traceback.

    Of several processes the first prints an error that all meet, and the launcher then ends the others, which wait for
    that. An error of one process alone is printed after the wait.
    """
    if RANK > 0:
        time.sleep(PATIENCE)
    Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/] ", end="")
    print(error, file=sys.stderr)


def silence_warnings() -> None:
    """Silence warnings that Lightning gives on every run, and those about intended settings."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # One slice of a memory map a batch needs no worker processes (design: under 5 % of the step).
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Lightning's own use of a function that torch has renamed.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated.*")
    # A run of few batches (a smoke test, a small folder) still logs at each epoch's end.
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    # The run's first lines say so in red.
    warnings.filterwarnings("ignore", "ImageNet weights of .* could not be had")
    # A resumed or time-limited run tests what it holds in memory, which is meant.
    warnings.filterwarnings("ignore", ".*You are resuming.*|.*Checkpoint directory .* exists and is not empty.*")

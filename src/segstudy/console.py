"""Printing: the console, errors, silenced warnings."""

import logging
import sys
import time
import warnings

from rich.console import Console

from segstudy import interruption
from segstudy.ranks import RANK

console = Console(quiet=RANK > 0)  # of several processes only the first prints


def print_line(line: str, style: str | None = None) -> None:
    """Print a line unchanged: without wrapping, and without markup (names and paths may contain brackets)."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


PATIENCE = 20
"""Seconds that the other processes wait with an error, in case the first process has it too and prints it."""

INTERRUPTED = [128 + number for number in interruption.SIGNALS]
"""Exit codes of a run that was ended by a signal."""


def print_error(error: BaseException) -> None:
    """Print an error in a few lines, without a traceback.

    An error of several processes is printed once: the others wait, and the launcher ends them after the first has
    printed it. An error of another process alone is printed after the wait.
    """
    if RANK > 0:
        time.sleep(PATIENCE)
    Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/] ", end="")
    print(error, file=sys.stderr)


def silence_warnings() -> None:
    """Silence warnings that Lightning gives on every run, and those about intended settings."""
    import lightning.pytorch  # noqa: F401 (it sets its level as it is imported; commands that need it not are quick)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # A batch is a slice of a memory map: it needs no worker processes (under 5 % of the step).
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Lightning itself uses a function that torch has renamed.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated.*")
    # A run of few batches (a smoke test, a small folder) still logs at the end of each epoch.
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    # Printed in red at the start of the run.
    warnings.filterwarnings("ignore", "ImageNet weights of .* could not be loaded")
    # A run may be continued in its folder, also in the middle of an epoch.
    warnings.filterwarnings("ignore", ".*You are resuming.*|.*Checkpoint directory .* exists and is not empty.*")

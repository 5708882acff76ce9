"""TODO"""

import logging
import math
import sys
import time
import warnings

from rich.console import Console

from segstudy import entry
from segstudy.entry import RANK


def format_number(value: float | None, digits: int = 3) -> str:
    """A figure for a table; n/a where it is not defined, – where it is not there."""
    if value is None:
        return "–"
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def format_duration(seconds: float | None) -> str:
    """Seconds as m:ss, or h:mm:ss from one hour on."""
    if seconds is None:
        return "–"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


console = Console(quiet=RANK > 0)  # one process of several speaks

PATIENCE = 20
"""Seconds in which the first of several processes should meet a mistake that all of them make."""

INTERRUPTED = [128 + number for number in entry.SIGNALS]
"""Exit codes of a run's process that was asked to end."""


def print_error(error: BaseException) -> None:
    """The user's mistake in red, without a traceback.

    Of several processes the first tells what all meet, and the launcher then ends the others, which wait for that; what
    one of them alone meets, it tells after all.
    """
    if RANK > 0:
        time.sleep(PATIENCE)
    Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/] ", end="")
    print(error, file=sys.stderr)


def silence_warnings() -> None:
    """Silence what Lightning says on every run and what has a reason here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # One slice of a memory map a batch needs no worker processes (design: under 5 % of the step).
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Lightning's own use of a function that torch has renamed.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated.*")
    # A run of few batches (a smoke test, a small folder) still logs at each epoch's end.
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    # A resumed or time-limited run tests what it holds in memory, which is meant.
    warnings.filterwarnings("ignore", ".*You are resuming.*|.*Checkpoint directory .* exists and is not empty.*")

"""Printing: number formats, errors, silenced warnings."""

import logging
import math
import sys
import time
import warnings

from rich.console import Console

from segstudy import entry
from segstudy.entry import RANK

MISSING = "–"

NOT_DEFINED = "n/a"


def format_number(value: float | None, digits: int = 3) -> str:
    """0.016, −0.016, 1,234.500; n/a for a value that is not finite, – for None."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return NOT_DEFINED
    text = f"{abs(value):,.{digits}f}"
    return f"−{text}" if value < 0 and text.strip("0.") else text


def format_signed(value: float | None, digits: int = 3) -> str:
    """As `format_number`, with a plus before a value above 0: +0.016."""
    text = format_number(value, digits)
    return f"+{text}" if value is not None and 0 < value < math.inf and text.strip("0.") else text


def format_range(low: float, high: float, digits: int = 3) -> str:
    """−0.006 to 0.014."""
    return f"{format_number(low, digits)} to {format_number(high, digits)}"


def format_interval(low: float, high: float) -> str:
    """(0.005 to 0.027) without a line break, for a table; "" where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"({format_range(low, high)})".replace(" ", "\u00a0")


def format_millions(value: float | None) -> str:
    """2,686,613 → 2.69 M."""
    return MISSING if value is None else f"{format_number(value / 1e6, 2)} M"


def format_duration(seconds: float | None) -> str:
    """Seconds as m:ss, or h:mm:ss from one hour on."""
    if seconds is None:
        return MISSING
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


console = Console(quiet=RANK > 0)  # one process of several speaks


def print_line(line: str, style: str | None = None) -> None:
    """Print a line as it is: no wrapping, and brackets in names and paths are not markup."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


PATIENCE = 20
"""Seconds within which the first of several processes should meet an error that all of them meet."""

INTERRUPTED = [128 + number for number in entry.SIGNALS]
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

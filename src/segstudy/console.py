"""Printing: the console, errors, silenced warnings."""

import logging
import os
import signal
import sys
import time
import unicodedata
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from segstudy import interruption
from segstudy.files import open_log
from segstudy.ranks import RANK


class SafeConsole(Console):
    """Rich's console, to which names, paths and errors from anywhere may be printed: see `printable`."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """The text with control characters, and those that turn the writing direction, as \\x1b or \\u202e.

    A terminal would obey them: they can clear it, or show another file name. Line breaks and tabs are kept.
    """
    return "".join(c.encode("unicode_escape").decode() if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in BIDIRECTIONAL


BIDIRECTIONAL = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Unicode's classes of characters that turn the writing direction of those that follow."""

console = SafeConsole(quiet=RANK > 0)  # of several processes only the first prints


study: Connection | None = None
"""The pipe to the study's process, if this one trains one of several runs at once: only that one prints."""


def tell_study(kind: str, *values: Any) -> None:
    """Send a message to the study's process, if there is one; if it has ended, this process ends as well.

    began: name. step: done, of all. warning: text. failed: text. tested: mIoU. ended: what a search maximises.
    """
    if study is not None:
        try:
            study.send((kind, *values))
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)


def log_beside_others(folder: Path) -> None:
    """If this process trains one of several runs at once, write what it prints to `log.txt` of the run from now on."""
    if study is None:
        return
    sys.stdout.flush()
    with open(open_log(folder), "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def print_warning(text: str, style: str = "yellow") -> None:
    """Print a warning, also to the user who watches several runs at once."""
    print_line(text, style)
    tell_study("warning", text)


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
    tell_study("failed", f"{type(error).__name__}: {error}")
    if RANK > 0:
        time.sleep(PATIENCE)
    Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/] ", end="")
    print(printable(str(error)), file=sys.stderr)


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

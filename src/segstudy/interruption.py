"""Ctrl-C and SIGTERM: the process prints one line and exits with 128 + the signal's number.

Imports only the standard library: Ctrl-C must also work while PyTorch is imported, which takes seconds.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from segstudy.ranks import RANKS

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and the signal that clusters and torchrun send before they kill a process."""

received: int | None = None
"""The first signal that asked this process to end; None so far."""
place: str | None = "where it stopped"
"""The run or study that the printed line names; None where another process prints the line."""


def stop(number: int, frame: FrameType | None = None) -> None:
    """Handler of SIGNALS."""
    global received
    received = received or number
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            # During an import nothing is being written, and an exception makes PyTorch's C++ abort.
            print_interrupted()
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


def print_interrupted() -> None:
    """Print that the training was interrupted: once, whatever its number of processes."""
    if place and not any(int(os.environ.get(name, 0)) for name in RANKS):
        print(f"\ninterrupted; the same command continues {place}", file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """If the block is interrupted, print one line and exit with 128 + the signal's number (130 or 143)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup, or in a shell's background job
            signal.signal(number, stop)
    try:
        yield
    except BaseException as error:  # libraries turn a KeyboardInterrupt into SystemExit or an error of their own
        if received is None or (isinstance(error, SystemExit) and not error.code):  # Ctrl-C is how the demo ends
            raise
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the process is ending already
        print_interrupted()
        sys.exit(128 + received)

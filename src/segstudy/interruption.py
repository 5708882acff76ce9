"""Ctrl-C and SIGTERM: the process prints one line, saves what it was writing, and ends with 128 + the signal's number.

Only the standard library is imported here: Ctrl-C is also met while PyTorch is imported, which takes seconds.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from segstudy.ranks import RANKS

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what clusters and torchrun send before they kill."""

received: int | None = None
"""The first signal that asked this process to end."""
place: str | None = "where it stopped"
"""What the same command continues, for that line: a run or study; None where another process prints it."""


def stop(number: int, frame: FrameType | None = None) -> None:
    """Handler of SIGNALS."""
    global received
    received = received or number
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            # Nothing is being written yet, and PyTorch's C++ aborts if an exception breaks its import off.
            print_interrupted()
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


def print_interrupted() -> None:
    """Print, once for all processes of a training, that it was interrupted."""
    if place and not any(int(os.environ.get(name, 0)) for name in RANKS):
        print(f"\ninterrupted; the same command continues {place}", file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the process with one line and 128 + the signal's number (130, 143) if it is interrupted in here."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's job in the background
            signal.signal(number, stop)
    try:
        yield
    except BaseException as error:  # libraries make a SystemExit, or an error of their own, of a KeyboardInterrupt
        if received is None or (isinstance(error, SystemExit) and not error.code):  # the demo ends by Ctrl-C
            raise
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # from here on it ends, and needs no second request
        print_interrupted()
        sys.exit(128 + received)

"""Keeps the command's own handler of SIGTERM."""

import signal
import threading
from typing import Any

import lightning as L


class RestoreSignalHandlers(L.Callback):
    """Restores the command's own handler of SIGTERM, which Lightning replaces while a trainer runs.

    Lightning's handler waits for the other processes, which may wait for this one, and would let a test run to its end.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)

    on_sanity_check_start = on_test_start = on_train_start  # type: ignore[assignment]

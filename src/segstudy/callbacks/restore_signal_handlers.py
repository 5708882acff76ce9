"""Keeps the command's own handler of SIGTERM."""

import signal
import threading

import lightning as L


class RestoreSignalHandlers(L.Callback):
    """Restores the command's own handler of SIGTERM, which Lightning replaces while a trainer runs.

    Lightning's handler waits for the other processes, which may wait for this one, and would let a test run to its end.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restore()

    def on_sanity_check_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restore()

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restore()

    def _restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)

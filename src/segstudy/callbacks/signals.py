"""TODO"""

import signal
import threading

import lightning as L


class RestoreSignalHandlers(L.Callback):
    """Puts the command's own handler of SIGTERM back, which Lightning replaces while a trainer works.

    Lightning's waits in it for the other processes, which may wait for this one; and a test would go on to its end.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._put_back()

    def on_sanity_check_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._put_back()

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._put_back()

    def _put_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)

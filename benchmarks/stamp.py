"""A callback for startup.py: writes when a run reached its stages to the file named in BENCHMARK_STAMPS."""

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L

LOCATED = time.time()  # the config check imports every target: by now the config is composed


class Stamp(L.Callback):
    """Notes its own construction (data and network are built by then) and the first training batch."""

    def __init__(self) -> None:
        imported = float(os.environ["BENCHMARK_IMPORTED"])
        self.times = {"imported": imported, "checked": LOCATED, "built": time.time()}

    def on_train_batch_start(self, *_: Any) -> None:
        self.times.setdefault("first_batch", time.time())

    def on_train_batch_end(self, *_: Any) -> None:
        if "first_step" not in self.times:
            self.times["first_step"] = time.time()
            Path(os.environ["BENCHMARK_STAMPS"]).write_text(json.dumps(self.times))

"""Finds the largest batch that fits into memory, with Lightning's Tuner."""

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch.tuner import Tuner

from segstudy.errors import ConfigError, TrainingError
from segstudy.inspection.learning_rate import MakeTrial
from segstudy.inspection.memory import peak_memory


@dataclass
class BatchSizeTest:
    """Result: the largest batch size that fits, all sizes that fit, why the test ended, and the peak memory in GiB."""

    largest: int
    fitted: list[int]
    ended: str
    peak: float


def find_batch(make_trial: MakeTrial, limit: int = 64) -> BatchSizeTest:
    """Double the batch from 2 on, until memory is full, or `limit` or the number of training images is reached.

    Each size is trained for three steps. On a CPU, choose a safe `limit`: the system kills a process that uses too
    much memory. Raises TrainingError if not even two images fit.
    """
    with TemporaryDirectory() as folder:
        module, data, trainer = make_trial(Path(folder))
        images = len(data.roles["fit"])
        if (most := min(limit, images)) < 2:
            raise ConfigError(f"nothing to try: --limit {limit}, {images} training images\n  → both must be 2 or more")
        trained: set[int] = set()

        def note(outputs: Any, batch: Any, batch_idx: int) -> None:
            trained.add(len(batch["index"]))

        module.on_train_batch_end = note  # type: ignore[method-assign]
        data.batch_size = 2  # Lightning refuses to begin with a batch larger than the number of images
        # The last trial is the largest power of two in bounds; Lightning's `max_val` would return a size not tried.
        trials = int(math.log2(most))
        largest: int | None = 0
        try:
            largest = Tuner(trainer).scale_batch_size(module, datamodule=data, init_val=2, max_trials=trials)
        except ValueError:  # 2 did not fit, then a batch of 0, or of one image without batch statistics
            if data.batch_size >= 2:
                raise
    if not largest or largest < 2:
        raise TrainingError(
            f"not even a batch of 2 fits at data.size={list(data.size)}\n  → choose a smaller data.size or network"
        )
    ended = f"{2 * largest} did not fit"
    if largest == 2**trials:
        ended = f"--limit {limit} was reached" if limit <= images else f"there are only {images} training images"
    fitted = sorted(size for size in trained if size <= largest)
    return BatchSizeTest(largest, fitted, ended, peak_memory(trainer.strategy.root_device))

"""The largest batch that fits into memory, with Lightning's Tuner."""

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
    """A batch-size test: the largest that trained, all that did, what ended it, and the peak memory in GiB."""

    largest: int
    fitted: list[int]
    ended: str
    peak: float


def find_batch(make_trial: MakeTrial, limit: int = 64) -> BatchSizeTest:
    """Double the batch from 2 on until memory is full, or `limit` or the number of training images is reached.

    Each size trains three steps of a fresh network. On a CPU the system ends a process that asks for too much, so
    there the limit is the guard. Raises TrainingError if not even two images fit.
    """
    with TemporaryDirectory() as folder:
        module, data, trainer = make_trial(Path(folder))
        images = len(data.roles["fit"])
        if (most := min(limit, images)) < 2:
            raise ConfigError(f"nothing to try: --limit {limit}, {images} training images\n  → both 2 or more")
        trained: set[int] = set()

        def note(outputs: Any, batch: Any, batch_idx: int) -> None:
            trained.add(len(batch["index"]))

        module.on_train_batch_end = note  # type: ignore[method-assign]
        data.batch_size = 2  # Lightning refuses to begin at more than there are images
        # The last trial is the largest power of two within bounds; with its own `max_val` it would name a size untried.
        trials = int(math.log2(most))
        largest: int | None = 0
        try:
            largest = Tuner(trainer).scale_batch_size(module, datamodule=data, init_val=2, max_trials=trials)
        except ValueError:  # a batch of 0, or batch statistics of one image: after 2 did not fit
            if data.batch_size >= 2:
                raise
    if not largest or largest < 2:
        raise TrainingError(
            f"not even a batch of 2 fits at data.size={list(data.size)}\n  → a smaller data.size or network"
        )
    ended = f"{2 * largest} did not fit"
    if largest == 2**trials:
        ended = f"--limit {limit} ended it" if limit <= images else f"there are {images} training images"
    fitted = sorted(size for size in trained if size <= largest)
    return BatchSizeTest(largest, fitted, ended, peak_memory(trainer.strategy.root_device))

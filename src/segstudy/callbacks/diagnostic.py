"""What a finished run does not need: its failure is noted in the record, and fails nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from segstudy.errors import first_line
from segstudy.precision import RANK


class Diagnostic(L.Callback):
    """Base of the callbacks that measure or draw beside the test: no error in `spared` fails a run that is trained.

    `not_measured` says what is missing and why; it becomes an entry of the record.
    """

    def __init__(self) -> None:
        self.not_measured: dict[str, str] = {}

    @contextmanager
    def spared(self, what: str) -> Iterator[None]:
        """Note an error in this block, whatever it is, in `not_measured[what]` and in one line on the screen."""
        try:
            yield
        except Exception as error:  # networks and drawing raise anything
            self.not_measured[what] = note_failure(what, error)

    def gather_failures(self, trainer: L.Trainer) -> None:
        """Let each process know what failed in the others; all of them call this."""
        for failed in gather_from_processes(trainer, self.not_measured):
            self.not_measured = failed | self.not_measured


def note_failure(what: str, error: Exception) -> str:
    """Why something was not measured, in a line that is also printed."""
    why = f"{type(error).__name__}: {first_line(error)}"
    if RANK == 0:
        print(f"not measured: {what}: {why}")
    return why


def gather_from_processes(trainer: L.Trainer, mine: Any) -> list[Any]:
    """What each process of the trainer holds, this one's `mine` among it."""
    if trainer.world_size == 1:
        return [mine]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return gathered


def guard_loggers(trainer: L.Trainer, not_measured: dict[str, str]) -> None:
    """From here on, what fails in a logger is noted in `not_measured`: the run's folder has it all."""
    for logger in trainer.loggers:
        for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
            setattr(logger, name, _guarded(getattr(logger, name), type(logger).__name__, not_measured))


def _guarded(method: Any, what: str, not_measured: dict[str, str]) -> Any:
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # each service raises its own
            if what not in not_measured:
                not_measured[what] = note_failure(what, error)

    return call

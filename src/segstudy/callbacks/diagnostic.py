"""Base of the callbacks without which a run is complete: their errors are recorded, and end nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from segstudy.errors import first_line
from segstudy.ranks import RANK


class Diagnostic(L.Callback):
    """A callback that measures or draws beside the test: an error within `tolerate_errors` ends no run.

    `not_measured` says what is missing and why; it becomes an entry of the record.
    """

    def __init__(self) -> None:
        self.not_measured: dict[str, str] = {}

    @contextmanager
    def tolerate_errors(self, what: str) -> Iterator[None]:
        """Record any error of this block in `not_measured[what]`, and print it in one line."""
        try:
            yield
        except Exception as error:  # networks and drawing raise anything
            self.not_measured[what] = report_failure(what, error)

    def gather_failures(self, trainer: L.Trainer) -> None:
        """Share what failed among all processes; each of them calls this."""
        for not_measured in gather_from_processes(trainer, self.not_measured):
            self.not_measured = not_measured | self.not_measured


def report_failure(what: str, error: Exception) -> str:
    """Why something was not measured, in one line, which is also printed."""
    why = f"{type(error).__name__}: {first_line(error)}"
    if RANK == 0:
        print(f"not measured: {what}: {why}")
    return why


def gather_from_processes(trainer: L.Trainer, mine: Any) -> list[Any]:
    """The value `mine` of each process of the trainer, in the order of their ranks."""
    if trainer.world_size == 1:
        return [mine]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return gathered

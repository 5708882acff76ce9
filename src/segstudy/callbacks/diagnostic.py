"""Base class of optional callbacks: their errors are recorded and do not end the run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from segstudy.console import print_line
from segstudy.errors import first_line


class Diagnostic(L.Callback):
    """A callback for optional measures and pictures: an error inside `tolerate_errors` does not end the run.

    entries: what it adds to the record. not_measured: {what is missing: why}, stored in the record too.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.not_measured: dict[str, str] = {}

    @contextmanager
    def tolerate_errors(self, what: str) -> Iterator[None]:
        """Record any error of this block in `not_measured[what]`, and print it in one line."""
        try:
            yield
        except Exception as error:  # networks and drawing can raise anything
            self.not_measured[what] = report_failure(what, error)

    def gather_failures(self, trainer: L.Trainer) -> None:
        """Collect the failures of all processes. Every process must call this."""
        for not_measured in gather_from_processes(trainer, self.not_measured):
            self.not_measured = not_measured | self.not_measured


def report_failure(what: str, error: Exception) -> str:
    """Print, and return, one line: why something was not measured."""
    why = f"{type(error).__name__}: {first_line(error)}"
    print_line(f"not measured: {what}: {why}")
    return why


def gather_from_processes(trainer: L.Trainer, mine: Any) -> list[Any]:
    """The value `mine` of each process, in the order of ranks."""
    if trainer.world_size == 1:
        return [mine]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return gathered

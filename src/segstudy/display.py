"""What is shown of several runs at once: bars in a terminal, else a line when a run starts or ends."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from segstudy.console import console
from segstudy.formatting import format_duration, format_number
from segstudy.side_by_side import Outcome


class Display:
    """A bar of the study and one of each running run. Its `show` takes the messages of `train_side_by_side`."""

    def __init__(self, names: Sequence[str]):
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[steps]}"))
        self.bars = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(elapsed_when_finished=True), console=console,
            disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self.names, self.ended = names, 0
        self.study = self.bars.add_task("study", total=len(names), steps=f"0 of {len(names)} runs")
        self.running: dict[int, Any] = {}
        self.warnings: set[str] = set()
        self.lock = threading.Lock()

    def __enter__(self) -> Callable[..., None]:
        self.bars.start()
        return self.show

    def __exit__(self, *_: Any) -> None:
        self.bars.stop()

    def show(self, run: int, kind: str, *values: Any) -> None:
        with self.lock:
            getattr(self, f"_{kind}", lambda *_: None)(run, *values)
            steps = sum(bar.completed / bar.total for bar in self.bars.tasks[1:] if bar.total)
            self.bars.update(self.study, completed=self.ended + steps, steps=f"{self.ended} of {len(self.names)} runs")

    def _began(self, run: int, folder: str) -> None:
        self.running[run] = self.bars.add_task(self.names[run], total=None, steps="")
        if self.bars.disable:
            self._print(f"{self.names[run]}: started")

    def _step(self, run: int, done: int, steps: float) -> None:
        self.bars.update(self.running[run], completed=done, total=steps, steps=f"{done} of {steps} steps")

    def _warning(self, run: int, text: str) -> None:
        if text not in self.warnings:
            self.warnings.add(text)
            self._print(f"{self.names[run]}: {text}", "yellow")

    def _exited(self, run: int, outcome: Outcome) -> None:
        if run in self.running:
            self.bars.remove_task(self.running.pop(run))
        self.ended += 1
        name = self.names[run]
        if outcome.failure is not None:
            self._print(f"{name}: {outcome.failure}", "red")
        elif "tested" in outcome.told:
            self._print(f"{name}: mIoU {format_number(outcome.told['tested'][0])} {format_duration(outcome.seconds)}")
        else:
            self._print(f"{name}: already done")

    def _print(self, line: str, style: str = "default") -> None:
        # As markup: a style of the whole print would colour the bars too.
        self.bars.console.print(f"[{style}]{escape(line)}[/]", highlight=False, soft_wrap=True)

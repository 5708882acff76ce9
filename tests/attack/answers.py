"""Run commands in processes of their own, and say how they answered."""

import contextlib
import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY = 8 * 2**30
"""Bytes of address space a command may take beyond what Python and PyTorch have taken already."""


@dataclass(frozen=True)
class Answer:
    """How a command ended. code: exit code; None after a timeout. text: all that it printed. seconds: its time."""

    code: int | None
    text: str
    seconds: float

    @property
    def fault(self) -> str | None:
        """traceback, hang or crash; None for a proper answer."""
        if self.code is None:
            return "hang"
        if self.code < 0:
            return "crash"
        return "traceback" if "Traceback (most recent call last)" in self.text else None


def ask(command: Callable[[], object], folder: Path, seconds: float = 60) -> Answer:
    """Call `command` in a fork of this process, in `folder`, with a limit of time and memory.

    A fork needs no new imports, so that a command takes a fraction of a second. What it prints is caught.
    """
    with tempfile.TemporaryFile() as printed:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _run(command, folder, printed.fileno(), seconds)
        code = _wait(child, began + seconds)
        printed.seek(0)
        return Answer(code, printed.read().decode(errors="replace"), time.monotonic() - began)


def _run(command: Callable[[], object], folder: Path, printed: int, seconds: float) -> None:
    """In the child: run the command and leave with its exit code."""
    code = 1
    try:
        os.setpgid(0, 0)
        for stream in (1, 2):
            os.dup2(printed, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, encoding="utf-8") for stream in (1, 2))
        faulthandler.dump_traceback_later(0.9 * seconds, file=sys.stderr)  # of a hang, where
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        os.chdir(folder)
        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, until: float) -> int | None:
    """The child's exit code, negative for a signal; None if it had to be killed."""
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def segstudy(*arguments: object) -> Callable[[], None]:
    """The command `segstudy …`."""

    def command() -> None:
        from segstudy.cli.main import main

        sys.argv = ["segstudy", *map(str, arguments)]
        main()

    return command


def train(*overrides: str) -> Callable[[], None]:
    """The command `python train.py …`."""

    def command() -> None:
        from segstudy.train import main

        sys.argv = ["train.py", *overrides, "hydra/job_logging=none", "hydra/hydra_logging=none"]
        main()

    return command


@dataclass(frozen=True)
class Case:
    """row: of the table that it is counted in. name: to find it again. run: how it was answered, and the answer.

    size: how many cases it is counted as.
    """

    row: str
    name: str
    run: Callable[[], tuple[str, Answer]]
    size: int = 1


def count(cases: Sequence[Case], proper: Sequence[str], minutes: float) -> Counter[tuple[str, str]]:
    """Run the cases in a random order (the same each time) for some minutes; print those that are not `proper`."""
    counts: Counter[tuple[str, str]] = Counter()
    drawn = random.Random(0).sample(list(cases), len(cases))
    until = time.monotonic() + 60 * minutes
    for number, case in enumerate(drawn):
        if time.monotonic() > until:
            break
        kind, answer = case.run()
        counts[case.row, kind] += case.size
        if kind not in proper:
            print(f"=== {kind}: {case.row}: {case.name} ({answer.seconds:.1f} s)\n{answer.text[-1500:]}", flush=True)
        if number % 50 == 49:
            print(f"{number + 1} of {len(drawn)}: {dict(Counter(k for (_, k) in counts.elements()))}", flush=True)
    return counts


def table(counts: Counter[tuple[str, str]], columns: Sequence[str]) -> str:
    """A Markdown table of counts by (row, column), with totals."""
    names = sorted({row for row, _ in counts})
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    lines += [f"| {name} | {' | '.join(str(counts[name, c]) for c in columns)} |" for name in names]
    totals = [sum(n for (_, column), n in counts.items() if column == c) for c in columns]
    return "\n".join([*lines, f"| **all** | {' | '.join(f'**{n}**' for n in totals)} |"])

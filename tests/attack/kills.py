"""Kill a training at any moment, give the same command again, and compare with the training that was not killed."""

import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from attack.answers import Answer, Case, ask, train
from attack.damaged_files import COMMANDS, SINGLE, Attack

KILLS = 40
RUN = (*SINGLE, "++callbacks.pictures.enabled=true")
ANSWERS = ("same result", "other result", "not killed", "error", "traceback", "hang", "crash")

STAGES = ("first third", "second third", "last third, with the test")
"""Parts of the time that the whole command takes."""


def cases(attack: Attack) -> Iterator[Case]:
    seconds = min(ask_anew(attack, train(*RUN)).seconds for _ in range(3))
    expected = left(attack.home)
    drawn = random.Random(0)
    for number in range(KILLS):
        share = (number + drawn.random()) / KILLS
        run = partial(killed, attack, share * seconds, expected)
        yield Case(STAGES[int(3 * share)], f"killed after {share:.0%}", run)


def ask_anew(attack: Attack, command: Callable[[], None]) -> Answer:
    """Give the command where no run is."""
    attack.restore()
    shutil.rmtree(attack.home / "runs/single")
    return ask(command, attack.home, 120)


def left(home: Path) -> str:
    """The results of the run, and the names of all its files but logs and the checkpoint before the last."""
    folder = next(home.glob("runs/single/v*"))
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != "earlier.ckpt")
    return "\n".join([COMMANDS["continue"].result(home), *names])


def killed(attack: Attack, seconds: float, expected: str) -> tuple[str, Answer]:
    first = ask_anew(attack, killing(seconds, train(*RUN)))
    if first.code == 0:
        return "not killed", first
    answer = ask(train(*RUN), attack.home, 120)
    if answer.fault or answer.code:
        return answer.fault or "error", answer
    return "same result" if left(attack.home) == expected else "other result", answer


def killing(seconds: float, command: Callable[[], None]) -> Callable[[], None]:
    """The command, killed with all its processes after some seconds."""

    def run() -> None:
        threading.Timer(seconds, lambda: os.killpg(0, signal.SIGKILL)).start()
        command()

    return run

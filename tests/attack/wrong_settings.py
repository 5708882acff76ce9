"""Give each setting each kind of nonsense on the command line: it is refused by name, with what is allowed."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from test_settings import COMMANDS, NONSENSE, TAKEN, by_target, plain_settings

from attack.answers import Answer, Case, ask, train
from segstudy.config.compose import compose_config

ANSWERS = ("named", "unnamed", "accepted", "traceback", "hang", "crash")
"""named: refused with the setting's name. unnamed: another error. accepted: a training began."""


TOGETHER = 20
"""Settings in one command: all mistakes are told at once."""


def cases(home: Path) -> Iterator[Case]:
    for command in COMMANDS:
        cfg = compose_config(command.split())
        names = plain_settings(cfg)
        for kind, value in NONSENSE.items():
            wrong = [name for name in names if not {name, by_target(cfg, name)} & {*TAKEN[kind].split()}]
            for start in range(0, len(wrong), TOGETHER):
                some = wrong[start : start + TOGETHER]
                words = [*command.split(), *(f"{name}={written(value)}" for name in some)]
                yield Case(kind, " ".join(words), partial(answer, home, words, some), len(some))


def written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return {"": "''", "None": "null", "True": "true", "{'a': 1}": "{a:1}"}.get(str(value), str(value)).replace(" ", "")


def answer(home: Path, words: list[str], names: list[str]) -> tuple[str, Answer]:
    answer = ask(train(*words), home, 30)
    if answer.code == 0:
        return "accepted", answer
    told = answer.text.replace("loss.weights=", "".join(f"{n}=" for n in names if n.startswith("loss.weights.")))
    missing = [name for name in names if f"{name}=" not in told]
    text = f"{answer.text}not named: {', '.join(missing)}"
    return answer.fault or ("unnamed" if missing else "named"), Answer(answer.code, text, answer.seconds)

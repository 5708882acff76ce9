"""Run folders of a stranger: nothing in them is executed, read from this machine, or sent to the terminal as it is."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from attack.answers import Answer, Case, ask
from attack.damaged_files import COMMANDS, OF_RUN, Attack, Damage, changed, json_value

SECRET = "a-secret-of-this-machine"
NASTY = "\x1b[2J\x1b]0;title\x07cat"

ANSWERS = ("refused", "harmless", "executed", "secret told", "control characters", "traceback", "hang", "crash")
"""harmless: the command answered as if nothing were there. executed: a file was touched that the folder asked for."""


def config(change: Callable[[dict[str, Any]], object]) -> Damage:
    def apply(content: bytes) -> bytes:
        values = yaml.safe_load(content)
        change(values)
        return yaml.safe_dump(values).encode()

    return changed(apply)


def part(place: str, /, **values: Any) -> Damage:
    """One part of the config with other values; `target` is its _target_."""
    values = {"_target_" if key == "target" else key: value for key, value in values.items()}
    return config(lambda whole: whole[place].update(values))


SHELL = {"_target_": "os.system", "command": "touch hacked"}
CODE: dict[str, Damage] = {
    **{f"{name} is os.system": config(lambda whole, name=name: whole.update({name: SHELL}))  # type: ignore[misc]
       for name in ("network", "encoder", "decoder", "loss", "data", "optim", "schedule")},
    "a callback is os.system": config(lambda whole: whole["callbacks"].update(evil=SHELL)),
    "a nested part is os.system": part("loss", inner=SHELL),
    "the loss is eval": part("loss", target="builtins.eval", code="__import__('os').system('touch hacked')"),
    "the network is a module's attribute": part("network", target="segstudy.files.os.system"),
    "the network is of a file beside": part("network", target="evil.Network"),
    "hydra runs a callback": config(lambda whole: whole.update(hydra={"callbacks": {"a": SHELL}})),
}  # fmt: skip

SECRETS: dict[str, Damage] = {
    "a secret as name": part("data", name="${oc.env:SEGSTUDY_SECRET}"),
    "a secret as study": config(lambda whole: whole.update(study="${oc.env:SEGSTUDY_SECRET}")),
    "a secret decoded": part("data", name="${oc.decode:${oc.env:SEGSTUDY_SECRET}}"),
}

ELSEWHERE: dict[str, Damage] = {
    "a million workers": part("data", workers=10**6),
    "a cache elsewhere": part("data", cache_dir="/tmp/segstudy-hostile-cache"),
    "images of 10**9 pixels a side": part("data", size=[10**9, 10**9]),
    "a batch of 10**12": part("data", batch_size=10**12),
}

CONFIG_NAMES = {"a name of control characters": part("data", name=NASTY)}

RECORD_NAMES: dict[str, Damage] = {
    "classes of control characters": json_value(["class_names", 1], NASTY, False),
    "status of control characters": json_value(["status"], NASTY, False),
    "changes of control characters": json_value(["changes"], [NASTY], False),
    "a formula as class": json_value(["class_names", 1], "=cmd|' /C calc'!A0", False),
    "mathematics as class": json_value(["class_names", 1], "$\\frac{", False),
    "markup as class": json_value(["class_names", 1], "[/bold][link=file:///etc/passwd]<script>", False),
}


KINDS = (
    ("commands to execute", "config.yaml", CODE),
    ("secrets of the machine", "config.yaml", SECRETS),
    ("places and amounts", "config.yaml", ELSEWHERE),
    ("names", "config.yaml", CONFIG_NAMES),
    ("names", "record.json", RECORD_NAMES),
)


def cases(attack: Attack) -> Iterator[Case]:
    for kind, file, damages in KINDS:
        for name, damage in damages.items():
            for command in OF_RUN:
                yield Case(kind, f"{name}: {command}", partial(answer, attack, file, damage, command))


def answer(attack: Attack, file: str, damage: Damage, command: str) -> tuple[str, Answer]:
    attack.restore()
    os.environ["SEGSTUDY_SECRET"] = SECRET
    damage(attack.home / "study" / file)
    (attack.home / "evil.py").write_text("open('hacked', 'w')\n")
    answer = ask(COMMANDS[command].call, attack.home)
    written = [p for p in attack.home.rglob("*") if p.suffix in (".md", ".html", ".csv") and p.is_file()]
    if (attack.home / "hacked").exists() or Path("/tmp/segstudy-hostile-cache").exists():
        return "executed", answer
    if SECRET in answer.text or any(SECRET in p.read_text(errors="replace") for p in written):
        return "secret told", answer
    if "\x1b[2J" in answer.text or "\x07" in answer.text:
        return "control characters", answer
    return answer.fault or ("refused" if answer.code else "harmless"), answer

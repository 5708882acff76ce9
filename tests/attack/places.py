"""Give each option that writes a place where it cannot: one line before the work, and nothing half-written."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from attack.answers import Answer, Case, ask, segstudy
from attack.damaged_files import SMALL, Attack

SCENES = ("model=v1", "data=scenes", *SMALL)

OPTIONS = {
    "data --out": ("data", "scenes", "data.size=32", "data.cache_dir=cache", "--out", "x.png"),
    "network --out": ("network", "model=v1", "--out", "x.png"),
    "find lr --out": ("find", "lr", *SCENES, "--out", "x.png"),
    "audit --json": ("audit", "study", "--json", "x.json"),
    "compare --out": ("compare", "photos/masks", "photos/masks", "--background", "none", "--out", "x"),
    "predict --out": ("predict", "study", "photos/images", "--out", "x"),
    "predict --json": ("predict", "study", "photos/images", "--out", "masks", "--json", "x.json"),
    "evaluate --json": ("evaluate", "study", "--json", "x.json"),
    "evaluate --save-masks": ("evaluate", "study", "--save-masks", "x"),
    "export --out": ("export", "study", "--out", "x.onnx"),
    "export --json": ("export", "study", "--out", "network.onnx", "--json", "x.json"),
    "card --out": ("card", "study", "--no-latency", "--out", "x.md"),
}
"""Each command with its option last."""

PLACES: dict[str, Callable[[str], str]] = {
    "below a file": lambda name: f"afile/{name}",
    "a folder, or a file": lambda name: "afolder" if "." in name else "afile",
    "/proc": lambda name: f"/proc/{name}",
    "a name of 300 letters": lambda name: "a" * 300 + name,
    "a full disk": lambda name: f"full/{name}",
    "no name": lambda name: "",
}

ANSWERS = ("refused", "written", "after the work", "half-written", "traceback", "hang", "crash")
"""refused: an error alone. after the work: a disk that filled up, and only whole files. half-written: others."""


def cases(attack: Attack) -> Iterator[Case]:
    for option, words in OPTIONS.items():
        for place, where in PLACES.items():
            if place != "a full disk" or os.geteuid() == 0:  # a small disk can be mounted
                command = segstudy(*words[:-1], where(words[-1]))
                yield Case(option, place, partial(answer, attack, command))


def answer(attack: Attack, command: Callable[[], None]) -> tuple[str, Answer]:
    attack.restore()
    (attack.home / "afile").write_text("x")
    (attack.home / "afolder").mkdir()
    full = attack.home / "full"
    full.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(full)])
    try:
        if mounted:
            (full / "rest").write_bytes(bytes(12 * 1024))
        before = broken_files(attack.home)
        answer = ask(command, attack.home)
        left = broken_files(attack.home) - before
    finally:
        if mounted:
            subprocess.call(["umount", str(full)])
        shutil.rmtree(full)
    if answer.fault or answer.code == 0:
        return answer.fault or "written", answer
    if left:
        return "half-written", Answer(answer.code, f"{answer.text}left: {left}", answer.seconds)
    return "refused" if re.match(r"\w+Error: |Usage: ", answer.text) else "after the work", answer


def broken_files(home: Path) -> set[Path]:
    """Empty files, pictures and JSON that cannot be read, and files under another name until they are whole."""
    found = set()
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink() and "cache" not in path.parts:
            try:
                if path.suffix == ".png":
                    Image.open(path).load()
                elif path.suffix == ".json":
                    json.loads(path.read_text())
                elif not path.stat().st_size or "part" in path.suffix:
                    raise ValueError
            except (OSError, ValueError):
                found.add(path)
    return found

"""Every command that a message, a help text or a page proposes is there, with the options that it names."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from segstudy.cli.main import app

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [*ROOT.glob("src/segstudy/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("conf/**/*.yaml")]
)
GROUP: Any = typer.main.get_command(app)
FREE = "train"
"""Hands all its words on to Hydra."""


def proposals(text: str) -> list[tuple[str, list[str]]]:
    """The words after `segstudy` up to the end of the command, and its options."""
    found = re.findall(r"\bsegstudy ([a-z]+\b[^`\n\"()|\\]*)", text)
    return [(words, re.findall(r"(?<![\w-])--[a-z][\w-]*", words)) for words in found]


def command_of(words: str) -> Any:
    """The command, or the one of its group, that the words begin with; None if there is none."""
    first, *rest = words.split()
    command = GROUP.commands.get(first)
    if hasattr(command, "commands"):  # a group
        name = rest[0].strip(".,;:") if rest else ""
        return command.commands.get(name) or (command.commands["show"] if first == "data" else None)
    return command


def test_every_proposed_command_is_there() -> None:
    tried, wrong = 0, []
    for file in FILES:
        for words, options in proposals(file.read_text()):
            command = command_of(words)
            if not options or words.split()[0] == FREE:
                continue
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} if command else set()
            tried += 1
            if command is None or set(options) - known - {"--help"}:
                wrong.append(f"{file.relative_to(ROOT)}: segstudy {words}")
    assert wrong == []
    assert tried > 25


def test_every_proposed_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for file in FILES for t in re.findall(r"(?:`|next: |^)make ([a-z]+)", file.read_text(), re.MULTILINE)}
    assert {"ablation", "tensorboard"} <= named <= targets


@pytest.mark.parametrize("words", ["evaluate RUN --write", "nothing --here", "find out --now"])
def test_what_is_not_there_is_seen(words: str) -> None:
    command = command_of(words)
    (_, options), = proposals(f"  → segstudy {words}")  # fmt: skip
    assert command is None or not set(options) <= {o for p in command.params for o in p.opts}

"""Problems of the user's folder."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from segstudy.errors import DataError, first_few, first_lines


@dataclass(frozen=True)
class Problem:
    """A kind of problem, and where it occurs. severity: "error" (prevents training) or "warning"."""

    title: str
    items: list[str]
    severity: str = "error"
    advice: str = ""

    def __str__(self) -> str:
        """The title, and indented below it the first items and the advice."""
        lines = first_lines(self.items, 5) + (f"\n→ {self.advice}" if self.advice else "")
        return f"{self.title} ({len(self.items)})\n" + textwrap.indent(lines, "  ")

    @property
    def note(self) -> str:
        """In one line."""
        return f"{self.title} ({len(self.items)}): {first_few(self.items)}"


def problem(title: str, items: Sequence[str], severity: str = "error", advice: str = "") -> list[Problem]:
    """A list with this problem; [] if it has no items."""
    return [Problem(title, list(items), severity, advice)] if items else []


def raise_errors(problems: Sequence[Problem], root: Path) -> None:
    """Raise DataError that lists the problems that prevent training, if there are any."""
    if errors := [str(each) for each in problems if each.severity == "error"]:
        raise DataError("\n".join(errors) + f"\n→ all problems at once: segstudy data check {root}")


def yaml_line(key: str, value: Any) -> str:
    """A line of dataset.yaml."""
    text = yaml.safe_dump({key: value}, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.strip()[1:-1]


def ask_which(root: Path, choices: Sequence[Mapping[str, Any]]) -> NoReturn:
    """Raise DataError that asks which masks to use. choices: keys of dataset.yaml."""
    names = " or ".join(str(choice["masks"]) for choice in choices)
    lines = [", ".join(yaml_line(*item) for item in choice.items()) for choice in choices]
    separator = " or " if all(len(choice) == 1 for choice in choices) else "\n    or "
    raise DataError(f"which are the masks in {root}: {names}?\n  → in dataset.yaml, {separator.join(lines)}")


class Question(DataError):
    """Masks can be read in two ways. answer: keys of dataset.yaml that may answer it."""

    def __init__(self, message: str, answer: dict[str, Any] | None = None):
        super().__init__(message)
        self.answer = answer or {}

"""Errors for the user's mistakes: each message says what was expected, what was found and what to do."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class SegstudyError(Exception):
    """Base of every error that is printed as plain text, without a traceback."""


class ConfigError(SegstudyError):
    """A setting is unknown, has a wrong value, or does not fit another one."""


class DamagedFile(ConfigError):
    """A file that segstudy has written is cut or changed: the message names the file, what is lost, and what to do."""


class DataError(SegstudyError):
    """A data set is missing, incomplete or not in the expected format."""


class WeightsError(SegstudyError):
    """Weights cannot be loaded or do not fit the network."""


class TrainingError(SegstudyError):
    """Training stopped: a loss that is not finite, too little memory, or a full disk."""


class ExportError(SegstudyError):
    """An exported file gives other outputs than the network."""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """'; did you mean …?' with the closest known words, or ""."""
    found = get_close_matches(word, known, n=3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def first_lines(items: Sequence[str], most: int, indent: str = "") -> str:
    """The first `most` items, one per line, and how many more there are."""
    more = [f"… and {len(items) - most} more"] if len(items) > most else []
    return "\n".join(indent + line for line in [*items[:most], *more])


def first_few(items: Sequence[Any], most: int = 5) -> str:
    """The first `most` items on one line, and how many more there are."""
    more = f" … and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def list_found(folder: Path) -> str:
    """The first names in a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    names = [p.name + " (a broken link)" * (not p.exists()) for p in folder.iterdir() if not p.name.startswith(".")]
    return ", ".join(sorted(names)[:8]) or "an empty folder"

"""`python -m attack [SECTION …] [--minutes 30]` in tests/; the counts go to results/robustness.md."""

import argparse
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from attack import damaged_files, hostile_folders, kills, places, wrong_settings
from attack.answers import Case, count, table
from attack.damaged_files import Attack
from segstudy.console import silence_warnings

RESULTS = Path(__file__).parents[2] / "results" / "robustness.md"

HEAD = """# Robustness

What `make attack` counted: commands that were given wrong settings, damaged files, places where they cannot write and
folders of strangers, and trainings that were killed; and how they answered. Each section runs its cases in a random
order, the same each time, until its time is over.
"""


@dataclass(frozen=True)
class Section:
    """title; text: what is done, and the columns; cases; columns of the table; how many of them are proper answers;
    share of the time."""

    title: str
    text: str
    cases: Callable[[Attack], Iterable[Case]]
    columns: Sequence[str]
    proper: int
    share: float


SECTIONS = (
    Section(
        "Wrong settings",
        "Each setting that a constructor or a table names is given each kind of nonsense that has no meaning there, by "
        "`python train.py`. *Named*: refused with the setting's name. *Accepted*: a training began.",
        lambda attack: wrong_settings.cases(attack.home), wrong_settings.ANSWERS, 1, 0.2,
    ),
    Section(
        "Damaged files",
        "A study of 2 variants × 2 seeds, an interrupted run, a run of own images and a study with a budget; each case "
        "damages a copy of one file and gives one command what is left. *Named*: the answer names the file. *Same "
        "result*: as of the whole study. *Accepted*: a value of the right type, in a file whose checksum was removed. "
        "*Unnamed*: an error without the file's name. *Silent*: another result without a word.",
        damaged_files.cases, damaged_files.ANSWERS, 3, 0.4,
    ),
    Section(
        "Places that cannot be written",
        "Each option that writes, in each such place. *Refused*: an error before the work; *written*: it could be "
        "written after all (without a name, the option's default); *after the work*: the disk was full then, and only "
        "whole files are left.",
        places.cases, places.ANSWERS, 3, 0.1,
    ),
    Section(
        "Folders of strangers",
        "Runs whose config or record asks for commands, secrets of the machine, places elsewhere, endless memory, or "
        "holds control characters. *Refused*: an error; *harmless*: the command did its work, and nothing of that "
        "happened.",
        hostile_folders.cases, hostile_folders.ANSWERS, 2, 0.15,
    ),
    Section(
        "Kills",
        "A training of two epochs is killed (SIGKILL) at any moment, also during its test; the same command continues "
        "it. *Same result*: metrics, counts, epochs and files of the training that was not killed.",
        kills.cases, kills.ANSWERS, 1, 0.15,
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"words of {', '.join(s.title for s in SECTIONS)}; default: all")
    parser.add_argument("--minutes", type=float, default=30, help="for all sections together")
    parser.add_argument("--place", type=Path, default=Path("/tmp/segstudy-attack"), help="folder for the study")
    given = parser.parse_args()
    chosen = [s for s in SECTIONS if any(w.lower() in s.title.lower() for w in given.sections or [""])]
    if not chosen:
        parser.error(f"no section {' '.join(given.sections)}; sections: {', '.join(s.title for s in SECTIONS)}")
    os.environ["COLUMNS"] = "120"
    silence_warnings()
    torch.set_num_threads(1)  # a process with threads cannot be forked
    attack = Attack(given.place)
    for section in chosen:
        attack.restore()
        minutes = given.minutes * section.share / sum(s.share for s in chosen)
        cases = list(section.cases(attack))
        began = time.monotonic()
        counts = count(cases, section.columns[: section.proper], minutes)
        spent, number = (time.monotonic() - began) / 60, sum(case.size for case in cases)
        how = f"{time.strftime('%Y-%m-%d')}: {counts.total():,} of {number:,} cases in {spent:.0f} minutes."
        write_section(section.title, f"{section.text}\n\n{how}\n\n{table(counts, section.columns)}")


def write_section(title: str, text: str) -> None:
    """Add or replace a section; the others stay as they are."""
    whole = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else ""
    held = {part.splitlines()[0]: part.partition("\n")[2].strip() for part in re.split(r"(?m)^## ", whole)[1:]}
    held[title] = text
    parts = [f"## {s.title}\n\n{held[s.title]}\n" for s in SECTIONS if s.title in held]
    RESULTS.write_text("\n".join([HEAD, *parts]), "utf-8")


if __name__ == "__main__":
    main()

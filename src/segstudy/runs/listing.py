"""List all runs below a folder with their status. Imports no torch, so that hundreds of runs take a second."""

import fcntl
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from segstudy.errors import ConfigError, DamagedFile, DataError, did_you_mean, list_found
from segstudy.files import open_lock, read_yaml, reading
from segstudy.formatting import counted, format_duration, format_number
from segstudy.runs.headline import headline_size
from segstudy.runs.history import read_history
from segstudy.runs.record import read_entries, sealed
from segstudy.runs.tables import variants

STATUSES = {"done": "default", "failed": "red", "running": "green", "interrupted": "yellow", "unreadable": "red"}
"""The colour of each. running: a process holds the run's lock. interrupted: not finished, and no process holds it."""

COLUMNS = ("mIoU", "original", "epochs", "time", "size", "begun")

WIDE = 110
"""Terminal width from which the columns time and begun are shown."""


@dataclass(frozen=True)
class Run:
    """A run's folder. name: short, within its study. epochs, planned: trained and planned epochs, None if unknown."""

    folder: Path
    study: str
    name: str
    status: str
    error: str | None
    record: Mapping[str, Any]
    epochs: int | None
    planned: int | None
    bytes: int

    @property
    def selected_on_reported(self) -> bool:
        return bool(self.record.get("selected_on_reported"))

    def figure(self, *keys: str) -> float | None:
        """A number of the record; None if it is missing or not finite."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return value if number else None

    def headline(self, metric: str) -> float | None:
        """A metric at the run's headline size; None as in `figure`."""
        return self.figure("metrics", headline_size(self.record), metric)


def with_status(runs: Sequence[Run], statuses: Sequence[str]) -> list[Run]:
    """The runs with these statuses; all if none is given. Raises ConfigError for an unknown status."""
    if wrong := [s for s in statuses if s not in STATUSES]:
        raise ConfigError(
            f"--status {wrong[0]}: no such status{did_you_mean(wrong[0], [*STATUSES])} ({', '.join(STATUSES)})"
        )
    return [run for run in runs if not statuses or run.status in statuses]


def list_runs(folder: Path) -> list[Run]:
    """All runs at or below a folder, sorted by study and name. Does not follow links. Raises DataError without runs."""
    studies: dict[Path, list[Path]] = {}
    for place in find_runs(folder):
        studies.setdefault(place.parent, []).append(place)
    found = []
    for home, places in studies.items():
        inside = home.resolve() != folder.resolve() and home.is_relative_to(folder)
        study = str(home.relative_to(folder)) if inside else home.resolve().name
        records = {place: read(place) for place in places}
        changed = {place.name: record for place, (record, _) in records.items() if "changes" in record}
        names = dict(zip(changed, variants(changed), strict=True))
        found += [_run(place, study, names.get(place.name, place.name), *records[place]) for place in places]
    return found


def find_runs(folder: Path) -> list[Path]:
    """The run folders at or below a folder, sorted. Raises DataError if there are none."""
    found = []
    for place, inner, files in os.walk(folder):
        if "record.json" in files or {"config.yaml", ".lock"} <= set(files):
            found.append(Path(place))
            inner.clear()  # a run's folder holds no other runs
        inner[:] = sorted(name for name in inner if not name.startswith("."))
    if not found:
        raise DataError(
            f"no runs in {folder}\n  expected: {folder}/STUDY/RUN/record.json\n  found:    {list_found(folder)}"
        )
    return sorted(found)


def read(folder: Path) -> tuple[dict[str, Any], str | None]:
    """A run's record, {} if there is none, and the reason if it cannot be read."""
    try:
        return read_entries(folder), None
    except ConfigError as error:
        return {}, str(error)


def _run(folder: Path, study: str, name: str, record: dict[str, Any], damage: str | None) -> Run:
    status, error = record.get("status"), record.get("error")
    if damage is not None:
        status, error = "unreadable", damage
    elif busy(folder):
        status = "running"
    elif status not in ("done", "failed"):
        status, error = "interrupted", None
    done = record.get("epochs") if status == "done" else None
    planned = None
    try:
        planned = planned_epochs(folder, record)
        if done is None and (rows := read_history(folder / "history.csv")):
            done = int(rows[-1]["epoch"])
    except DamagedFile as damaged:
        error = error or str(damaged)
    return Run(folder, study, name, status, error, record, done, planned, size(folder))


def busy(folder: Path) -> bool:
    """Whether a process holds the run's lock (`run_lock`); tested with a shared lock that is released at once."""
    try:
        with open_lock(folder, create=False) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, ConfigError):  # no lock, or a link or a pipe
        return False
    except OSError:
        return True
    return False


def planned_epochs(folder: Path, record: Mapping[str, Any]) -> int | None:
    """The epochs in a run's config; None without a config or a limit. Raises DamagedFile."""
    file = sealed(folder, "config.yaml", record)
    try:
        with reading(file):
            text = read_yaml(file)
            if not re.search(r"^trainer:", text, re.MULTILINE):
                raise ValueError("it has no trainer: it is not a run's config")
    except FileNotFoundError:
        return None
    # A regular expression for OmegaConf's format: parsing YAML would take most of the listing's time.
    planned = re.search(r"^trainer:\n(?:  .*\n)*?  max_epochs: (\d{1,9})$", text, re.MULTILINE)
    return int(planned[1]) if planned else None


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size if path.exists() else 0
    total = 0
    for place, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):  # a running run may remove files meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def print_runs(runs: Sequence[Run], console: Console) -> None:
    """Print a table with one row for each run, and the errors of failed runs below."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("status", no_wrap=True)
    for name in COLUMNS if console.width >= WIDE else [name for name in COLUMNS if name not in ("time", "begun")]:
        table.add_column(name, justify="right", no_wrap=True)
    for study in dict.fromkeys(run.study for run in runs):
        members = [run for run in runs if run.study == study]
        used = decimal(sum(run.bytes for run in members))
        table.add_row(f"[bold]{escape(study)}[/] ({counted(len(members), 'run')}, {used})")
        for run in members:
            status = f"[{STATUSES[run.status]}]{run.status}[/]" + "*" * run.selected_on_reported
            cells = _cells(run)
            table.add_row(f"  {escape(run.name)}", status, *(cells[str(c.header)] for c in table.columns[2:]))
    console.print(table)
    for run in runs:
        if run.error:
            console.print(f"[red]{escape(run.name)}:[/] {escape(run.error)}", highlight=False, soft_wrap=True)
    numbers = {s: sum(run.status == s for run in runs) for s in STATUSES}
    summary = ", ".join(f"{n} {status}" for status, n in numbers.items() if n) or "none"
    console.print(f"{counted(len(runs), 'run')}: {summary}; {decimal(sum(r.bytes for r in runs))}", highlight=False)
    if any(run.selected_on_reported for run in runs):
        console.print("* selected on the reported split: its results are optimistic")


def _cells(run: Run) -> dict[str, str]:
    epochs = "–" if run.epochs is None else str(run.epochs)
    if run.planned is not None and run.epochs != run.planned:
        epochs += f" of {run.planned}"
    return {
        "mIoU": format_number(run.headline("miou")),
        "original": format_number(run.figure("metrics", "original", "miou")),
        "epochs": epochs,
        "time": format_duration(run.figure("seconds")),
        "size": decimal(run.bytes),
        "begun": begun(run.record),
    }


def begun(record: Mapping[str, Any]) -> str:
    """When a run was last started or continued, in local time; – if not recorded."""
    try:
        return datetime.fromisoformat(record.get("started") or "").astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return "–"


def as_json(runs: Sequence[Run]) -> str:
    """The runs as JSON; null for values that are missing or not defined."""
    rows = [
        {
            "folder": str(run.folder), "study": run.study, "name": run.name, "status": run.status, "error": run.error,
            "changes": run.record.get("changes"), "seed": run.figure("seed"),
            "miou": run.headline("miou"), "miou_at": headline_size(run.record),
            "miou_original": run.figure("metrics", "original", "miou"),
            "pixel_accuracy": run.headline("pixel_accuracy"),
            "selected_on_reported": run.selected_on_reported,
            "epochs": run.epochs, "max_epochs": run.planned, "seconds": run.figure("seconds"),
            "bytes": run.bytes, "started": run.record.get("started"),
        }
        for run in runs
    ]  # fmt: skip
    return json.dumps(rows, indent=1, ensure_ascii=False)

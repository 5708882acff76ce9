"""What of finished and failed runs can be removed, and its removal: never of a run that goes on or can be continued."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from segstudy.errors import ConfigError
from segstudy.files import PARTIAL, open_lock
from segstudy.runs.listing import Run, config_text, only, read, size

OWN = {
    ".lock", "config.yaml", "record.json", "history.csv", "pictures", "tensorboard", "test", "before",
    "checkpoints", "inspector", "card.md", "card",
}  # fmt: skip
"""What segstudy writes into a run's folder: a folder that holds anything else is not removed as a whole."""
UNLOCKED = 3600
"""Seconds after which a half-written report is a leftover: its writer holds no lock that could be asked."""


@dataclass(frozen=True)
class Item:
    """What can be removed, and why. run: whose lock is held meanwhile; None: no run's."""

    path: Path
    reason: str
    bytes: int
    run: Path | None


@dataclass
class Freed:
    """What a cleaning removed, and what it left with the reason."""

    removed: list[Item] = field(default_factory=list)
    left: list[tuple[Item, str]] = field(default_factory=list)


def plan(runs: Sequence[Run], folder: Path, statuses: Sequence[str] = ()) -> list[Item]:
    """What of these runs can be removed: nothing of one that goes on or can be continued.

    runs: all below the folder, for a checkpoint from which another one's config starts stays. statuses: only of these.
    """
    needed = {place for run in runs for place in _started_from(run.folder)}
    items = [item for run in only(runs, statuses) for item in removable(run, needed)]
    if statuses:
        return items
    homes = dict.fromkeys([folder, *(run.folder.parent for run in runs)])
    for place in (p for home in homes for p in sorted(home.glob(".report-*"))):
        if place.is_dir() and not place.is_symlink() and time.time() - place.lstat().st_mtime > UNLOCKED:
            items.append(Item(place, "a report that was never finished", size(place), None))
    for place in (p for home in homes for p in sorted(home.glob(f".*{PARTIAL}"))):
        if place.is_file() and not place.is_symlink() and time.time() - place.lstat().st_mtime > UNLOCKED:
            items.append(Item(place, "the rest of a write that was ended", size(place), None))
    return items


def removable(run: Run, needed: set[Path]) -> list[Item]:
    """What of one run can be removed; needed: checkpoints that other runs' configs start from."""

    def item(path: Path, reason: str) -> Item:
        return Item(path, reason, size(path), run.folder)

    if run.status == "failed" and not _holds(run.folder / "checkpoints"):
        names = {p.name for p in run.folder.iterdir() if p.suffix != PARTIAL}
        if run.folder.is_symlink() or "config.yaml" not in names or names - OWN:
            return []
        return [item(run.folder, "failed before its first checkpoint: nothing to continue")]
    if run.status != "done":
        return []
    tested = run.folder / "checkpoints" / f"{run.record.get('checkpoint', 'last')}.ckpt"
    keep = needed | {tested.resolve()}
    found = []
    for path in _files(run.folder):
        if path.name.startswith(".retest-"):
            found.append(item(path, "a test that was never finished"))
        elif path.suffix == PARTIAL:
            found.append(item(path, "the rest of a write that was ended"))
        elif path.suffix == ".ckpt" and path.parent == tested.parent and _holds(tested) and path.resolve() not in keep:
            found.append(item(path, f"superseded: the run is done and was tested with {tested.name}"))
    return found


def _files(folder: Path) -> Iterator[Path]:
    """All files of a run and the folders of its tests in the making, without what links lead to."""
    for place, inner, files in os.walk(folder):
        yield from (Path(place, name) for name in sorted(files) if not Path(place, name).is_symlink())
        for name in [n for n in inner if n.startswith(".retest-")]:
            inner.remove(name)
            yield Path(place, name)


def _holds(path: Path) -> bool:
    """Whether a file has bytes, or a folder a file."""
    return path.exists() and (any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0)


def _started_from(folder: Path) -> list[Path]:
    """The file that a run's config starts from, if it names one."""
    named = re.search(r"^start_from: (.+)$", config_text(folder), re.MULTILINE)
    place = named[1].strip("'\"") if named else "null"
    return [] if place == "null" else [Path(place).expanduser().resolve()]


def clean(items: Sequence[Item]) -> Freed:
    """Remove what was planned, each run's under its lock and only what can still be removed then."""
    freed = Freed()
    for home in dict.fromkeys(item.run for item in items):
        mine = [item for item in items if item.run == home]
        if home is None:
            _remove(mine, freed)
            continue
        with _locked(home) as held:
            still = {i.path for i in removable(_as_held(home), set())} if held else set()
            why = "it has changed meanwhile" if held else "another process works in the run's folder"
            freed.left += [(item, why) for item in mine if item.path not in still]
            _remove([item for item in mine if item.path in still], freed)
    return freed


def _as_held(folder: Path) -> Run:
    """The run as its files are now; its lock is this process's own."""
    record, said = read(folder)
    status = "unreadable" if said else str(record.get("status"))
    return Run(folder, "", folder.name, status, said, record, None, None, 0)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Holds the run's lock if no other process does; whether it is held."""
    try:
        file = open_lock(folder)
    except (OSError, ConfigError):
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _remove(items: Sequence[Item], freed: Freed) -> None:
    for item in items:
        try:
            if item.path.is_dir() and not item.path.is_symlink():
                shutil.rmtree(item.path)
            else:
                item.path.unlink()
            freed.removed.append(item)
        except OSError as error:
            freed.left.append((item, str(error)))


def print_items(items: Sequence[Item], folder: Path, console: Console) -> None:
    """What can be removed, with its size, under each reason."""
    for reason in dict.fromkeys(item.reason for item in items):
        console.print(f"[bold]{escape(reason)}", highlight=False, soft_wrap=True)
        for item in (i for i in items if i.reason == reason):
            path = item.path.relative_to(folder) if item.path.is_relative_to(folder) else item.path
            line = f"{decimal(item.bytes):>11}  {path}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

"""A run's record: one JSON file that says what was run, on what, and what came out."""

import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from segstudy import entry
from segstudy.config import differences
from segstudy.device import RANK
from segstudy.errors import ConfigError, SegstudyError, TrainingError
from segstudy.files import open_lock, read_text, remove_partials, replacing, write_text
from segstudy.recorded import parse_record

PACKAGES = ("segstudy", "torch", "lightning", "torchmetrics", "segmentation-models-pytorch", "timm", "hydra-core")


class Record:
    """`record.json` of a run folder: status (running, done, failed) and all that is noted; never half written."""

    def __init__(self, folder: Path):
        self.folder, path = folder, folder / "record.json"
        try:
            self.values: dict[str, Any] = dict(json.loads(read_text(path))) if path.is_file() else {}
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged: {error}\n  → another study=NAME, or remove the folder") from error

    def note(self, **values: Any) -> None:
        """Add or replace entries and write the file (the first process of several does).

        Raises TrainingError if it cannot be written; the earlier one is still there.
        """
        self.values |= values
        if RANK > 0:
            return
        text = json.dumps(self.values, indent=1, default=str, allow_nan=True)
        try:
            with replacing(self.folder, "record.json", durable=True) as file:
                file.write(text.encode())
        except OSError as error:
            raise TrainingError(
                f"the run's record could not be written: {error}\n  the earlier one is still there: free some space, "
                "and give the same command again"
            ) from error

    @property
    def status(self) -> str | None:
        return self.values.get("status")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run that has opened its data. Raises ConfigError if the folder has none."""
    file = folder / "record.json"
    try:
        values = parse_record(read_text(file))
        if not values["class_names"]:
            raise KeyError("class_names")
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is not a run's folder: no file {file}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no record of a run that has opened its data ({error!r})") from error
    return values


@contextmanager
def claimed(folder: Path, cfg: DictConfig) -> Iterator[Record]:
    """The record of the folder for this config, with the folder held for this process; an error is noted in it.

    Of a run that is done, only the record: nothing is locked or written. Raises ConfigError as `claim` and `locked`.
    """
    record = belongs(folder, cfg)
    if record.status == "done":
        yield record
        return
    with locked(folder):  # what was read before may be out of date
        record = claim(folder, cfg)
        try:
            yield record
        except Exception as error:
            if record.status == "done" or entry.received:  # what is told of it at the end; what an interruption broke
                raise
            try:
                record.note(status="failed", error=f"{type(error).__name__}: {error}".splitlines()[0])
            except SegstudyError as unwritten:  # a full disk, most often: what failed first is what is told
                print(f"{folder}: that it failed is not in its record. {unwritten}", file=sys.stderr)
            raise


def belongs(folder: Path, cfg: DictConfig) -> Record:
    """The record of a folder that is new, or holds a run of this config. Only reads.

    A run that failed before its first checkpoint leaves nothing to lose: its folder takes another config.
    Raises ConfigError if the folder belongs to another config (lists what differs).
    """
    home = folder / "config.yaml"
    try:
        record = Record(folder)
        if RANK == 0 and home.is_file() and not _lost(record):
            other = differences(OmegaConf.create(read_text(home)), cfg)  # type: ignore[arg-type]
            if other:
                raise ConfigError(
                    f"{folder} holds a run of another config:\n  " + "\n  ".join(other[:12]) + "\n"
                    "  → another study=NAME, the old settings, or remove the folder"
                )
        return record
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{home} is damaged: {error}\n  → another study=NAME, or remove the folder") from error
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be read: {error}; set runs_dir=FOLDER") from error


def claim(folder: Path, cfg: DictConfig) -> Record:
    """The record of the folder, in which this config is written if no run of it was there. The caller holds the lock.

    Raises ConfigError as `belongs`, and if the folder cannot be written.
    """
    record = belongs(folder, cfg)
    if RANK > 0:
        return record
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)  # of a run that is killed again and again they would fill the disk
        if _lost(record) or not (folder / "config.yaml").is_file():
            write_text(folder, "config.yaml", OmegaConf.to_yaml(cfg))
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be written: {error}; set runs_dir=FOLDER") from error
    return record


def _lost(record: Record) -> bool:
    """Whether a run failed before its first checkpoint."""
    return record.status == "failed" and not list(record.folder.glob("checkpoints/*.ckpt"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder for this process (the first of several). Raises ConfigError if another one holds it."""
    if RANK > 0:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_lock(folder)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be written: {error}; set runs_dir=FOLDER") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another process is training in {folder}") from error
        except OSError as error:
            raise ConfigError(f"{folder / '.lock'} cannot be locked: {error}; set runs_dir=FOLDER") from error
        if os.fstat(file.fileno()).st_nlink == 0:
            raise ConfigError(f"{folder} was removed by another process just now; give the same command again")
        yield


def surroundings() -> dict[str, Any]:
    """Versions, git commit, machine and time."""
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "git": _git(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> str | None:
    """The commit of the working folder's repository, with "+" if it was changed; None outside one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

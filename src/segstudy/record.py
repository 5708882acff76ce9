"""A run's record: one JSON file that says what was run, on what, and what came out."""

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segstudy.config import differences
from segstudy.device import RANK
from segstudy.errors import ConfigError
from segstudy.files import open_lock, read_text, write_text

PACKAGES = ("segstudy", "torch", "lightning", "torchmetrics", "segmentation-models-pytorch", "timm", "hydra-core")


class Record:
    """`record.json` of a run folder: status (running, done, failed) and all that is noted; never half written."""

    def __init__(self, folder: Path):
        self.folder, path = folder, folder / "record.json"
        self.values: dict[str, Any] = json.loads(read_text(path)) if path.is_file() else {}

    def note(self, **values: Any) -> None:
        """Add or replace entries and write the file (the first process of several does)."""
        self.values |= values
        if RANK > 0:
            return
        write_text(self.folder, "record.json", json.dumps(self.values, indent=1, default=str, allow_nan=True))

    @property
    def status(self) -> str | None:
        return self.values.get("status")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run that has opened its data. Raises ConfigError if the folder has none."""
    file = folder / "record.json"
    try:
        values = json.loads(read_text(file))
        if not values["class_names"]:
            raise KeyError("class_names")
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is not a run's folder: no file {file}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no record of a run that has opened its data ({error!r})") from error
    return values


def claim(folder: Path, cfg: DictConfig) -> Record:
    """The record of the folder for this config: new, or an earlier one to continue.

    A run that failed before its first checkpoint leaves nothing to lose: its folder takes another config.
    Raises ConfigError if the folder belongs to another config (lists what differs) or cannot be written.
    """
    home = folder / "config.yaml"
    if RANK > 0:
        return Record(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        failed = Record(folder).status == "failed" and not list(folder.glob("checkpoints/*.ckpt"))
        if home.is_file() and not failed:
            other = differences(OmegaConf.load(home), cfg)  # type: ignore[arg-type]
            if other:
                raise ConfigError(
                    f"{folder} holds a run of another config:\n  " + "\n  ".join(other[:12]) + "\n"
                    "  → another study=NAME, the old settings, or remove the folder"
                )
        else:
            write_text(folder, home.name, OmegaConf.to_yaml(cfg))
        return Record(folder)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be written: {error}; set runs_dir=FOLDER") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder for this process. Raises ConfigError if another one is training in it."""
    with open_lock(folder) as file:
        try:
            if RANK == 0:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another process is training in {folder}") from error
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

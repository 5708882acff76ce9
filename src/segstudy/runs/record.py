"""A run's record: one JSON file that says what was run, on what, and what came out."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from segstudy.errors import ConfigError, TrainingError
from segstudy.files import atomic_write, read_text
from segstudy.precision import RANK
from segstudy.runs.record_schema import parse_record

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
            with atomic_write(self.folder, "record.json", durable=True) as file:
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


def environment() -> dict[str, Any]:
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

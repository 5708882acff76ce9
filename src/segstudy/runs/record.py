"""A run's record, `record.json`: settings, data, machine and results. Only this module reads or writes the file."""

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segstudy.errors import ConfigError, TrainingError, list_found
from segstudy.files import atomic_write, read_text
from segstudy.ranks import RANK

PACKAGES = ("segstudy", "torch", "lightning", "torchmetrics", "segmentation-models-pytorch", "timm", "hydra-core")


class Normalisation(BaseModel):
    """Mean and standard deviation of each channel, as the network expects them."""

    mean: list[float]
    std: list[float]


class Entries(BaseModel):
    """The types of a record's entries. Each may be missing (its default is used); unknown entries are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    status: Literal["running", "done", "failed"] = "running"
    error: str | None = None  # null while running
    started: str = ""
    changes: list[str] = Field(default=["model"], min_length=1)
    seed: int = 0
    threads: int = Field(default=1, ge=1)  # of PyTorch on the CPU
    checkpoint: str = "last"
    encoder_weights: str = ""
    class_names: list[str] = Field(default=["class"], min_length=1)
    palette: list[list[int]] = Field(default=[[0, 0, 0]])
    data: dict[str, Any] = {}
    normalisation: Normalisation | None = None  # null: the network takes the image as it is
    metrics: dict[str, Any] = {}
    classes: dict[str, Any] = {}
    selected_on_reported: bool = False


class Figures(BaseModel):
    """Numbers of a record. A value that is not a finite number is dropped; the record stays readable."""

    model_config = ConfigDict(extra="ignore", strict=True)

    epochs: int | None = Field(default=None, ge=0)
    steps: int | None = Field(default=None, ge=0)
    images_tested: int | None = Field(default=None, ge=0)
    parameters: int | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    gflop: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    images_per_second: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Record:
    """The record of a run folder. `note` changes entries and writes the file.

    Raises ConfigError for a damaged file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.values = read_entries(folder)
        except ConfigError as error:
            raise ConfigError(f"{error}\n  → another study=NAME or runs_dir=FOLDER, or remove the folder") from error

    def note(self, **values: Any) -> None:
        """Add or replace entries, and write the file atomically (only in the first of several processes).

        Raises TrainingError if it cannot be written; the earlier file is unchanged.
        """
        self.values |= values
        if RANK > 0:
            return
        text = json.dumps(self.values, indent=1, default=str, allow_nan=True)  # the IoU of an absent class is NaN
        try:
            with atomic_write(self.folder, "record.json", durable=True) as file:
                file.write(text.encode())
        except OSError as error:
            raise TrainingError(
                f"the run's record could not be written: {error}\n  the earlier one is unchanged: free some space "
                "and repeat the command"
            ) from error

    @property
    def status(self) -> str | None:
        return self.values.get("status")


def read_entries(folder: Path) -> dict[str, Any]:
    """The entries of a run's record, {} if there is none yet. Raises ConfigError, with one line, if it is damaged."""
    file = folder / "record.json"
    try:
        values = json.loads(read_text(file))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} is no run's record: it has no named entries")
    try:
        Entries.model_validate(values)
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise ConfigError(_no_record(file, values, key)) from error
    if "palette" in values and len(values["palette"]) != len(values.get("class_names", [])):
        raise ConfigError(_no_record(file, values, "palette"))
    try:
        Figures.model_validate(values)
    except ValidationError as error:
        for key in {each["loc"][0] for each in error.errors()}:
            del values[key]
    return values


def _no_record(file: Path, values: dict[str, Any], key: Any) -> str:
    return f"{file} is no run's record: {key} is {values[key]!r}"[:300]


def read_record(folder: Path) -> dict[str, Any]:
    """The entries of a run that has opened its data. Raises ConfigError if there are none."""
    values = read_entries(folder)
    if not values:
        runs = sorted(str(file.parent) for file in folder.glob("*/record.json"))[:8]
        inside = "\n  it holds runs: choose one" + "".join(f"\n  → {run}" for run in runs) if runs else ""
        found = list_found(folder)
        raise ConfigError(f"{folder} is not a run's folder: no file {folder / 'record.json'}\n  found: {found}{inside}")
    if "class_names" not in values:
        raise ConfigError(f"{folder / 'record.json'} has no class_names: the run has not opened its data yet")
    return values


def record_beside(file: Path) -> dict[str, Any]:
    """The entries of the run whose folder holds a file of weights; {} for a file elsewhere."""
    homes = (file.parent, file.parent.parent)  # RUN/model.safetensors, RUN/checkpoints/last.ckpt
    return next((read_entries(home) for home in homes if (home / "record.json").is_file()), {})


def run_order(name: str) -> tuple[str, int, str]:
    """Key that sorts a study's runs: v4 before v4_lite, with all their seeds; seed 2 before seed 10."""
    return re.sub(r"_seed[-=]\d+", "", name), len(name), name


def read_study_records(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The records in a study's folder (run → entries), and the reasons why others cannot be read (run → reason)."""
    found, damaged = {}, {}
    for file in sorted(folder.glob("*/record.json"), key=lambda file: run_order(file.parent.name)):
        try:
            found[file.parent.name] = read_entries(file.parent)
        except ConfigError as error:
            damaged[file.parent.name] = str(error)
    return found, damaged


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
    """The commit of the working folder's repository, with "+" if files were changed; None outside a repository."""

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

"""A run's record, `record.json`: settings, data, machine and results. Only this module reads or writes the file."""

import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segstudy.errors import ConfigError, DamagedFile, TrainingError, list_found
from segstudy.files import checksum, read_json, reading, validate, write_json
from segstudy.ranges import rule
from segstudy.ranks import RANK
from segstudy.runs.headline import Size

PACKAGES = ("segstudy", "torch", "lightning", "torchmetrics", "segmentation-models-pytorch", "timm", "hydra-core")


Share = Annotated[
    float | None, rule(lambda v: v is None or math.isnan(v) or -1e-6 < v < 1 + 1e-6, "must be from 0 to 1")
]
"""A metric from 0 to 1; NaN or null where it is not defined."""


class Part(BaseModel):
    """A part of a record: entries may be missing, and unknown ones are kept."""

    model_config = ConfigDict(extra="allow", strict=True)


class Normalisation(Part):
    """Mean and standard deviation of each channel, as the network expects them."""

    mean: list[float]
    std: list[float]


class Role(Part):
    """The images of a role, as `SegmentationData.describe` tells them."""

    split: str
    images: int = Field(ge=0)
    fingerprint: str = ""
    files: str = ""
    shapes: str = ""


class Data(Part):
    """The data set, as `SegmentationData.describe` tells it."""

    name: str = ""
    layout: str = ""
    protocol: str = ""
    fit: str = "squash"
    size: list[Annotated[int, Field(ge=1)]] = Field(default=[1, 1], min_length=2, max_length=2)
    channels: int = Field(default=3, ge=1)
    background: int | None = None
    roles: dict[str, Role | None] = {}


class ClassRow(Part):
    name: str = Field(alias="class")
    iou: Share = None
    recall: Share = None
    precision: Share = None
    share: Share = None


class Entries(Part):
    """The types of a record's entries. Each may be missing (its default is used); unknown entries are kept."""

    status: Literal["running", "done", "failed"] = "running"
    error: str | None = None  # null while running
    started: str = ""
    changes: list[str] = Field(default=["model"], min_length=1)
    seed: int = Field(default=0, ge=-(2**63), lt=2**64)
    threads: int = Field(default=1, ge=1, le=2**16)  # of PyTorch on the CPU
    checkpoint: str = "last"
    encoder_weights: str = ""
    device: str = ""
    measured_at: str = ""
    class_names: list[str] = Field(default=["class"], min_length=1, max_length=255)
    palette: list[list[Annotated[int, Field(ge=0, le=255)]]] | None = None
    data: Data = Data()
    normalisation: Normalisation | None = None  # null: the network takes the image as it is
    versions: dict[str, str | None] = {}
    machine: dict[str, str | int | None] = {}
    git: str | None = None
    not_measured: dict[str, str] = {}
    metrics: dict[Size, dict[str, Share]] = {}
    metrics_before: dict[Size, dict[str, Share]] = {}
    metrics_tta: dict[str, Share] = {}
    metrics_crf: dict[str, Share] = {}
    metrics_fit: dict[str, float | None] = {}
    receptive_field: dict[str, float | None] = {}
    classes: dict[Size, list[ClassRow]] = {}
    selected_on_reported: bool = False
    reproduce: str | None = None
    files: dict[str, str] = {}
    epochs: int | None = Field(default=None, ge=0)
    steps: int | None = Field(default=None, ge=0)
    images_tested: int | None = Field(default=None, ge=0)
    parameters: int | None = Field(default=None, ge=0)
    seconds: Annotated[float, Field(ge=0)] | None = None
    gflop: float | None = None
    images_per_second: float | None = None

    @model_validator(mode="after")
    def _lengths(self) -> "Entries":
        number = len(self.class_names)
        if self.palette is not None and [len(rgb) for rgb in self.palette] != [3] * number:
            raise ValueError("palette has not one colour for each class")
        if self.data.background is not None and not 0 <= self.data.background < number:
            raise ValueError(f"the background is class {self.data.background} of {number}")
        if ({"size", "roles"} & self.data.model_fields_set) and not self.data.roles.get("report"):
            raise ValueError("it names no reported images")
        return self


SEALED = ("config.yaml", "history.csv", "inspector/*.csv", "test/*.npz", "checkpoints/*.ckpt")
"""Files whose checksums are in the record (`files`) of a finished run: nothing changes them any more."""


class Record:
    """The record of a run folder. `note` changes entries and writes the file.

    damage: why the file that is there cannot be used; the record is then empty, and the run is tested again.
    """

    def __init__(self, folder: Path):
        self.folder, self.damage = folder, ""
        try:
            self.values = read_entries(folder)
        except DamagedFile as error:
            self.values, self.damage = {}, str(error)

    def note(self, **values: Any) -> None:
        """Add or replace entries, and write the file atomically (only in the first of several processes).

        Raises TrainingError if it cannot be written; the earlier file is unchanged.
        """
        self.values |= values
        if RANK > 0:
            return
        try:
            write_json(self.folder, "record.json", self.values, durable=True)
        except OSError as error:
            raise TrainingError(
                f"the run's record could not be written: {error}\n  the earlier one is unchanged: free some space "
                "and repeat the command"
            ) from error

    def seal(self, patterns: Sequence[str] = SEALED, **values: Any) -> None:
        """`note`, with the checksums of the files that a finished run leaves; of others, they are kept."""
        found = sorted(file for pattern in patterns for file in self.folder.glob(pattern) if file.is_file())
        kept = {n: c for n, c in self.values.get("files", {}).items() if not any(fnmatch(n, p) for p in patterns)}
        self.note(**values, files=kept | {str(file.relative_to(self.folder)): checksum(file) for file in found})

    @property
    def status(self) -> str | None:
        return self.values.get("status")


def sealed(folder: Path, name: str, record: Mapping[str, Any]) -> Path:
    """The file `folder/name`. Raises DamagedFile if it is not the one that the finished run left.

    Runs of older versions, and unfinished ones, have no checksums to compare with.
    """
    file, stated = folder / name, record.get("files", {}).get(name)
    again = f"segstudy evaluate {folder} --retest" if name.startswith("test/") else "remove the folder and train again"
    way_out = f"\n  → put a copy back, or {again}"
    if stated is None:
        return file
    try:
        if checksum(file) == stated:
            return file
    except FileNotFoundError as error:
        raise DamagedFile(f"{file} is missing{way_out}") from error
    own = f"\n  → if you changed it yourself: remove {name} from the files in record.json, and the line checksum"
    raise DamagedFile(
        f"{file} is damaged: it has changed since the run finished (checksum){way_out}{own * (file.suffix == '.yaml')}"
    )


def read_entries(folder: Path) -> dict[str, Any]:
    """The entries of a run's record, {} if there is none yet. Raises DamagedFile, with one line, if it is damaged."""
    file = folder / "record.json"
    try:
        with reading(file, "; the command that trained the run writes it again"):
            values = read_json(file)
            validate(Entries, values)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return with_nan(values)


def with_nan(values: dict[str, Any]) -> dict[str, Any]:
    """The entries with NaN in place of null in the metrics: JSON has no NaN."""

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: change(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [change(inner) for inner in value]
        return math.nan if value is None else value

    return {k: change(v) if k == "classes" or k.startswith("metrics") else v for k, v in values.items()}


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
        except DamagedFile as error:
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

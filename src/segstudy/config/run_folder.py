"""TODO"""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from segstudy import entry
from segstudy.config.paths import CONF
from segstudy.config.renamed import with_current_names
from segstudy.errors import ConfigError, SegstudyError
from segstudy.files import read_text, remove_partials, write_text
from segstudy.precision import RANK
from segstudy.runs.locking import run_lock
from segstudy.runs.record import Record

MACHINE_SETTINGS = re.compile(
    r"(runs_dir|study|report|data\.(name|root|cache_dir|workers|device_cache|download)"
    r"|trainer\.(accelerator|devices|num_nodes|logger)"
    r"|callbacks\.(throughput|finite_loss|pictures|inspector|history|state_dict|learning_rate|progress))(\.|$)"
)
"""Settings that say where and how comfortably a run is made, not what it is: they may change when it is continued."""

NAME_LETTERS = 180


def run_name(model: str, overrides: Sequence[str]) -> str:
    """A run's folder name: the model, then what the command changed: `v3_encoder=mobilenet_v2_seed=1`.

    Of a name longer than NAME_LETTERS, what is cut off is there as a hash: long sweeps need as many folders as runs.
    """
    parts = [model]
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if (
            key in ("model", "experiment")
            or MACHINE_SETTINGS.match(key)
            or (key == "trainer" and not trains_otherwise(value))
        ):
            continue
        value = value.rsplit("/", 1)[-1]  # of a path, the file
        # parts of these share the names of their settings: mixup.probability, ema.enabled
        length = 2 if key.startswith(("data.augment.then.", "callbacks.")) else 1
        short = ".".join(key.split(".")[-length:])
        parts.append(value if key == "data" else f"{short}={value}")
    name = re.sub(r"[^\w=.,+-]+", "-", "_".join(parts))
    if len(name) <= NAME_LETTERS and len(name.encode()) <= 255:  # bytes that a file's name may have
        return name
    start = name[:NAME_LETTERS].encode()[: NAME_LETTERS - 13].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def trains_otherwise(trainer: str, conf: Path = CONF) -> bool:
    """Whether `trainer=NAME` makes another run than `trainer=auto`: sets more than MACHINE's settings."""

    def settings(name: str) -> DictConfig:
        own = OmegaConf.load(conf / "trainer" / f"{name}.yaml")
        assert isinstance(own, DictConfig)
        inherited = [settings(str(each)) for each in own.pop("defaults", []) if each != "_self_"]
        return OmegaConf.merge(*inherited, own)  # type: ignore[return-value]

    try:
        named = settings(trainer.strip("'\""))
    except FileNotFoundError:  # a file of the user's own, elsewhere
        return True
    return bool(differences(OmegaConf.create({"trainer": settings("auto")}), OmegaConf.create({"trainer": named})))


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """The settings in which two configs describe different runs, as `key: old → new`."""

    def flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(cfg, dict):
            return {prefix[:-1]: cfg}
        return {k: v for key, value in cfg.items() for k, v in flat(value, f"{prefix}{key}.").items()}

    a, b = (flat(OmegaConf.to_container(c, resolve=False)) for c in (old, new))
    a.setdefault("optim.decay_norms", True)  # as it was before there was a choice
    names = {".".join(k.split(".")[:2]) for k in {*a, *b} if k.startswith("callbacks.")}
    idle = [f"{name}." for name in names if a.get(f"{name}.enabled") is b.get(f"{name}.enabled") is False]
    if not any(c.get("optim.optimizer.weight_decay") for c in (a, b)):
        idle.append("optim.decay_norms")  # there is no decay to decide on
    keys = [k for k in sorted({*a, *b}) if not MACHINE_SETTINGS.match(k) and a.get(k) != b.get(k)]
    keys = [k for k in keys if not k.startswith(tuple(idle))]
    return [f"{k}: {a.get(k)} → {b.get(k)}" for k in keys]


@contextmanager
def claimed_folder(folder: Path, cfg: DictConfig) -> Iterator[Record]:
    """The record of the folder for this config, with the folder held for this process; an error is noted in it.

    Of a run that is done, only the record: nothing is locked or written. Raises ConfigError as
    `claim_folder` and `run_lock`.
    """
    record = belongs(folder, cfg)
    if record.status == "done":
        yield record
        return
    with run_lock(folder):  # what was read before may be out of date
        record = claim_folder(folder, cfg)
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
            other = differences(OmegaConf.create(with_current_names(read_text(home))), cfg)  # type: ignore[arg-type]
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


def claim_folder(folder: Path, cfg: DictConfig) -> Record:
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

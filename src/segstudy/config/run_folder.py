"""Read the config of a run folder, and lock the folder for the process that trains in it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segstudy import interruption
from segstudy.config.check import check
from segstudy.config.compose import register_resolvers
from segstudy.config.run_names import differences
from segstudy.config.targets import update_targets
from segstudy.config.trust import cache_dir, foreign_resolvers
from segstudy.console import print_error, print_line
from segstudy.errors import ConfigError, DamagedFile, SegstudyError, first_line, first_lines
from segstudy.files import checksum_of, read_yaml, reading, remove_partials, write_text
from segstudy.ranks import RANK
from segstudy.runs.locking import run_lock
from segstudy.runs.record import Record, read_entries, sealed

RESTORE = "\n  → put a copy back, or remove the folder and train again"


def read_config(folder: Path, groups: Sequence[str] = ("network",)) -> DictConfig:
    """The config of a run folder, which may come from a stranger. Interpolations are resolved first, so that only
    checked parts are built (`${oc.create:…}` could make an unchecked one).

    groups: the groups that the caller builds; the others are not checked, so call `check` before building those.
    Raises ConfigError if there is no config, or it names targets that segstudy does not build.
    """
    register_resolvers()
    try:
        raw = stored_config(folder, read_entries(folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{folder} is not a run's folder: no file {folder / 'config.yaml'}") from error
    file = folder / "config.yaml"
    with reading(file, RESTORE):
        raw.pop("logger", None)  # a finished run needs no logger, and its logger may not be installed here
        if isinstance(raw.get("data"), DictConfig) and "cache_dir" in raw.data:
            raw.data.cache_dir = cache_dir()  # older versions wrote down how it is found
        if foreign := [*foreign_resolvers(OmegaConf.to_container(raw))]:
            raise ConfigError(
                f"{file} is not read: a run's folder may come from a stranger, and this one asks for more than "
                f"values\n{first_lines(foreign, 5, '  ')}\n  → if it is yours, write the values in their place"
            )
        cfg = DictConfig(OmegaConf.to_container(raw, resolve=True))
        if OmegaConf.to_container(cfg, resolve=False) != OmegaConf.to_container(cfg, resolve=True):
            raise ValueError("a resolved value holds another interpolation")
    update_targets(cfg)
    if "logger" in cfg.trainer:  # runs of older versions have it there
        del cfg.trainer["logger"]
    check(cfg, False, groups)
    return cfg


def stored_config(folder: Path, record: Mapping[str, Any]) -> DictConfig:
    """The config of a run folder as it was written, neither resolved nor checked (`read_config`).

    Raises DamagedFile if it has changed since or is no run's config, FileNotFoundError if there is none.
    """
    file = sealed(folder, "config.yaml", record)
    with reading(file, RESTORE):
        text = read_yaml(file)
        cfg = OmegaConf.create(text) if text.strip() else None
        if not isinstance(cfg, DictConfig) or not {"seed", "data", "network", "trainer"} <= cfg.keys():
            raise ValueError("seed, data, network or trainer is missing: it is not a run's config")
        return cfg


@contextmanager
def claimed_folder(folder: Path, cfg: DictConfig) -> Iterator[Record]:
    """Lock the folder for this config and yield its record. An error in the block is written to the record.

    For a finished run, only the record is read: nothing is locked or written.
    Raises ConfigError as `claim_folder` and `run_lock`.
    """
    record = matching_record(folder, cfg)
    if record.status == "done":
        yield record
        return
    with run_lock(folder):  # the record may have changed meanwhile: it is read again
        record = claim_folder(folder, cfg)
        if record.damage:
            print_line(f"{record.damage}\n  → the run goes on from its last checkpoint, and is tested again", "yellow")
        try:
            yield record
        except Exception as error:
            if record.status == "done" or interruption.received:  # what comes after its end; what an interruption broke
                raise
            try:
                record.note(status="failed", error=f"{type(error).__name__}: {error}".splitlines()[0])
            except SegstudyError as unwritten:  # most often a full disk; the first error is the one to raise
                print_error(SegstudyError(f"{folder}: the failure could not be written to its record. {unwritten}"))
            raise


def matching_record(folder: Path, cfg: DictConfig) -> Record:
    """The record of a folder that is new or holds a run of this config. Only reads.

    The folder of a run that failed before its first checkpoint may be used with another config.
    Raises ConfigError, with the differences, if the folder holds a run of another config.
    """
    record = Record(folder)
    if RANK > 0 or _failed_early(record):
        return record
    try:
        earlier = stored_config(folder, record.values)
        update_targets(earlier)
        other = differences(earlier, cfg)
    except (FileNotFoundError, NotADirectoryError):
        return record
    except DamagedFile as error:
        text = OmegaConf.to_yaml(cfg)
        if record.values.get("files", {}).get("config.yaml") != checksum_of(text.encode()):
            raise
        write_text(folder, "config.yaml", text)
        print_line(f"{first_line(error)}\n  → it was that of this command, and is written again", "yellow")
        return record
    if other:
        raise ConfigError(
            f"{folder} holds a run of another config:\n  " + "\n  ".join(other[:12]) + "\n"
            "  → set another study=NAME, use the old settings, or remove the folder; to keep both runs in this "
            f"study: hydra.run.dir={folder}-2"
        )
    return record


def claim_folder(folder: Path, cfg: DictConfig) -> Record:
    """The record of the folder; writes the config into a new folder. The caller holds the lock.

    Raises ConfigError as `matching_record`, and if the folder cannot be written.
    """
    record = matching_record(folder, cfg)
    if RANK > 0:
        return record
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)  # a run that is killed repeatedly would fill the disk with them
        if _failed_early(record) or not (folder / "config.yaml").is_file():
            write_text(folder, "config.yaml", OmegaConf.to_yaml(cfg))
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be written: {error}; set runs_dir=FOLDER") from error
    return record


def _failed_early(record: Record) -> bool:
    """Whether a run failed before its first checkpoint."""
    return record.status == "failed" and not list(record.folder.glob("checkpoints/*.ckpt"))

"""Read the config of a run folder, and lock the folder for the process that trains in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segstudy import interruption
from segstudy.config.check import check
from segstudy.config.compose import register_resolvers
from segstudy.config.run_names import differences
from segstudy.config.targets import update_targets
from segstudy.config.trust import cache_dir, foreign_resolvers
from segstudy.console import print_error
from segstudy.errors import ConfigError, SegstudyError, first_line, first_lines
from segstudy.files import read_text, remove_partials, write_text
from segstudy.ranks import RANK
from segstudy.runs.locking import run_lock
from segstudy.runs.record import Record


def read_config(folder: Path, groups: Sequence[str] = ("network",)) -> DictConfig:
    """The config of a run folder, which may come from a stranger. Interpolations are resolved first, so that only
    checked parts are built (`${oc.create:…}` could make an unchecked one).

    groups: the groups that the caller builds; the others are not checked, so call `check` before building those.
    Raises ConfigError if there is no config, or it names targets that segstudy does not build.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder} is not a run's folder: no file {file}")
    register_resolvers()
    try:
        text = read_text(file)
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{file} is not a run's config: it has YAML aliases, which can expand without limit")
        raw = OmegaConf.create(text)
        if isinstance(raw, DictConfig):  # a finished run needs no logger, and its logger may not be installed here
            raw.pop("logger", None)
            if isinstance(raw.get("data"), DictConfig) and "cache_dir" in raw.data:
                raw.data.cache_dir = cache_dir()  # older versions wrote down how it is found
            if foreign := [*foreign_resolvers(OmegaConf.to_container(raw))]:
                raise ConfigError(
                    f"{file} is not read: a run's folder may come from a stranger, and this one asks for more than "
                    f"values\n{first_lines(foreign, 5, '  ')}\n  → if it is yours, write the values in their place"
                )
        cfg = OmegaConf.create(OmegaConf.to_container(raw, resolve=True))
        left = OmegaConf.to_container(cfg, resolve=False) != OmegaConf.to_container(cfg, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as a config: {first_line(error)}") from error
    if left:
        raise ConfigError(f"{file} is not a run's config: a resolved value holds another interpolation")
    if not isinstance(cfg, DictConfig) or not {"seed", "data", "network", "trainer"} <= cfg.keys():
        raise ConfigError(f"{file} is not a run's config: seed, data, network or trainer is missing")
    update_targets(cfg)
    if "logger" in cfg.trainer:  # runs of older versions have it there
        del cfg.trainer["logger"]
    check(cfg, False, groups)
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
    home = folder / "config.yaml"
    try:
        record = Record(folder)
        if RANK == 0 and home.is_file() and not _failed_early(record):
            earlier = OmegaConf.create(read_text(home))
            update_targets(earlier)
            other = differences(earlier, cfg)  # type: ignore[arg-type]
            if other:
                raise ConfigError(
                    f"{folder} holds a run of another config:\n  " + "\n  ".join(other[:12]) + "\n"
                    "  → set another study=NAME, use the old settings, or remove the folder; to keep both runs in this "
                    f"study: hydra.run.dir={folder}-2"
                )
        return record
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{home} is damaged: {error}\n  → another study=NAME, or remove the folder") from error
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be read: {error}; set runs_dir=FOLDER") from error


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

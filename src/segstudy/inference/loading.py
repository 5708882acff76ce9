"""Load finished runs: their tested networks, and the images to evaluate them on."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from segstudy.build import ONE_DEVICE, build_data, build_network
from segstudy.config.check import check
from segstudy.config.compose import compose_config
from segstudy.config.paths import CONF
from segstudy.config.run_folder import read_config
from segstudy.config.run_names import MACHINE_SETTINGS
from segstudy.config.trust import restrict_paths
from segstudy.data.bands import Bands
from segstudy.data.datamodule import SegmentationData
from segstudy.data.fit import Fit
from segstudy.errors import ConfigError, did_you_mean, first_lines
from segstudy.networks.normalize import normalize_before, normalize_of
from segstudy.runs.checkpoints import load_state, set_normalization, weights_file
from segstudy.runs.record import read_record, sealed
from segstudy.runs.tables import variants


def load_run(folder: Path, checkpoint: str | None = None) -> tuple[nn.Module, DictConfig]:
    """The network of a run folder in evaluation mode, and its config. Downloads nothing and executes no other code.

    checkpoint: last or best; None for the tested one. Raises ConfigError if it is no run folder, or its network is not
    from segstudy or its libraries. Only the config's network has been checked (see `read_config`).
    """
    cfg = read_config(folder)
    record = read_record(folder)
    file = weights_file(folder, checkpoint or record.get("checkpoint", "last"))
    if file.parent != folder:
        sealed(folder, f"checkpoints/{file.name}", record)
    if not file.is_file():
        raise ConfigError(f"{folder} has no checkpoint {file.stem!r}: no file {file}")
    network, _ = build_network(cfg, len(record["class_names"]), False, record["data"].get("channels", 3))
    load_state(network, file)
    if not set_normalization(network, record):  # a user's own network; older versions normalised in the data
        normalize_before(network, **record["normalisation"])
    if (normalize := normalize_of(network)) is not None:
        normalize.hold_as_buffers()
    return network.eval(), cfg


@dataclass(frozen=True)
class LoadedRun:
    """A trained network, its record and its config. name: short, different for each run."""

    name: str
    folder: Path
    network: nn.Module
    record: Mapping[str, Any]
    cfg: DictConfig


@dataclass(frozen=True)
class EvaluationSpec:
    """The images to evaluate on; the defaults are the first run's.

    settings: of the machine and the data (data.root=…, data.val=…). data: another file of conf/data. split: a role
    (fit, select, report) or a list. size of the network's input: see `Fit.at`. tiled: with --tiles.
    """

    settings: Sequence[str] = ()
    data: str | None = None
    split: str | None = None
    size: str = "train"
    tiled: bool = False


def load_runs(folders: Sequence[Path]) -> list[LoadedRun]:
    """The tested networks of run folders. Raises ConfigError if one is no run, or if their classes differ."""
    members = load_each_run(folders)
    for other in members[1:]:
        same_classes(members[0].record["class_names"], str(members[0].folder), other.record["class_names"], other.name)
    return members


def load_each_run(folders: Sequence[Path]) -> list[LoadedRun]:
    """The tested networks of run folders; their classes may differ. Raises ConfigError if one is no run."""
    if len({f.resolve() for f in folders}) < len(folders):
        raise ConfigError("the same run is given twice")
    held = {str(folder): read_record(folder) for folder in folders}
    members = []
    for folder, (name, record) in zip(folders, variants(held).items(), strict=True):
        network, cfg = load_run(folder, record.get("checkpoint", "last"))
        members.append(LoadedRun(name, folder, network, record, cfg))
    return members


def same_classes(ours: Sequence[str], run: str, theirs: Sequence[str], other: str) -> None:
    """Raise ConfigError, with the differences, if two lists of classes differ."""
    pairs = enumerate(zip_longest(ours, theirs, fillvalue="–"))
    if wrong := [f"{c}: {a!r}, not {b!r}" for c, (a, b) in pairs if a != b]:
        raise ConfigError(
            f"{run} was trained on other classes ({len(ours)}) than those of {other} ({len(theirs)}):\n"
            + first_lines(wrong, 8, "  ")
        )


def other_settings(settings: Sequence[str]) -> list[str]:
    """The settings that are not of the machine (MACHINE_SETTINGS)."""
    return [s for s in settings if not MACHINE_SETTINGS.match(s.partition("=")[0])]


def evaluation_config(members: Sequence[LoadedRun], wanted: EvaluationSpec) -> DictConfig:
    """The first run's config with the wanted data, for one device.

    Raises ConfigError for settings of other groups, and if the members saw images differently and no size is given.
    """
    if other := [s for s in other_settings(wanted.settings) if not s.startswith("data.")]:
        raise ConfigError(f"{' '.join(other)}: after the runs, only data.… and machine settings can be set")
    if sized := [s for s in wanted.settings if s.startswith(("data.size=", "data.fit="))]:
        raise ConfigError(f"{sized[0]}: use --size (original, N or HEIGHTxWIDTH) instead")
    cfg = copy.deepcopy(members[0].cfg)
    if wanted.data:
        cfg.data = _other_data(cfg, wanted.data)
    restrict_paths(cfg.data)
    cfg.merge_with_dotlist(list(wanted.settings))
    bands = {m.name: str(Bands.of(m.cfg.data)) for m in members}
    if len(set(bands.values())) > 1:
        found = "\n  ".join(f"{name}: {each}" for name, each in bands.items())
        raise ConfigError(f"the runs see other channels of an image\n  {found}\n  → evaluate them one by one")
    seen = {m.name: Fit.of(m.cfg.data).at(wanted.size, wanted.tiled).seen for m in members}
    if len(set(seen.values())) > 1:
        found = "\n  ".join(f"{name}: {size}" for name, size in seen.items())
        raise ConfigError(
            f"the runs' networks see images at different sizes\n  {found}\n"
            "  → one size for all: --size original; or test each run alone"
        )
    # all images, even for a smoke run
    cfg.trainer.update({**ONE_DEVICE, "limit_test_batches": 1.0, "fast_dev_run": False})
    check(cfg, False, ("data", "trainer"))
    return cfg


def _other_data(cfg: DictConfig, name: str) -> DictConfig:
    """The config conf/data/NAME.yaml with the run's fit, batch size, workers and caches."""
    known = sorted(p.stem for p in (CONF / "data").glob("*.yaml"))
    if name not in known:
        if Path(name).is_dir():
            raise ConfigError(f"--data {name}: a folder, not a kind of data\n  → --data folder data.root={name}")
        raise ConfigError(f"--data {name}: no such data{did_you_mean(name, known)} ({', '.join(known)})")
    other = compose_config([f"data={name}"]).data
    OmegaConf.set_struct(other, False)
    kept = ("size", "fit", "max_side", "keep_side", "tiles", "batch_size", "workers", "cache", "device_cache",
            "channels", "value_range")  # fmt: skip
    other.update({k: cfg.data[k] for k in kept if k in cfg.data})  # configs of older runs lack some
    return other


def evaluation_data(cfg: DictConfig, members: Sequence[LoadedRun], wanted: EvaluationSpec) -> SegmentationData:
    """The data to evaluate on, in its role `report`.

    Raises ConfigError if its classes differ from the members', or it has no such split.
    """
    data = build_data(cfg)
    try:
        same_classes(members[0].record["class_names"], str(members[0].folder), data.classes, f"data {data.name}")
    except ConfigError as error:
        if getattr(data, "about", "") is None and len(data.classes) == len(members[0].record["class_names"]):
            hint = "if they are the same classes: data.about=the training images' dataset.yaml"
            raise ConfigError(f"{error}\n  → {hint}") from error
        raise
    channels = members[0].record["data"].get("channels", 3)
    if data.channels != channels:
        raise ConfigError(
            f"{members[0].name} sees {channels} channels of an image, data.channels gives {data.channels}"
        )
    if wanted.split is not None:
        try:
            data.roles["report"] = data.roles.get(wanted.split) or data.split(wanted.split)
        except (KeyError, FileNotFoundError) as error:
            roles = ", ".join(f"{role} ({images.name})" for role, images in data.roles.items())
            message = f"--split {wanted.split}: {type(data).__name__} has no such split\n  → a role: {roles}"
            raise ConfigError(message) from error
    data.report_at(data.fit.at(wanted.size, wanted.tiled))
    return data

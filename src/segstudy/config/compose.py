"""Compose the config of a command, or of an experiment as it was published."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from segstudy.config.paths import CONF
from segstudy.config.run_names import run_folder_name
from segstudy.config.targets import locate, parameters
from segstudy.errors import ConfigError, did_you_mean


def register_resolvers() -> None:
    """Register `${run_name:…}` and `${stem:…}`; `${stem:segstudy.data.datasets.voc.VOC}` gives voc."""
    OmegaConf.register_new_resolver("stem", lambda target: target.rpartition(".")[2].lower(), replace=True)
    OmegaConf.register_new_resolver("run_name", run_folder_name, replace=True)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The config with these overrides. Raises ConfigError with Hydra's message."""
    register_resolvers()
    before = GlobalHydra.instance().hydra  # the Hydra of the calling application, if any
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", list(overrides))
    except HydraException as error:
        raise ConfigError(str(error)) from error
    finally:
        GlobalHydra.instance().hydra = before


def resolve_environment(cfg: DictConfig) -> None:
    """Replace values that read environment variables (`${oc.env:NAME}`), in place: a run's folder holds the values,
    since whoever reads it later reads no variables (see `read_config`)."""
    for key in [*nested_keys(cfg)]:
        place, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, place)
        if not (isinstance(node, DictConfig) and OmegaConf.is_interpolation(node, last)):
            continue
        if "${oc.env:" in str(OmegaConf.to_container(node, resolve=False)[last]):  # type: ignore[index, call-overload]
            value = node[last]
            node[last] = value.replace("${", "\\${") if isinstance(value, str) else value


def nested_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a config with its full path: `data`, `data.size`, …"""
    if isinstance(node, DictConfig):
        for key in (key for key in node if isinstance(key, str)):  # not the numbers of data.labels
            yield f"{prefix}{key}"
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from nested_keys(node[key], f"{prefix}{key}.")


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Apply `reproduce`, and drop keys that an overridden `_target_` does not accept.

    So `loss._target_=my_loss.MyLoss` is enough for any model. Raises ConfigError if the experiment has no
    `as_published`, or the command contradicts it.
    """
    _reproduce(cfg, overrides)
    given = [o.lstrip("+").partition("=")[0] for o in overrides]
    for key in given:
        place, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, place) if last == "_target_" else None
        if not isinstance(node, DictConfig):
            continue
        with contextlib.suppress(ConfigError):  # a target that cannot be imported is reported by check
            known, more = parameters(locate(str(node["_target_"])))
            OmegaConf.set_struct(cfg, False)
            for name in [str(k) for k in node if not str(k).startswith("_") and not more]:
                if name not in known and f"{place}.{name}" not in given:
                    del node[name]
            OmegaConf.set_struct(cfg, True)


def _reproduce(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Apply the experiment's `as_published` section if `reproduce` asks for it, then remove the section."""
    published = cfg.get("as_published")
    wanted = cfg.get("reproduce")
    if wanted not in (None, "as_published"):
        raise ConfigError(
            f"reproduce={wanted}: must be null or as_published{did_you_mean(str(wanted), ['as_published'])}"
        )
    if wanted and published is None:
        raise ConfigError(
            "reproduce=as_published: no experiment is chosen, or it follows no published study\n"
            f"  → experiment= one of {', '.join(_published())}"
        )
    if wanted:
        meant = {
            k: v for k in nested_keys(published) if not isinstance(v := OmegaConf.select(published, k), DictConfig)
        }
        if foreign := sorted(meant.keys() - set(nested_keys(cfg))):
            raise ConfigError(
                f"reproduce=as_published sets {', '.join(foreign)}, which this config does not have\n"
                "  → use the experiment's data set and schedule, or leave out reproduce"
            )
        cfg.merge_with(published)
        for override in OverridesParser.create().parse_overrides([o for o in overrides if "=" in o]):
            key = override.key_or_group
            if key in meant and override.value() != meant[key]:
                raise ConfigError(
                    f"{key}={override.value()}: reproduce=as_published sets {key}={meant[key]}, as its author did\n"
                    "  → leave out one of the two"
                )
    if "as_published" in cfg:
        OmegaConf.set_struct(cfg, False)
        del cfg["as_published"]  # a run's folder keeps only the settings that were used
        OmegaConf.set_struct(cfg, True)


def _published() -> list[str]:
    """The experiments with an `as_published` section."""
    files = sorted((CONF / "experiment").glob("*.yaml"))
    return [file.stem for file in files if OmegaConf.select(OmegaConf.load(file), "as_published") is not None]

"""Checking a composed config before anything is opened: all its mistakes in one message."""

from collections.abc import Callable, Sequence

from omegaconf import DictConfig, OmegaConf

from segstudy.config.compose import nested_keys
from segstudy.config.targets import find_parts, locate, unknown_settings
from segstudy.config.trust import ALLOWED, is_allowed, is_trusted
from segstudy.config.values import mistaken_kinds, mistaken_nulls, mistaken_values, unused_settings
from segstudy.errors import ConfigError

Check = Callable[[DictConfig], list[str]]
"""A config's mistakes of one kind, a line each."""


def check(
    cfg: DictConfig, trusted: bool = True, groups: Sequence[str] | None = None, further_checks: Sequence[Check] = ()
) -> None:
    """Raise ConfigError with all mistakes: targets that cannot be imported, settings they do not take, wrong values.

    trusted=False (a config that came with a run folder, from `read_config`) refuses targets outside ALLOWED and
    SEGSTUDY_TRUST, before anything is imported, and what is no part of its group. groups: only these are looked at, and
    only these may then be built; None for all. further_checks: those of what lies above, such as the report's plan.
    """
    if groups is not None:
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key in groups])
    mistakes: list[str] = []
    refused: set[str] = set()  # named once: of a config without interpolations, `network` repeats its sockets
    for place, node in find_parts(cfg):
        if str(node["_target_"]) not in refused:
            mistakes += _mistakes_of_part(place, node, trusted, refused)
    if trusted:  # of a run's folder, only what builds the network matters
        mistakes += mistaken_values(cfg)
        mistakes += [mistake for further in further_checks for mistake in further(cfg)]
        mistakes += unused_settings(cfg)
    mistakes += [f"{key} is not set: add {key}=…" for key in nested_keys(cfg) if _is_missing(cfg, key)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _mistakes_of_part(place: str, node: DictConfig, trusted: bool, refused: set[str]) -> list[str]:
    """What is wrong with one part. A target that may not be built is added to `refused`."""
    target = str(node["_target_"])
    if not trusted and not is_trusted(target):
        refused.add(target)
        return [
            f"{place}._target_={target} is not of segstudy or its libraries; if it is yours, say so here: "
            f"SEGSTUDY_TRUST={target.split('.')[0]}"
        ]
    try:
        thing = locate(target)
    except ConfigError as error:
        return [f"{place}._target_: {error}"]
    if not trusted and target.startswith(ALLOWED) and not is_allowed(place, thing):
        refused.add(target)
        return [f"{place}._target_={target} is no part of a {place.split('.')[0]}: it is not built"]
    mistakes = unknown_settings(place, node, thing)
    if trusted:
        mistakes += [*mistaken_kinds(place, node, thing), *mistaken_nulls(place, node, thing)]
    return mistakes


def _is_missing(cfg: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.is_missing(node, last)

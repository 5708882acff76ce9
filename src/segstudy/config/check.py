"""Check a composed config before any data is opened, and report all its mistakes in one message."""

from collections.abc import Callable, Sequence

from omegaconf import DictConfig, OmegaConf

from segstudy.config.compose import nested_keys
from segstudy.config.targets import find_parts, locate, unknown_settings
from segstudy.config.trust import ALLOWED, is_allowed, is_trusted
from segstudy.config.values import mistaken_arguments, mistaken_values, unused_settings
from segstudy.errors import ConfigError

Check = Callable[[DictConfig, Sequence[str]], list[str]]
"""Returns the config's mistakes of one kind, a line each; gets those that have been found before."""


def check(
    cfg: DictConfig, trusted: bool = True, groups: Sequence[str] | None = None, further_checks: Sequence[Check] = ()
) -> None:
    """Raise ConfigError with all mistakes: targets that cannot be imported, unknown settings, wrong values.

    trusted=False, for a config from a run folder (`read_config`): refuses targets outside ALLOWED and SEGSTUDY_TRUST
    before anything is imported, and targets of the wrong kind for their group. groups: only these are checked, and only
    these may be built afterwards; None for all. further_checks: checks by higher layers, such as the report's plan.
    """
    if groups is not None:
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key in groups])
    mistakes: list[str] = []
    refused: set[str] = set()  # each is reported once: without interpolations, `network` repeats its parts
    for place, node in find_parts(cfg):
        if str(node["_target_"]) not in refused:
            mistakes += _mistakes_of_part(place, node, trusted, refused)
    if trusted:  # in a config from a run folder, only what is built matters
        mistakes += mistaken_values(cfg) + unused_settings(cfg)
    for key in nested_keys(cfg):
        place, _, name = key.rpartition(".")
        if OmegaConf.is_missing(OmegaConf.select(cfg, place), name):
            mistakes.append(f"{key} is not set: add {key}=…")
    for further in further_checks:
        mistakes += further(cfg, mistakes)
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _mistakes_of_part(place: str, node: DictConfig, trusted: bool, refused: set[str]) -> list[str]:
    """The mistakes in one part. A target that may not be built is added to `refused`."""
    target = str(node["_target_"])
    if not trusted and not is_trusted(target):
        refused.add(target)
        return [
            f"{place}._target_={target} is not part of segstudy or its libraries; if you trust it, set "
            f"SEGSTUDY_TRUST={target.split('.')[0]}"
        ]
    try:
        thing = locate(target)
    except ConfigError as error:
        return [f"{place}._target_: {error}"]
    if not trusted and target.startswith(ALLOWED) and not is_allowed(place, thing):
        refused.add(target)
        return [f"{place}._target_={target} cannot be built: wrong kind for the group {place.split('.')[0]}"]
    mistakes = unknown_settings(place, node, thing)
    if trusted:
        mistakes += mistaken_arguments(place, node, thing)
    return mistakes

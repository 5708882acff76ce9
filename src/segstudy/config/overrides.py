"""Check the command line: unknown settings, and every value of a sweep."""

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from segstudy.config.check import Check, check
from segstudy.config.compose import apply_overrides, compose_config, nested_keys
from segstudy.config.paths import CONF
from segstudy.config.targets import CALLBACK_SWITCH, find_parts, locate, parameters
from segstudy.errors import ConfigError, did_you_mean, first_line

OPTIONAL_GROUPS = ("experiment", "logger", "hparams_search", "debug")
"""Optional groups of conf/."""


GRAMMAR = re.compile(r"[=,:#'\"\\\s()\[\]{}$]")
"""What Hydra's grammar may read otherwise than as a part of a text."""


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments, with Hydra's quotes around values that are existing paths and that its grammar would misread.

    So `start_from=runs/study/v1_lr=0.1` works. Of a sweep, each path is quoted, if all of them exist.
    """
    return [_quote_paths_of(each) if "=" in each and not each.startswith("-") else each for each in arguments]


def _quote_paths_of(text: str) -> str:
    key, _, value = text.partition("=")
    paths = [value] if _exists(value) else value.split(",")
    if not GRAMMAR.search(value) or not all(map(_exists, paths)):
        return text
    return f"{key}={','.join(quote(path) if GRAMMAR.search(path) else path for path in paths)}"


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def quote(value: str) -> str:
    """A text in Hydra's quotes: backslashes in front of a quote, and `${`, are escaped."""
    value = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return "'" + value.replace("${", "\\${") + "'"


def _parsed(texts: Sequence[str]) -> list[Override]:
    """Raises ConfigError that names each argument outside Hydra's grammar, with the quotes that it needs."""
    parser, overrides, mistakes = OverridesParser.create(), [], []
    for text in texts:
        try:
            overrides.append(parser.parse_override(text))
        except HydraException as error:
            key, _, value = text.partition("=")
            advice = (
                f"\n  → if the value is one text, quote it: {shlex.quote(f'{key}={quote(value)}')}" if value else ""
            )
            mistakes.append(f"{text}: {first_line(error)}{advice}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return overrides


def check_overrides(arguments: Sequence[str], further_checks: Sequence[Check] = ()) -> list[str]:
    """Check the arguments; returns them quoted by `quote_paths`, and with `++` before each setting that a constructor
    accepts but no file lists.

    Raises ConfigError with every mistake: unknown settings, unknown files of groups, and what `check` (with the same
    `further_checks`) finds in the composed config. For a sweep, that is the first run's config, and the same with each
    further value of a setting.
    """
    arguments = [_without_glob(each) for each in quote_paths(arguments)]
    texts = [a for a in arguments if ("=" in a or a.startswith("~")) and not a.startswith("-")]
    overrides = _parsed(texts)
    search = any(override.key_or_group in ("hparams_search", "hydra/sweeper") for override in overrides)
    groups, mistakes = _chosen_files(overrides)
    cfg = compose_config(groups)
    known = sorted(nested_keys(cfg))
    targets = _targets(cfg, overrides)
    settings: list[list[str]] = []  # for each setting, one override a value; a sweep has several
    added = {}
    for text, override in zip(texts, overrides, strict=True):
        key = override.key_or_group
        if override.is_delete() and "." not in key and key not in OPTIONAL_GROUPS:
            mistakes.append(f"{text}: {key!r} cannot be removed; choose another value")
        if (CONF / key).is_dir() or key.startswith("hydra"):
            continue
        if override.is_delete():
            settings += [[text]] * ("." in key)
            continue
        if key not in known and _is_accepted(key, targets, known):
            added[text] = text = f"++{text.lstrip('+')}"
        elif key not in known and not _may_add(cfg, key, override):
            folders = [p.name for p in CONF.iterdir() if p.is_dir()]
            existing = sorted({*known, *_sibling_settings(key, targets), *folders})
            mistakes.append(f"{text}: no setting {key!r}{did_you_mean(key, existing)}")
            continue
        elif isinstance(override.value(), dict) and isinstance(OmegaConf.select(cfg, key), ListConfig):
            mistakes.append(f"{text}: must be a list, such as [1,2], or null; keys and values cannot replace a list")
            continue
        settings.append(_single_values(text, override, search))
    mistakes += _mistakes_of_values(groups, settings, further_checks)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return [added.get(a, a) for a in arguments]


def checked_config(overrides: Sequence[str], further_checks: Sequence[Check] = ()) -> DictConfig:
    """The config for settings such as model=v3. Raises ConfigError with every mistake, as `check_overrides`."""
    overrides = quote_paths(overrides)
    cfg = compose_config(check_overrides(overrides, further_checks))
    apply_overrides(cfg, overrides)
    check(cfg, further_checks=further_checks)  # without what was removed, such as ~callbacks.pictures
    return cfg


def _chosen_files(overrides: Sequence[Override]) -> tuple[list[str], list[str]]:
    """The chosen files of groups (the first of a sweep), and the mistakes among them."""
    groups, mistakes = [], []
    for override in overrides:
        group = override.key_or_group
        if (CONF / group).is_dir() and not override.is_delete():
            files = (CONF / group).rglob("*.yaml")
            options = sorted(p.relative_to(CONF / group).with_suffix("").as_posix() for p in files)
            values = [value if isinstance(value, list) else [value] for value in _values(override)]
            names = ["null" if name is None else str(name) for value in values for name in value]
            wrong = [name for name in names if name not in options]
            mistakes += [
                f"{group}={name}: no such {group}{_similar_option(name, options)} ({', '.join(options)})"
                for name in wrong
            ]
            if group == "callbacks" and not wrong:
                wrong = [name for value in values for name in _lone_callbacks(value)]
                mistakes += [
                    f"callbacks={name} would switch off all other callbacks\n"
                    f"  → callbacks.{name}.enabled=true; your own file begins with `defaults: [default]`"
                    for name in wrong
                ]
            if not wrong:
                first = ",".join(map(str, values[0]))  # the first value of a sweep
                groups.append(f"{group}=[{first}]" if len(values[0]) > 1 else f"{group}={first}")
    return groups, mistakes


def _lone_callbacks(names: Sequence[str]) -> Sequence[str]:
    """These files of callbacks, if none of them has a `defaults` list: each then holds one callback, not the group."""
    return [] if any("defaults" in OmegaConf.load(CONF / "callbacks" / f"{name}.yaml") for name in names) else names


def _similar_option(name: str, options: Sequence[str]) -> str:
    """A suggestion: the options of the same name in another folder, else the most similar ones."""
    elsewhere = [option for option in options if option.rpartition("/")[2] == name.rpartition("/")[2]]
    return did_you_mean(elsewhere[0], elsewhere) if elsewhere else did_you_mean(name, options)


def _mistakes_of_values(
    groups: Sequence[str], settings: Sequence[Sequence[str]], further_checks: Sequence[Check]
) -> list[str]:
    """Mistakes in the config of all first values, and in those where one setting has another of its values."""
    first = [values[0] for values in settings]
    try:
        composed = compose_config([*groups, *first])
    except ConfigError as error:
        return str(error).splitlines()
    others = [(i, text) for i, values in enumerate(settings) for text in values[1:]]
    variants = [(composed.copy(), first)]
    for i, text in others:
        given = [*first[:i], text, *first[i + 1 :]]
        # A dictionary would be merged with the first value's.
        variants.append((compose_config([*groups, *given]) if "{" in text else _changed(composed, text), given))
    mistakes: list[str] = []
    for cfg, given in variants:
        try:
            apply_overrides(cfg, given)
            check(cfg, further_checks=further_checks)
        except ConfigError as error:
            mistakes += [line for line in str(error).splitlines() if line not in mistakes]
    return mistakes


def _changed(cfg: DictConfig, text: str) -> DictConfig:
    """A copy with another value of one setting. Faster than composing again, which takes a third of a second."""
    override = OverridesParser.create().parse_override(text)
    cfg = cfg.copy()
    OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=True)
    return cfg


def _single_values(text: str, override: Override, search: bool) -> list[str]:
    """The override, split into one for each value of a sweep; of a search's interval, its ends."""
    if not override.is_sweep_override():
        return [text]
    key, interval = text.partition("=")[0], override.value()
    if search and isinstance(interval, IntervalSweep):
        return [f"{key}={interval.start}", f"{key}={interval.end}"]
    _values(override)
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _without_glob(text: str) -> str:
    """`model=glob(v1*)` with the names of the files that it stands for. Raises ConfigError if there are none."""
    if "=glob(" not in text:
        return text
    (override,) = _parsed([text])
    group, pattern = override.key_or_group, override.value()
    if not isinstance(pattern, Glob):
        return text
    options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    if not (found := pattern.filter(options)):
        raise ConfigError(f"{text}: no such {group} ({', '.join(options)})" if options else _not_listed(override))
    return f"{group}={','.join(found)}"


def _targets(cfg: DictConfig, overrides: Sequence[Override]) -> dict[str, str]:
    """The `_target_` of each part by its place, after these overrides."""
    given = {o.key_or_group: str(_values(o)[0]) for o in overrides if o.key_or_group.endswith("._target_")}
    targets = {place: str(node["_target_"]) for place, node in find_parts(cfg)}
    return targets | {key.removesuffix("._target_"): target for key, target in given.items()}


def _is_accepted(key: str, targets: Mapping[str, str], known: Sequence[str]) -> bool:
    """Whether a part's constructor accepts this setting (trainer.strategy) or one above it (trainer.logger.name)."""
    if key in known:
        return False
    place, _, name = key.rpartition(".")
    if place in targets and not name.startswith("_"):
        return key in _sibling_settings(key, targets)
    return bool(place) and _is_accepted(place, targets, known)


def _sibling_settings(key: str, targets: Mapping[str, str]) -> list[str]:
    """All settings that the constructor of `key`'s part accepts."""
    place = key.rpartition(".")[0]
    if place not in targets:
        return []
    switches = [f"{place}.{name}" for name in CALLBACK_SWITCH if place.startswith("callbacks.")]
    with contextlib.suppress(ConfigError):  # a target that cannot be imported is reported by check
        return switches + [f"{place}.{name}" for name in parameters(locate(targets[place]))[0]]
    return switches


def _values(override: Override) -> list[Any]:
    """The values of an override. Raises ConfigError for a sweep without any: interval(0,1), range(3,0)."""
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep() or not (values := list(override.sweep_iterator())):
        raise ConfigError(_not_listed(override))
    return values


def _not_listed(override: Override) -> str:
    return f"{override.input_line}: a sweep must list its values: {override.key_or_group}=A,B,C"


def _may_add(cfg: DictConfig, key: str, override: Override) -> bool:
    """Whether `+a.b=1` adds inside an existing group; `check` later asks the part's constructor."""
    group, _, rest = key.partition(".")
    added = override.is_add() or override.is_force_add()
    return added and bool(rest) and isinstance(cfg.get(group), DictConfig)

"""Checking a config before anything is opened: all its mistakes in one message."""

import collections.abc
import contextlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segstudy.config.compose import _keys, apply_overrides, compose_config, register_resolvers
from segstudy.config.paths import CONF
from segstudy.config.renamed import with_current_names
from segstudy.config.targets import _parts, locate, parameters
from segstudy.config.trust import ALLOWED, is_allowed, is_trusted
from segstudy.errors import ConfigError, did_you_mean, first_line
from segstudy.files import read_text


def check_overrides(arguments: Sequence[str], conf: Path = CONF) -> list[str]:
    """The command line as Hydra takes it: what a constructor takes, but no file lists, is added (`++`).

    Raises ConfigError with every mistake: settings and files of groups that are not there, and what `check` finds in
    the config that they make (of a sweep: in its first run's, and with each further value of a setting).
    """
    parser = OverridesParser.create()
    texts = [a for a in arguments if ("=" in a or a.startswith("~")) and not a.startswith("-")]
    try:
        overrides = parser.parse_overrides(texts)
    except HydraException as error:
        raise ConfigError(str(error)) from error
    groups, mistakes = _chosen(overrides, conf)
    cfg = compose_config(groups, conf)
    known = sorted(_keys(cfg))
    targets = _targets(cfg, overrides)
    settings: list[list[str]] = []  # each with its values: several of a sweep
    added = {}
    for text, override in zip(texts, overrides, strict=True):
        key = override.key_or_group
        if override.is_delete() and "." not in key and key != "experiment":
            mistakes.append(f"{text}: every run has {key!r}; choose another value of it")
        if (conf / key).is_dir() or key.startswith("hydra") or override.is_delete():
            continue
        if key not in known and _taken(key, targets, known):
            added[text] = text = f"++{text.lstrip('+')}"
        elif key not in known and not _may_add(cfg, key, override):
            folders = [p.name for p in conf.iterdir() if p.is_dir()]
            there = sorted({*known, *_takeable(key, targets), *folders})
            mistakes.append(f"{text}: no setting {key!r}{did_you_mean(key, there)}")
            continue
        settings.append(_each(text, override))
    mistakes += _mistakes_of_values(groups, settings, conf)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return [added.get(a, a) for a in arguments]


def _chosen(overrides: Sequence[Override], conf: Path) -> tuple[list[str], list[str]]:
    """The files that are chosen for groups (of a sweep, the first), and what is wrong with them."""
    groups, mistakes = [], []
    for override in overrides:
        group = override.key_or_group
        if (conf / group).is_dir() and not override.is_delete():
            files = (conf / group).rglob("*.yaml")
            options = sorted(p.relative_to(conf / group).with_suffix("").as_posix() for p in files)
            wrong = [v for v in _values(override) if v not in (None, "null") and str(v) not in options]
            mistakes += [
                f"{group}={v}: no such {group}{did_you_mean(str(v), options)} ({', '.join(options)})" for v in wrong
            ]
            if not wrong:
                groups.append(f"{group}={_values(override)[0]}")
    return groups, mistakes


def _mistakes_of_values(groups: Sequence[str], settings: Sequence[Sequence[str]], conf: Path) -> list[str]:
    """What is wrong with the first value of each setting, and with each other value beside the first of the rest."""
    first = [values[0] for values in settings]
    other = [[*first[:i], text, *first[i + 1 :]] for i, values in enumerate(settings) for text in values[1:]]
    mistakes: list[str] = []
    for given in [first, *other]:
        try:
            cfg = compose_config([*groups, *given], conf)
            apply_overrides(cfg, given)
            check(cfg)
        except ConfigError as error:
            mistakes += [line for line in str(error).splitlines() if line not in mistakes]
    return mistakes


def _each(text: str, override: Override) -> list[str]:
    """A setting once for each value that a sweep gives it."""
    if not override.is_sweep_override():
        return [text]
    _values(override)
    return [f"{text.partition('=')[0]}={value}" for value in override.sweep_string_iterator()]


def _targets(cfg: DictConfig, overrides: Sequence[Override]) -> dict[str, str]:
    """The `_target_` of each part of a config, by its place, as these overrides leave it."""
    given = {o.key_or_group: str(_values(o)[0]) for o in overrides if o.key_or_group.endswith("._target_")}
    there = {place: str(node["_target_"]) for place, node in _parts(cfg)}
    return there | {key.removesuffix("._target_"): target for key, target in given.items()}


def _taken(key: str, targets: Mapping[str, str], known: Sequence[str]) -> bool:
    """Whether a part's constructor names this setting, or one that it is in: trainer.strategy, trainer.logger.name."""
    if key in known:
        return False
    place, _, name = key.rpartition(".")
    if place in targets and not name.startswith("_"):
        return key in _takeable(key, targets)
    return bool(place) and _taken(place, targets, known)


def _takeable(key: str, targets: Mapping[str, str]) -> list[str]:
    """The settings beside `key` that the constructor of their part names."""
    place = key.rpartition(".")[0]
    if place not in targets:
        return []
    switches = [f"{place}.{name}" for name in SWITCHES if place.startswith("callbacks.")]
    with contextlib.suppress(ConfigError):  # a target that cannot be imported is reported by check
        return switches + [f"{place}.{name}" for name in parameters(locate(targets[place]))[0]]
    return switches


def _values(override: Override) -> list[Any]:
    """The values of an override. Raises ConfigError for a sweep that does not list them: glob(v*), interval(0,1)."""
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        key = override.key_or_group
        raise ConfigError(f"{override.input_line}: a sweep lists its values: {key}=A,B,C")
    return list(override.sweep_iterator())


def _missing(cfg: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.is_missing(node, last)


def _may_add(cfg: DictConfig, key: str, override: Override) -> bool:
    """`+a.b=1` is fine inside a group: a part's constructor is asked later, and new parts bring their own."""
    group, _, rest = key.partition(".")
    added = override.is_add() or override.is_force_add()
    return added and bool(rest) and isinstance(cfg.get(group), DictConfig)


def check(cfg: DictConfig, trusted: bool = True, groups: Sequence[str] | None = None) -> None:
    """Raise ConfigError with every `_target_` that cannot be imported and every key that its target does not take.

    trusted=False (a config that came with a run folder, from `read_config`) refuses targets outside ALLOWED and
    SEGSTUDY_TRUST, before anything is imported, and what is no part of its group. groups: only these are looked at, and
    only these may then be built; None for all.
    """
    if groups is not None:
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key in groups])
    mistakes = []
    refused: set[str] = set()  # named once: of a config without interpolations, `network` repeats its sockets
    for place, node in _parts(cfg):
        target = str(node["_target_"])
        if target in refused:
            continue
        if not trusted and not is_trusted(target):
            refused.add(target)
            mistakes.append(
                f"{place}._target_={target} is not of segstudy or its libraries; if it is yours, say so here: "
                f"SEGSTUDY_TRUST={target.split('.')[0]}"
            )
            continue
        try:
            thing = locate(target)
        except ConfigError as error:
            mistakes.append(f"{place}._target_: {error}")
            continue
        if not trusted and target.startswith(ALLOWED) and not is_allowed(place, thing):
            refused.add(target)
            mistakes.append(f"{place}._target_={target} is no part of a {place.split('.')[0]}: it is not built")
            continue
        mistakes += _mistaken_keys(place, node, thing, trusted)
    if trusted:  # of a run's folder, only what builds the network matters
        mistakes += [*_plain(cfg), *_unused(cfg)]
    mistakes += [f"{key} is not set: add {key}=…" for key in _keys(cfg) if _missing(cfg, key)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def read_config(folder: Path, groups: Sequence[str] = ("network",)) -> DictConfig:
    """The config of a run's folder that someone may have sent, without interpolations: what is checked is then what is
    built (`${oc.create:…}` makes a part that no check has seen).

    groups: what the caller builds of it; the rest is not checked, so whoever builds more calls `check` for that.
    Raises ConfigError if there is none, and for what segstudy does not build.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder} is not a run's folder: no file {file}")
    register_resolvers()
    try:
        text = with_current_names(read_text(file))
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{file} is not a run's config: it has YAML's aliases, which can grow without end")
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
        cfg = OmegaConf.create(values)
        left = OmegaConf.to_container(cfg, resolve=False) != OmegaConf.to_container(cfg, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as a config: {first_line(error)}") from error
    if left:
        raise ConfigError(f"{file} is not a run's config: a value in it makes another interpolation")
    if not isinstance(cfg, DictConfig) or not {"seed", "data", "network", "trainer"} <= cfg.keys():
        raise ConfigError(f"{file} is not a run's config: not all of seed, data, network and trainer are there")
    if "logger" in cfg.trainer:  # a finished run logs no more, and may have logged with what is not built here
        del cfg.trainer.logger
    check(cfg, False, groups)
    return cfg


SWITCHES = {"enabled": inspect.Parameter("enabled", inspect.Parameter.KEYWORD_ONLY, annotation=bool)}
"""What a part may have beside the keywords of its constructor: whether a callback is there."""

UNUSED = (
    (r"trainer\.callbacks", "callbacks.NAME._target_=…"),
    (r"trainer\.default_root_dir", "runs_dir=… study=…"),
    (r"trainer\.enable_progress_bar", "callbacks.progress.enabled=…"),
    (r"callbacks\.\w+\.dirpath", "runs_dir=… study=…: checkpoints are in the run's folder"),
    (r"network\.num_classes", "the data says how many there are"),
    (r"bridge\.in_channels|decoder\.(channels|strides)|head\.(in_channels|outputs)", "the parts beside it say so"),
    (r"optim\.optimizer\.(params|lr)", "optim.lr=… optim.encoder_lr=…"),
    (r"schedule\.(optimizer|progress)", "optim.optimizer…"),
)
"""What constructors take but a run gives them itself: a pattern of settings, and what to set instead."""


def _unused(cfg: DictConfig) -> list[str]:
    """Settings that a run would not heed."""
    keys = [key for key in _keys(cfg) if not OmegaConf.is_missing(cfg, key)]
    return [
        f"{key} would not be used: a run sets it itself\n  → {instead}"
        for key in keys
        for pattern, instead in UNUSED
        if re.fullmatch(pattern, key)
    ]


def _plain(cfg: DictConfig) -> list[str]:
    """Mistakes in what no constructor takes: the top level, the report's plan, the loggers."""
    from segstudy.study.analysis.plan import Plan

    mistakes = []
    if not isinstance(cfg.compile, bool):
        mistakes.append(f"compile={cfg.compile}: it is true or false")
    if not isinstance(cfg.optim.get("decay_norms", False), bool):
        mistakes.append(f"optim.decay_norms={cfg.optim.decay_norms}: it is true or false")
    if cfg.checkpoint not in ("last", "best"):
        mistakes.append(
            f"checkpoint={cfg.checkpoint}: it is last or best{did_you_mean(str(cfg.checkpoint), ['last', 'best'])}"
        )
    if not isinstance(cfg.seed, int) or isinstance(cfg.seed, bool) or cfg.seed < 0:
        mistakes.append(f"seed={cfg.seed}: it is a whole number from 0 on")
    for name, rate in (("lr", cfg.optim.get("lr")), ("encoder_lr", cfg.optim.get("encoder_lr") or 0)):
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < math.inf:
            mistakes.append(f"optim.{name}={rate}: it is a number from 0 on")
    for name, part in cfg.callbacks.items():
        if not isinstance(part, DictConfig):
            mistakes.append(f"callbacks.{name}={part}: it is a part\n  → callbacks.{name}.enabled=false turns it off")
    logger = cfg.trainer.get("logger")
    loggers = logger if isinstance(logger, ListConfig) else [] if logger in (None, True) else [logger]
    if not all(isinstance(each, DictConfig) and "_target_" in each for each in loggers):
        mistakes.append(
            f"trainer.logger={logger}: every run logs to TensorBoard; further loggers have a _target_\n"
            "  → trainer.logger._target_=lightning.pytorch.loggers.CSVLogger, or a list of such parts"
        )
    try:
        plan = Plan.of(OmegaConf.to_container(cfg.report))  # type: ignore[arg-type]
        mistakes += [mistake for side in plan.sides() for mistake in _mistaken_options(side)]
    except ConfigError as error:
        mistakes.append(str(error))
    return mistakes


def _mistaken_options(side: str) -> list[str]:
    """Choices such as loss=dise in a side of the plan, which no run can make."""
    mistakes = []
    for group, option in re.findall(r"(?:^|[\s|])(\w+)=([^\s|]+)", side):
        options = [file.stem for file in (CONF / group).glob("*.yaml")]
        if options and option not in options:
            mistakes.append(f"report: no variant can be {side!r}: no {group}={option}{did_you_mean(option, options)}")
    return mistakes


def _mistaken_keys(place: str, node: DictConfig, thing: Callable[..., Any], trusted: bool) -> list[str]:
    """The settings of a part that its constructor does not take, and (trusted) those of another kind than it says."""
    known, more = parameters(thing)
    if place.startswith("callbacks."):
        known |= SWITCHES
    keys = [str(k) for k in node if k not in ("_target_", "_partial_", "_recursive_", "_convert_")]
    wrong = [] if more else [k for k in keys if k not in known]
    mistakes = [f"{place}.{k}: {node['_target_']} takes no {k!r}{did_you_mean(k, [*known])}" for k in wrong]
    if not trusted:
        return mistakes
    mistakes += _mistaken_kinds(place, node, known)
    return mistakes + [f"{place}.{k}=null: {said} is needed" for k in keys if (said := _needed(thing, node, k))]


def _mistaken_kinds(place: str, node: DictConfig, known: Mapping[str, inspect.Parameter]) -> list[str]:
    """The settings of a part that are true or false, or a number, by its constructor, and something else here."""
    there = [k for k in map(str, node) if k in known and not OmegaConf.is_missing(node, k)]
    wanted = {k: _not_a_switch(known[k], node[k]) or _not_a_number(known[k], node[k]) for k in there}
    return [f"{place}.{k}={node[k]}: it is {kinds}" for k, kinds in wanted.items() if kinds]


def _not_a_number(parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter that is a number, or a list of them, may be, if `value` is a word, a switch or a fraction."""
    kinds = _kinds(parameter.annotation)
    lists = [k for k in kinds if get_origin(k) is collections.abc.Sequence]
    if not {int, float} & {*kinds} or not {*kinds} - {*lists} <= {int, float, NoneType}:
        return None
    if not isinstance(value, str | bool) and (not isinstance(value, float) or float in kinds):
        return None  # null is `_needed`'s
    number = "a number" if float in kinds else "a whole number"
    return number + " or a list of them" * bool(lists)


def _not_a_switch(parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter that is true or false may be, if `value` is something else: of `no`, Hydra makes a string."""
    kinds = _kinds(parameter.annotation)
    if not (bool in kinds or isinstance(parameter.default, bool)):
        return None
    words = [k for k in kinds if isinstance(k, str)]
    others = [k for k in kinds if k not in (bool, NoneType, parameter.empty, *words)]
    nothing = value is None and (parameter.default is None or NoneType in kinds)
    if not {*others} <= {int, float, str}:  # or an object, such as Trainer's logger
        return None
    if isinstance(value, (bool, *others)) or nothing or value in words:
        return None
    return " or ".join(["true", "false", *words, *(k.__name__ for k in others)])


def _kinds(annotation: Any) -> list[Any]:
    """The types of an annotation's union, and the words of its literals."""
    if isinstance(annotation, str):  # of a module that postpones them
        optional = re.sub(r"Optional\[(.*)\]", r"\1|None", annotation.replace(" ", "").replace("typing.", ""))
        names = {"bool": bool, "int": int, "float": float, "str": str, "None": NoneType}
        return [names.get(name, object) for name in optional.split("|")]
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return list(get_args(annotation)) if get_origin(annotation) is Literal else [annotation]


def _needed(thing: Callable[..., Any], node: DictConfig, key: str) -> str:
    """What a callable takes for a key that is null, where it says that null is nothing to it; "" else."""
    if OmegaConf.is_missing(node, key) or node[key] is not None:
        return ""
    for each in inspect.getmro(thing) if inspect.isclass(thing) else [thing]:
        if inspect.isclass(each) and "__init__" not in vars(each):
            continue
        kind = getattr(inspect.signature(each).parameters.get(key), "annotation", None)
        if kind is None:  # it hands the key on to its base
            continue
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        simple = all(k in (int, float, str) or get_origin(k) is collections.abc.Sequence for k in kinds)
        return " or ".join(getattr(k, "__name__", str(k)) for k in kinds) if simple else ""
    return ""

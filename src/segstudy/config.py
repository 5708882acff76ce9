"""Checking a config before anything is opened: all its mistakes in one message."""

import collections.abc
import contextlib
import hashlib
import importlib
import inspect
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim import Optimizer

from segstudy.errors import ConfigError, first_line, near
from segstudy.files import read_text

_inside, _beside = Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf"
CONF = _inside if _inside.is_dir() else _beside
"""The configs: inside an installed package, beside `src` in a clone."""

ALLOWED = ("segstudy.", "lightning.Trainer", "lightning.pytorch.callbacks.", "torch.optim.", "torch.nn.")
"""What a run folder's config may build, if it is a part of its group (`fits`): not smp's own classes, which download.

A machine's user adds modules of their own in SEGSTUDY_TRUST=my_loss,…"""

MACHINE = re.compile(
    r"(runs_dir|study|report|data\.(name|root|cache_dir|workers|device_cache|download)"
    r"|trainer\.(accelerator|devices|num_nodes|logger)"
    r"|callbacks\.(throughput|finite_loss|pictures|inspector|history|state_dict|learning_rate|progress))(\.|$)"
)
"""Settings that say where and how comfortably a run is made, not what it is: they may change when it is continued."""


NAME_LETTERS = 180


def register_resolvers() -> None:
    """`${run_name:…}`, and `${stem:segstudy.data.voc.VOC}` = voc, in the config."""
    OmegaConf.register_new_resolver("stem", lambda target: target.rpartition(".")[2].lower(), replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def run_name(model: str, overrides: Sequence[str]) -> str:
    """A run's folder name: the model, then what the command changed: `v3_encoder=mobilenet_v2_seed=1`.

    Of a name longer than NAME_LETTERS, what is cut off is there as a hash: long sweeps need as many folders as runs.
    """
    parts = [model]
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in ("model", "experiment") or MACHINE.match(key) or (key == "trainer" and not trains_otherwise(value)):
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


# The command line


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
            mistakes.append(f"{text}: no setting {key!r}{near(key, there)}")
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
            mistakes += [f"{group}={v}: no such {group}{near(str(v), options)} ({', '.join(options)})" for v in wrong]
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
            adopt(cfg, given)
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


def compose_config(overrides: Sequence[str], conf: Path = CONF) -> DictConfig:
    """The config that these overrides make. Raises ConfigError with Hydra's words."""
    register_resolvers()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("config", list(overrides))
    except HydraException as error:
        raise ConfigError(str(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in map(str, node):
            yield f"{prefix}{key}"
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from _keys(node[key], f"{prefix}{key}.")


def _missing(cfg: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.is_missing(node, last)


def _may_add(cfg: DictConfig, key: str, override: Override) -> bool:
    """`+a.b=1` is fine inside a group: a part's constructor is asked later, and new parts bring their own."""
    group, _, rest = key.partition(".")
    added = override.is_add() or override.is_force_add()
    return added and bool(rest) and isinstance(cfg.get(group), DictConfig)


# The composed config


def adopt(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Make a composed config the one that is meant: with what `reproduce` asks for, and without left-over settings.

    Where a command names a part's `_target_` itself, drop the old part's settings that the new one does not take.

    So `loss._target_=my_loss.MyLoss` is enough, whatever loss the model came with. Raises ConfigError for a `reproduce`
    that this experiment does not have, or that the command contradicts.
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
    """Set what the experiment's `as_published` holds if `reproduce` asks for it, and drop that section."""
    published = cfg.get("as_published")
    wanted = cfg.get("reproduce")
    if wanted not in (None, "as_published"):
        raise ConfigError(f"reproduce={wanted}: it is null or as_published{near(str(wanted), ['as_published'])}")
    if wanted and published is None:
        raise ConfigError(
            "reproduce=as_published: this experiment follows no published study, or none is named\n"
            f"  → experiment= one of {', '.join(_published())}"
        )
    if wanted:
        meant = {k: v for k in _keys(published) if not isinstance(v := OmegaConf.select(published, k), DictConfig)}
        if foreign := sorted(meant.keys() - set(_keys(cfg))):
            raise ConfigError(
                f"reproduce=as_published sets {', '.join(foreign)}, which this config does not have\n"
                "  → the data set and schedule of the experiment, or no reproduce"
            )
        cfg.merge_with(published)
        for override in OverridesParser.create().parse_overrides([o for o in overrides if "=" in o]):
            key = override.key_or_group
            if key in meant and override.value() != meant[key]:
                raise ConfigError(
                    f"{key}={override.value()}: reproduce=as_published has {key}={meant[key]}, as its author did\n"
                    "  → leave out one of the two"
                )
    if "as_published" in cfg:
        OmegaConf.set_struct(cfg, False)
        del cfg["as_published"]  # what a folder keeps is what was run
        OmegaConf.set_struct(cfg, True)


def _published(conf: Path = CONF) -> list[str]:
    """The experiments that say how their author selected and reported."""
    files = sorted((conf / "experiment").glob("*.yaml"))
    return [file.stem for file in files if OmegaConf.select(OmegaConf.load(file), "as_published") is not None]


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
        if not trusted and not allowed(target):
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
        if not trusted and target.startswith(ALLOWED) and not fits(place, thing):
            refused.add(target)
            mistakes.append(f"{place}._target_={target} is no part of a {place.split('.')[0]}: it is not built")
            continue
        mistakes += _mistaken_keys(place, node, thing, trusted)
    if trusted:  # of a run's folder, only what builds the network matters
        mistakes += [*_plain(cfg), *_unused(cfg)]
    mistakes += [f"{key} is not set: add {key}=…" for key in _keys(cfg) if _missing(cfg, key)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def allowed(target: str) -> bool:
    """Whether a config that someone sent may build `target`."""
    own = tuple(f"{m.strip()}." for m in os.environ.get("SEGSTUDY_TRUST", "").split(",") if m.strip())
    return target.startswith(ALLOWED + own) and ".." not in target


def fits(place: str, thing: Any) -> bool:
    """Whether a thing is what the group at the head of `place` builds, and so does nothing but be built.

    A function, or a class imported from elsewhere (pathlib.Path, subprocess.Popen), could do more.
    """
    import lightning as L

    from segstudy.data.augment import Augment
    from segstudy.data.effects import Part

    group = place.split(".")[0]
    if group == "schedule":
        return getattr(thing, "__module__", None) == "segstudy.optim" and inspect.isfunction(thing)
    kinds: dict[str, tuple[type, ...]] = {
        "data": (L.LightningDataModule, Augment, Part), "trainer": (L.Trainer,), "callbacks": (L.Callback,),
        "optim": (Optimizer,),
    }  # fmt: skip
    return inspect.isclass(thing) and issubclass(thing, kinds.get(group, (nn.Module,)))


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
        text = read_text(file)
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


def write_only_here(data: DictConfig) -> None:
    """Let the data of a finished run, which may be a stranger's, write nowhere that its config says.

    Unless it names a place of caches that is there, its own goes where this machine keeps them, and nothing is
    downloaded. What a person says (data.…=…) is merged after this.
    """
    own: dict[str, Any] = {"download": False}
    if not any(Path(str(data.get("cache_dir"))).expanduser().glob("*/images.npy")):
        own["cache_dir"] = os.environ.get("SEGSTUDY_CACHE", "~/.cache/segstudy")
    data.update({key: value for key, value in own.items() if key in data})


def locate(target: str) -> Callable[..., Any]:
    """The class or function at a dotted path. Raises ConfigError that says which part is not there."""
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{target} cannot be imported: {error}") from error
    if not callable(thing := getattr(module, name, None)):
        raise ConfigError(f"{module_name} has no {name!r}{near(name, dir(module))}")
    return thing


def parameters(thing: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The keywords that a callable names, through the **kwargs that a data set hands to its base; and whether it takes
    any other."""
    classes = inspect.getmro(thing) if inspect.isclass(thing) else [thing]
    named: dict[str, inspect.Parameter] = {}
    for each in classes:
        if inspect.isclass(each) and "__init__" not in vars(each):
            continue
        if each in (object, nn.Module):  # a module without a constructor takes nothing
            break
        every = inspect.signature(each).parameters.values()
        named = {p.name: p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | named
        if not any(p.kind is p.VAR_KEYWORD for p in every):
            return named, False
        if not each.__module__.startswith("segstudy.data"):
            return named, True
    return named, False


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
    from segstudy.study.plan import Plan

    mistakes = []
    if not isinstance(cfg.compile, bool):
        mistakes.append(f"compile={cfg.compile}: it is true or false")
    if not isinstance(cfg.optim.get("decay_norms", False), bool):
        mistakes.append(f"optim.decay_norms={cfg.optim.decay_norms}: it is true or false")
    if cfg.checkpoint not in ("last", "best"):
        mistakes.append(f"checkpoint={cfg.checkpoint}: it is last or best{near(str(cfg.checkpoint), ['last', 'best'])}")
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
            mistakes.append(f"report: no variant can be {side!r}: no {group}={option}{near(option, options)}")
    return mistakes


def _mistaken_keys(place: str, node: DictConfig, thing: Callable[..., Any], trusted: bool) -> list[str]:
    """The settings of a part that its constructor does not take, and (trusted) those of another kind than it says."""
    known, more = parameters(thing)
    if place.startswith("callbacks."):
        known |= SWITCHES
    keys = [str(k) for k in node if k not in ("_target_", "_partial_", "_recursive_", "_convert_")]
    wrong = [] if more else [k for k in keys if k not in known]
    mistakes = [f"{place}.{k}: {node['_target_']} takes no {k!r}{near(k, [*known])}" for k in wrong]
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


def _parts(node: Any, place: str = "") -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield place, node
        for key in map(str, node):
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from _parts(node[key], f"{place}.{key}".lstrip("."))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from _parts(item, f"{place}[{i}]")


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
    keys = [k for k in sorted({*a, *b}) if not MACHINE.match(k) and a.get(k) != b.get(k)]
    keys = [k for k in keys if not k.startswith(tuple(idle))]
    return [f"{k}: {a.get(k)} → {b.get(k)}" for k in keys]

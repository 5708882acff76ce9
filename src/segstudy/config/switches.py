"""Settings that are true or false, or a number, by their constructor, and settings that may not be null."""

import collections.abc
import inspect
import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from segstudy.config.targets import setting_names, settings_of


def mistaken_kinds(place: str, node: DictConfig, thing: Callable[..., Any]) -> list[str]:
    """A line for each setting of a part that is a switch or a number by its constructor, and of another kind here."""
    known, _ = settings_of(place, thing)
    there = [k for k in map(str, node) if k in known and not OmegaConf.is_missing(node, k)]
    there = [k for k in there if not OmegaConf.is_interpolation(node, k)]  # where its value stands, it is checked
    allowed = {k: _not_a_switch(known[k], node[k]) or _not_a_number(known[k], node[k]) for k in there}
    return [f"{place}.{k}={node[k]}: it is {values}" for k, values in allowed.items() if values]


def mistaken_nulls(place: str, node: DictConfig, thing: Callable[..., Any]) -> list[str]:
    """A line for each setting of a part that is null, where its constructor asks for a number or a text."""
    needed = {k: _needed_type(thing, node, k) for k in setting_names(node)}
    return [f"{place}.{k}=null: {kind} is needed" for k, kind in needed.items() if kind]


def _not_a_switch(parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter that is true or false may be, if `value` is something else: of `no`, Hydra makes a string."""
    kinds = _types(parameter.annotation)
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


def _not_a_number(parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter that is a number, or a list of them, may be, if `value` is a word, a switch or a fraction."""
    kinds = _types(parameter.annotation)
    lists = [k for k in kinds if get_origin(k) is collections.abc.Sequence]
    if not {int, float} & {*kinds} or not {*kinds} - {*lists} <= {int, float, NoneType}:
        return None
    if not isinstance(value, str | bool) and (not isinstance(value, float) or float in kinds):
        return None  # null is `_needed_type`'s
    number = "a number" if float in kinds else "a whole number"
    return number + " or a list of them" * bool(lists)


def _types(annotation: Any) -> list[Any]:
    """The types of an annotation's union, and the words of its literals."""
    if isinstance(annotation, str):  # of a module that postpones them
        optional = re.sub(r"Optional\[(.*)\]", r"\1|None", annotation.replace(" ", "").replace("typing.", ""))
        names = {"bool": bool, "int": int, "float": float, "str": str, "None": NoneType}
        return [names.get(name, object) for name in optional.split("|")]
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _types(part)]
    return list(get_args(annotation)) if get_origin(annotation) is Literal else [annotation]


def _needed_type(thing: Callable[..., Any], node: DictConfig, key: str) -> str:
    """The type that a callable wants for a key that is null; "" where it takes null, or does not say."""
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

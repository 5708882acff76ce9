"""TODO"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from segstudy.errors import ConfigError, did_you_mean


def locate(target: str) -> Callable[..., Any]:
    """The class or function at a dotted path. Raises ConfigError that says which part is not there."""
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{target} cannot be imported: {error}") from error
    if not callable(thing := getattr(module, name, None)):
        raise ConfigError(f"{module_name} has no {name!r}{did_you_mean(name, dir(module))}")
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

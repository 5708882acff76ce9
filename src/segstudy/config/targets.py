"""The classes and functions that a config names (`_target_`), and the settings they accept."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from segstudy.errors import ConfigError, did_you_mean, first_line
from segstudy.ranges import signature_of

CALLBACK_SWITCH = {"enabled": inspect.Parameter("enabled", inspect.Parameter.KEYWORD_ONLY, annotation=bool)}
"""Setting of every callback beside its constructor's arguments: whether it is used."""

RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_")
"""Hydra's own keys of a part, which are not passed to its constructor."""

RENAMED = {
    "lightning.pytorch.callbacks.EarlyStopping": "segstudy.callbacks.early_stopping.EarlyStopping",
    "segstudy.callbacks.crf.BoundaryRefinement": "segstudy.inference.crf.CRFEvaluation",
    "segstudy.callbacks.guards.FiniteLoss": "segstudy.callbacks.finite_loss.FiniteLoss",
    "segstudy.callbacks.tta.TestTimeAugmentation": "segstudy.inference.tta.TTAEvaluation",
    "segstudy.callbacks.weights.StateDict": "segstudy.callbacks.state_dict.StateDict",
    "segstudy.data.ade20k.ADE20K": "segstudy.data.datasets.ade20k.ADE20K",
    "segstudy.data.augment.Augment": "segstudy.data.transforms.augment.Augment",
    "segstudy.data.effects.Blur": "segstudy.data.transforms.color.Blur",
    "segstudy.data.effects.Erase": "segstudy.data.transforms.color.RandomErasing",
    "segstudy.data.effects.Tint": "segstudy.data.transforms.color.HueSaturation",
    "segstudy.data.folder.Folder": "segstudy.data.folder.datamodule.Folder",
    "segstudy.data.mixing.CopyPaste": "segstudy.data.transforms.mixing.CopyPaste",
    "segstudy.data.mixing.CutMix": "segstudy.data.transforms.mixing.CutMix",
    "segstudy.data.mixing.MixUp": "segstudy.data.transforms.mixing.MixUp",
    "segstudy.data.pet.Pet": "segstudy.data.datasets.pet.Pet",
    "segstudy.data.sbd.VOCSBD": "segstudy.data.datasets.sbd.VOCSBD",
    "segstudy.data.scenes.Scenes": "segstudy.data.datasets.scenes.Scenes",
    "segstudy.data.voc.VOC": "segstudy.data.datasets.voc.VOC",
}
"""Old `_target_` names in the folders of earlier runs → their present names."""


def update_targets(node: Any) -> None:
    """Replace renamed targets in an earlier run's config, in place."""
    for _, part in find_parts(node):
        part["_target_"] = RENAMED.get(str(part["_target_"]), part["_target_"])


def locate(target: str) -> Callable[..., Any]:
    """The class or function at a dotted path. Raises ConfigError that names what is missing."""
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's own module can raise anything
        raise ConfigError(f"{target} cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    if not callable(thing := getattr(module, name, None)):
        raise ConfigError(f"{module_name} has no {name!r}{did_you_mean(name, dir(module))}")
    return thing


def parameters(thing: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named arguments of a callable, and whether it accepts any others (**kwargs). A data set's include those of
    its base classes, to which it passes its **kwargs."""
    classes = inspect.getmro(thing) if inspect.isclass(thing) else [thing]
    named: dict[str, inspect.Parameter] = {}
    for each in classes:
        if inspect.isclass(each) and "__init__" not in vars(each):
            continue
        if each in (object, nn.Module):  # a class without its own constructor takes no arguments
            break
        every = signature_of(each).parameters.values()
        named = {p.name: p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | named
        if not any(p.kind is p.VAR_KEYWORD for p in every):
            return named, False
        if not each.__module__.startswith("segstudy.data"):
            return named, True
    return named, False


def find_parts(node: Any, place: str = "") -> Iterator[tuple[str, DictConfig]]:
    """(place, node) of each part of a config that has a `_target_`, outer before inner."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield place, node
        for key in (key for key in node if isinstance(key, str)):
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from find_parts(node[key], f"{place}.{key}".lstrip("."))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from find_parts(item, f"{place}[{i}]")


def unknown_settings(place: str, node: DictConfig, thing: Callable[..., Any]) -> list[str]:
    """A line for each setting of a part that its constructor does not accept."""
    known, more = settings_of(place, thing)
    wrong = [] if more else [k for k in map(str, node) if k not in known and k not in RESERVED]
    return [f"{place}.{k}: {node['_target_']} has no argument {k!r}{did_you_mean(k, [*known])}" for k in wrong]


def settings_of(place: str, thing: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """As `parameters`, with CALLBACK_SWITCH for callbacks."""
    known, more = parameters(thing)
    return (known | CALLBACK_SWITCH if place.startswith("callbacks.") else known), more

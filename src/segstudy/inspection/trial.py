"""A trial pass through a network before training, with a clear error if it cannot be trained."""

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from segstudy.errors import ConfigError, first_line
from segstudy.inspection.memory import out_of_memory
from segstudy.networks.normalize import input_channels

Size = tuple[int, int]


def check_trains(
    network: nn.Module,
    batch_size: int,
    size: Size,
    device: torch.device,
    precision: AbstractContextManager,
    seen: Callable[[Size], Size] = lambda size: size,
) -> None:
    """Raise ConfigError if the network cannot be trained with batches of this size; it names a size that works.

    precision: context of the forward pass. seen: from `size` to the smallest size of a batch, after augmentation.
    Tried first on a copy without values (torch's meta device), which uses no memory; a network that fails there may
    only need values, so it is tried again on the device. It is not changed.
    """
    with isolate_rng(device.type == "cuda"):  # a network may draw random numbers
        if _failure(network, batch_size, seen(size), torch.device("meta")) is None:
            return
        with precision:
            error = _failure(network, batch_size, seen(size), device)
        if error is None or out_of_memory(error):  # training itself explains full memory
            return
        others = [(2, size)] * (batch_size == 1) + [(batch_size, (size[0] * n, size[1] * n)) for n in (2, 4, 8)]
        works = next((o for o in others if _failure(network, o[0], seen(o[1]), torch.device("meta")) is None), None)
    settings = "data.batch_size={} data.size=[{}, {}]"
    smaller = "" if seen(size) == size else f", of which data.augment.sizes makes {list(seen(size))}"
    needs = "" if works is None else "it needs a larger size: " if works[1] != size else "it needs 2 or more images: "
    raise ConfigError(
        f"the network {_name(network)} cannot be trained with {settings.format(batch_size, *size)}{smaller}\n"
        f"  {needs}{first_line(error)}\n"
        f"  → {settings.format(works[0], *works[1]) if works else 'choose another data.size, or another network'}"
    ) from error


def check_evaluates(network: nn.Module, sizes: Iterable[Size], device: torch.device) -> None:
    """Raise ConfigError if the network cannot take single images of these sizes outside training.

    They are tried as in `check_trains`, so a validation does not end a training with an error.
    """
    with isolate_rng(device.type == "cuda"):  # a network may draw random numbers
        for size in sizes:
            if _failure(network, 1, size, torch.device("meta"), training=False) is None:
                continue
            error = _failure(network, 1, size, device, training=False)
            if error is not None and not out_of_memory(error):
                raise ConfigError(
                    f"the network {_name(network)} cannot be tested on images of {size[0]}×{size[1]} pixels: "
                    f"{first_line(error)}\n  → data.fit=squash or keep, or another network"
                ) from error


def _name(network: nn.Module) -> str:
    return type(network.model if isinstance(getattr(network, "model", None), nn.Module) else network).__name__


def _failure(
    network: nn.Module, batch_size: int, size: Size, device: torch.device, training: bool = True
) -> Exception | None:
    """The error of a forward (in training, also a backward) pass of a copy on this device; None if there is none."""
    try:
        trial = copy.deepcopy(network)
    except Exception:  # a network that cannot be copied is not tried
        return None
    try:
        trial.to(device).train(training)
        options = {"auxiliary": True} if training and getattr(trial, "auxiliary_weight", False) else {}
        with torch.device(device), torch.set_grad_enabled(training):
            outputs = trial(torch.zeros(batch_size, input_channels(network), *size), **options)
            if training:
                sum(each.float().sum() for each in (outputs if options else [outputs])).backward()
    except Exception as error:  # networks and torch's operations may raise anything
        return error
    return None

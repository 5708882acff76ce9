"""A trial pass through a network before training, with a clear error if it cannot be trained."""

import copy
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import nn

from segstudy.errors import ConfigError, first_line
from segstudy.inspection.memory import out_of_memory
from segstudy.networks.normalize import input_channels


def check_trains(
    network: nn.Module, batch_size: int, size: tuple[int, int], device: torch.device, precision: AbstractContextManager
) -> None:
    """Raise ConfigError if the network cannot be trained with batches of this size; it names a size that works.

    precision: context of the forward pass. Tried first on a copy without values (torch's meta device), which uses no
    memory; a network that fails there may only need values, so it is tried again on the device. It is not changed.
    """
    with _random_state_kept(device):
        if _failure(network, batch_size, size, torch.device("meta")) is None:
            return
        with precision:
            error = _failure(network, batch_size, size, device)
        if error is None or out_of_memory(error):  # training itself explains full memory
            return
        others = [(batch_size, (size[0] * n, size[1] * n)) for n in (2, 4, 8)] + [(2, size)] * (batch_size == 1)
        works = next((other for other in others if _failure(network, *other, torch.device("meta")) is None), None)
    name = type(network.model if isinstance(getattr(network, "model", None), nn.Module) else network).__name__
    settings = "data.batch_size={} data.size=[{}, {}]"
    raise ConfigError(
        f"the network {name} cannot be trained with {settings.format(batch_size, *size)}: {first_line(error)}\n"
        f"  → {settings.format(works[0], *works[1]) if works else 'choose another data.size, or another network'}"
    ) from error


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Inside, what a network draws (from torch, NumPy or Python) changes no random state outside."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _failure(network: nn.Module, batch_size: int, size: tuple[int, int], device: torch.device) -> Exception | None:
    """The error of a forward and a backward pass of a copy, in training mode on this device; None if there is none."""
    try:
        trial = copy.deepcopy(network)
    except Exception:  # a network that cannot be copied is not tried
        return None
    try:
        trial.to(device).train()
        with torch.device(device):
            trial(torch.zeros(batch_size, input_channels(network), *size)).float().sum().backward()
    except Exception as error:  # networks and torch's operations may raise anything
        return error
    return None

"""One pass through a network before training: what it cannot take is said in one line."""

import copy
from contextlib import AbstractContextManager

import torch
from torch import nn

from segstudy.errors import ConfigError, first_line
from segstudy.inspection.memory import out_of_memory


def check_trains(
    network: nn.Module, batch_size: int, size: tuple[int, int], device: torch.device, precision: AbstractContextManager
) -> None:
    """Raise ConfigError if the network cannot be trained with batches of this size, and say which size it can take.

    precision: the context of the forward pass. Tried on a copy without values (torch's meta device), which takes no
    memory; what fails there may only need values, and is tried again on the device. The network is left as it is.
    """
    if _failure(network, batch_size, size, torch.device("meta")) is None:
        return
    with precision, torch.random.fork_rng([device] if device.type == "cuda" else []):
        error = _failure(network, batch_size, size, device)
    if error is None or out_of_memory(error):  # full memory is explained where it happens
        return
    others = [(batch_size, (size[0] * n, size[1] * n)) for n in (2, 4, 8)] + [(2, size)] * (batch_size == 1)
    works = next((other for other in others if _failure(network, *other, torch.device("meta")) is None), None)
    name = type(network.model if isinstance(getattr(network, "model", None), nn.Module) else network).__name__
    way = "data.batch_size={} data.size=[{}, {}]"
    raise ConfigError(
        f"the network {name} cannot be trained with {way.format(batch_size, *size)}: {first_line(error)}\n"
        f"  → {way.format(works[0], *works[1]) if works else 'another data.size, or another network'}"
    ) from error


def _failure(network: nn.Module, batch_size: int, size: tuple[int, int], device: torch.device) -> Exception | None:
    """The error of a forward and a backward pass in training mode, of a copy on this device."""
    try:
        trial = copy.deepcopy(network)
    except Exception:  # what cannot be copied is not tried
        return None
    try:
        trial.to(device).train()
        with torch.device(device):
            trial(torch.zeros(batch_size, 3, *size)).float().sum().backward()
    except Exception as error:  # networks fail in any way, torch's operations too
        return error
    return None

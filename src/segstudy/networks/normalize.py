"""The first layer of a network: normalises an image in 0…1 as the encoder's weights expect."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = ("mean", "std")


def of_channels(values: Sequence[float], channels: int) -> list[float]:
    """Mean or std of RGB for images with other channels, as `adapt_channels` treats the weights of the three colours.

    One channel: the average; more than three: repeated in turn.
    """
    if len(values) == channels:
        return list(values)
    return [sum(values) / len(values)] if channels == 1 else [values[c % len(values)] for c in range(channels)]


class Normalize(nn.Module):
    """(image − mean) / std of each channel; image float (B,C,H,W) in 0…1. The defaults are ImageNet's.

    For your own network: `nn.Sequential(Normalize(), network)`. persistent: save mean and std with the weights. A file
    of weights without them (of an older version) leaves both unchanged.

    They move with the module as buffers do, but are not buffers while a network trains: averaging the weights (EMA)
    averages buffers too, and rounding would change them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, persistent: bool = True
    ):
        super().__init__()
        self.persistent = persistent
        # (C,1,1), not (1,C,1,1): Module.to(memory_format=…) leaves tensors of three dimensions alone.
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        for held, values in ((self.mean, mean), (self.std, std)):
            held.copy_(torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def values(self) -> dict[str, list[float]]:
        """{"mean": …, "std": …} as the shortest decimals that give the same float32."""
        return {name: [float(str(v)) for v in getattr(self, name).cpu().numpy().ravel()] for name in NAMES}

    def hold_as_buffers(self) -> None:
        """Make both buffers, after training: so an exported file can move them to a GPU."""
        for name in NAMES:
            values = getattr(self, name)
            if name not in self._buffers:
                delattr(self, name)
                self.register_buffer(name, values, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Normalize":
        super()._apply(fn, recurse)
        for name in NAMES:
            if name not in self._buffers:
                setattr(self, name, fn(getattr(self, name)))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.persistent:
            destination |= {prefix + name: getattr(self, name) for name in NAMES}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in NAMES:
            if self.persistent and prefix + name in state_dict:
                with torch.no_grad():
                    getattr(self, name).copy_(state_dict[prefix + name])


def normalize_of(network: nn.Module) -> Normalize | None:
    """The layer that normalises a network's image; None if there is none."""
    return next((part for part in network.modules() if isinstance(part, Normalize)), None)


def input_channels(network: nn.Module) -> int:
    """The number of channels of a network's image: those of its `Normalize`, else its `in_channels`, else 3."""
    normalize = normalize_of(network)
    return getattr(network, "in_channels", 3) if normalize is None else normalize.mean.numel()


def normalization_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict entries of all `Normalize` layers: files of an older version lack them."""
    paths = {path: part for path, part in network.named_modules() if isinstance(part, Normalize)}
    return {f"{path}.{name}": held for path, part in paths.items() for name, held in part.state_dict().items()}


def normalize_before(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Normalise a network's input, without changing the names of its weights."""
    network.add_module("normalize_before", Normalize(mean, std, persistent=False))
    network.register_forward_pre_hook(lambda module, given: (module.normalize_before(given[0]), *given[1:]))

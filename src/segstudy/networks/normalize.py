"""The first step of a network: an image in 0…1 is normalised as the encoder's weights expect."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """(image − mean) / std of each channel; image float (B,3,H,W) in 0…1. The defaults are ImageNet's.

    For a network of your own: `nn.Sequential(Normalize(), network)`. Weights saved without `mean` and `std`, as before
    networks held them, leave both as they are. persistent: both are saved with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, persistent: bool = True
    ):
        super().__init__()
        # (3,1,1), not (1,3,1,1): Module.to(memory_format=…) leaves tensors of three dimensions alone.
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take other values."""
        for held, values in ((self.mean, mean), (self.std, std)):
            held.copy_(torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def values(self) -> dict[str, list[float]]:
        """{"mean": …, "std": …} in the shortest decimals that give the same float32."""
        return {name: [float(str(v)) for v in held.cpu().numpy().ravel()] for name, held in self.named_buffers()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name, held in self.state_dict().items():
            state_dict.setdefault(prefix + name, held)
        super()._load_from_state_dict(state_dict, prefix, *others)


def normalize_of(network: nn.Module) -> Normalize | None:
    """The layer that normalises a network's image; None where it takes the image as it is."""
    return next((part for part in network.modules() if isinstance(part, Normalize)), None)


def normalization_state(network: nn.Module) -> dict[str, Tensor]:
    """The entries of a state dict that a file from before networks normalised does not have."""
    paths = {path: part for path, part in network.named_modules() if isinstance(part, Normalize)}
    return {f"{path}.{name}": held for path, part in paths.items() for name, held in part.state_dict().items()}


def normalize_before(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Normalise what a network is given, without a change of its weights' names."""
    network.add_module("normalize_before", Normalize(mean, std, persistent=False))
    network.register_forward_pre_hook(lambda module, given: (module.normalize_before(given[0]), *given[1:]))

"""The layers of a network with shapes, parameters and FLOP, and its feature maps with their skips.

Measured on a copy without values (torch's meta device); the network itself is not changed.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segstudy.errors import ConfigError
from segstudy.networks.normalize import input_channels

PUBLISHED = {"v1": (2_686_613, 27.4), "v2": (2_686_613, 27.4), "v3": (4_917_909, 28.5), "v4": (33_012_949, 14.2)}
"""The study's networks with 21 classes: parameters, and GFLOP of one image of 256×256."""


@dataclass(frozen=True)
class Layer:
    """A module with all that is in it.

    shape: of its output (of several maps, the last), None if it did not run or returns no tensors.
    flop: for one image; a multiplication and an addition are 2.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    parameters: int
    flop: int

    @property
    def depth(self) -> int:
        """0 for the network itself, 1 for its parts."""
        return self.name.count(".") + 1 if self.name else 0


def describe(network: nn.Module, height: int, width: int) -> list[Layer]:
    """Every module of a network, outer before inner, for one image of this size; the first is the network itself.

    FLOP are counted by torch's `FlopCounterMode`: convolutions (also transposed), linear layers, matrix products and
    attention, a multiplication and an addition as 2. Sums, normalisation and activations are not counted.
    """
    network = _on_meta(network)
    shapes: dict[str, tuple[int, ...] | None] = {}

    def note_shape(name: str, output: Any) -> None:
        shapes[name] = next((tuple(t.shape[1:]) for t in reversed(tensors_in(output))), None)

    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: note_shape(name, output))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.device("meta"):
        network(torch.zeros(1, input_channels(network), height, width))
    counted = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    # names as in the counter: they begin with the class of the network; a module with several names has the last one
    names = {m: f"{type(network).__name__}.{n}".strip(".") for n, m in network.named_modules(remove_duplicate=False)}

    def flop(module: nn.Module) -> int:  # a list of modules is never called: its FLOP are the sum over its members
        return counted.get(names[module]) or sum(map(flop, module.children()))

    return [
        Layer(name, type(m).__name__, shapes.get(name), sum(p.numel() for p in m.parameters()), flop(m))
        for name, m in network.named_modules()
    ]


@dataclass(frozen=True)
class Stage:
    """A feature map of the network. part: image, encoder, bridge, decoder or logits."""

    part: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Architecture:
    """Feature maps in the order of computation. skips: (index of the encoder's map, index of the decoder's map)."""

    stages: list[Stage]
    skips: list[tuple[int, int]]


def gflop(network: nn.Module, size: tuple[int, int]) -> float | None:
    """GFLOP for one image (height, width), as counted by `describe`; None for a network that needs values to run."""
    try:
        return describe(network, *size)[0].flop / 1e9
    except Exception:  # without values, a user's network may raise anything, and still be trainable
        return None


def parts(network: nn.Module) -> dict[str, nn.Module]:
    """{name: module} of encoder, decoder and, if there is one, bridge.

    Raises ConfigError for a network without encoder or decoder.
    """
    owner = encoder_decoder(network)
    found = {"encoder": getattr(owner, "encoder", None), "decoder": getattr(owner, "decoder", None)}
    missing = [name for name, part in found.items() if not isinstance(part, nn.Module)]
    if missing:
        names = ", ".join(name for name, _ in owner.named_children()) or "nothing"
        raise ConfigError(
            f"{type(network).__name__} has no part called {' or '.join(missing)}, found {names}\n"
            "  → only networks with an encoder and a decoder can be drawn: leave out --out"
        )
    bridge = getattr(owner, "bridge", None)
    if isinstance(bridge, nn.Module) and not isinstance(bridge, nn.Identity):
        found["bridge"] = bridge
    return found  # type: ignore[return-value]


def encoder_decoder(network: nn.Module) -> nn.Module:
    """The module that has the encoder and the decoder: the network, or its `model` (for network=smp)."""
    model = getattr(network, "model", None)
    return model if isinstance(model, nn.Module) else network


def trace_architecture(network: nn.Module, height: int, width: int) -> Architecture:
    """The feature maps of an encoder-decoder for one image (channels,height,width), and its skips.

    Of the decoder: its last map at each resolution. A skip is a map of the encoder with respect to which the decoder's
    output has a gradient. Raises ConfigError for a network without encoder or decoder.
    """
    network = _on_meta(network)
    found = parts(network)
    made: dict[str, list[Tensor]] = {"bridge": []}

    def note(part: str, maps: list[Tensor]) -> None:
        made[part] = made.get(part, []) + maps

    def isolate(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        made["given"] = [t.detach().requires_grad_() for t in tensors_in(given)]
        return ([*made["given"]],) if isinstance(given[0], list | tuple) else tuple(made["given"])

    found["decoder"].register_forward_pre_hook(isolate)
    for part, module in found.items():
        module.register_forward_hook(lambda _, __, output, part=part: note(part, tensors_in(output)))
    for step in _decoder_steps(found["decoder"]):
        step.register_forward_hook(lambda _, __, output: note("steps", feature_maps_in(tensors_in(output))))
    with torch.device("meta"):
        image = torch.zeros(1, input_channels(network), height, width)
        logits = network(image)
    used = torch.autograd.grad([t.sum() for t in made["decoder"]], made["given"], allow_unused=True)
    read = {given.shape[1:] for given, gradient in zip(made["given"], used, strict=True) if gradient is not None}
    maps = feature_maps_in(made["encoder"], image.shape[1])
    by_height = {m.shape[2]: m for m in feature_maps_in(made["decoder"]) + made.get("steps", [])}
    up = [by_height[rows] for rows in sorted(by_height)]
    drawn = [("image", image), *(("encoder", m) for m in maps), *(("bridge", m) for m in made["bridge"])]
    first = len(drawn)
    drawn += [*(("decoder", m) for m in up), ("logits", logits)]
    skips = [
        (1 + i, first + next(k for k, u in enumerate(up) if u.shape[2] >= m.shape[2]))
        for i, m in enumerate(maps[:-1])
        if m.shape[1:] in read and m.shape[2] <= up[-1].shape[2]
    ]
    return Architecture([Stage(part, *m.shape[1:]) for part, m in drawn], skips)


def _decoder_steps(decoder: nn.Module) -> list[nn.Module]:
    """The parts of a decoder: its direct children, and the members of its lists."""
    body = getattr(decoder, "body", decoder)
    lists = (nn.ModuleList, nn.ModuleDict)
    steps = [m for child in body.children() for m in (child.children() if isinstance(child, lists) else [child])]
    return [m for m in steps if not isinstance(m, nn.Identity)]


def feature_maps_in(tensors: Iterable[Tensor], image: int = 3) -> list[Tensor]:
    """The tensors that are feature maps: (B,C,H,W) with C > 0, and not the image, which has `image` channels.

    smp's encoders return the image first, and a map without channels at a stride that they skip.
    """
    return [t for i, t in enumerate(tensors) if t.dim() == 4 and t.shape[1] not in ((0, image) if i == 0 else (0,))]


def tensors_in(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for item in output for t in tensors_in(item)] if isinstance(output, list | tuple) else []


def _on_meta(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have shapes but no values."""
    return copy.deepcopy(network).to("meta").eval()

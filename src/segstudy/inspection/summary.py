"""A network's layers with shapes, parameters and FLOP, and its feature maps with their skips.

Counted on a copy without values (torch's meta device); the network itself is left as it is.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segstudy.errors import ConfigError

PUBLISHED = {
    "v1": (2_686_613, 27.4),
    "v2": (2_686_613, 27.4),
    "v3": (4_917_909, 28.5),
    "v4": (33_012_949, 14.2),
}
"""The study's networks with 21 classes: parameters, and GFLOP of one image of 256×256."""


@dataclass(frozen=True)
class Layer:
    """A module and what is in it. `shape` is its output's (the last one's of several maps), None if it did not run or
    does not return tensors; `flop` of one image, multiply and add counted apart."""

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
    """Every module of a network, outer before inner, for one image (3,height,width); the first is the whole.

    FLOP are torch's `FlopCounterMode`: convolutions, transposed ones, linear layers, matrix products and attention;
    one multiplication with its addition is 2. Sums, normalisation and activations are not counted.
    """
    network = _on_meta(network)
    names = {module: name for name, module in network.named_modules()}
    flop: dict[nn.Module, int] = {}
    shapes: dict[nn.Module, tuple[int, ...] | None] = {}
    counter, totals = FlopCounterMode(display=False), []

    def before(module: nn.Module, _: Any) -> None:
        totals.append(counter.get_total_flops())

    def after(module: nn.Module, _: Any, output: Any) -> None:
        flop[module] = flop.get(module, 0) + counter.get_total_flops() - totals.pop()
        shapes[module] = next((tuple(t.shape[1:]) for t in reversed(tensors_in(output))), None)

    for module in names:
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
    with counter, torch.no_grad(), torch.device("meta"):
        network(torch.zeros(1, 3, height, width))
    for module in reversed(list(names)):  # a list of modules is never called: its FLOP are those of its members
        if module not in flop:
            flop[module] = sum(flop[child] for child in set(module.children()))
    return [
        Layer(name, type(m).__name__, shapes.get(m), sum(p.numel() for p in m.parameters()), flop[m])
        for m, name in names.items()
    ]


@dataclass(frozen=True)
class Stage:
    """A feature map on the way through the network: `part` is image, encoder, bridge, decoder or logits."""

    part: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Architecture:
    """Feature maps in the order in which they are computed; skips: positions (of the encoder's, of the decoder's)."""

    stages: list[Stage]
    skips: list[tuple[int, int]]


def gflop(network: nn.Module, size: tuple[int, int]) -> float | None:
    """GFLOP of one image (height, width), as `describe` counts them; None for a network that needs values to run."""
    try:
        return describe(network, *size)[0].flop / 1e9
    except Exception:  # without values a network of one's own may fail in any way, and train nevertheless
        return None


def parts(network: nn.Module) -> dict[str, nn.Module]:
    """Encoder, decoder and, where there is one, bridge, by their names.

    Raises ConfigError for a network without an encoder and a decoder.
    """
    owner = encoder_decoder(network)
    found = {"encoder": getattr(owner, "encoder", None), "decoder": getattr(owner, "decoder", None)}
    missing = [name for name, part in found.items() if not isinstance(part, nn.Module)]
    if missing:
        names = ", ".join(name for name, _ in owner.named_children()) or "nothing"
        raise ConfigError(
            f"{type(network).__name__} has no part called {' or '.join(missing)}, found {names}\n"
            "  → only networks of an encoder and a decoder are drawn: leave out --out"
        )
    bridge = getattr(owner, "bridge", None)
    if isinstance(bridge, nn.Module) and not isinstance(bridge, nn.Identity):
        found["bridge"] = bridge
    return found  # type: ignore[return-value]


def encoder_decoder(network: nn.Module) -> nn.Module:
    """The module that has the encoder and the decoder: network=smp holds the library's network."""
    model = getattr(network, "model", None)
    return model if isinstance(model, nn.Module) else network


def trace_architecture(network: nn.Module, height: int, width: int) -> Architecture:
    """The maps of an encoder-decoder for one image (3,height,width), and which of them skip to the decoder.

    The decoder is shown by its last map at each resolution. A skip is a map of the encoder to which the decoder's
    output has a gradient. Raises ConfigError for a network of other parts.
    """
    network = _on_meta(network)
    encoder, decoder = parts(network)["encoder"], parts(network)["decoder"]
    bridge = parts(network).get("bridge")
    made: dict[str, list[Tensor]] = {"encoder": [], "bridge": [], "decoder": [], "given": [], "result": []}

    def isolate(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        made["given"] = [t.detach().requires_grad_() for t in tensors_in(given)]
        return ([*made["given"]],) if isinstance(given[0], list | tuple) else tuple(made["given"])

    encoder.register_forward_hook(lambda _, __, out: made.update(encoder=tensors_in(out)))
    decoder.register_forward_pre_hook(isolate)
    decoder.register_forward_hook(lambda _, __, out: made.update(result=tensors_in(out)))
    if bridge is not None:
        bridge.register_forward_hook(lambda _, __, out: made.update(bridge=tensors_in(out)))
    for step in _decoder_steps(decoder):
        step.register_forward_hook(lambda _, __, out: made["decoder"].extend(feature_maps_in(tensors_in(out))))
    with torch.device("meta"):
        image = torch.zeros(1, 3, height, width)
        logits = network(image)
    used = torch.autograd.grad([t.sum() for t in made["result"]], made["given"], allow_unused=True)
    feeding = {given.shape[1:] for given, g in zip(made["given"], used, strict=True) if g is not None}
    maps = feature_maps_in(made["encoder"])
    climb = {m.shape[2]: m for m in made["decoder"] + _result_if_new(made)}
    up = [climb[h] for h in sorted(climb)]
    stages = [_stage("image", image), *(_stage("encoder", m) for m in maps)]
    stages += [*(_stage("bridge", m) for m in made["bridge"]), *(_stage("decoder", m) for m in up)]
    first = len(stages) - len(up)
    skips = [
        (1 + i, first + next(k for k, u in enumerate(up) if u.shape[2] >= m.shape[2]))
        for i, m in enumerate(maps[:-1])
        if m.shape[1:] in feeding and m.shape[2] <= up[-1].shape[2]
    ]
    return Architecture([*stages, _stage("logits", logits)], skips)


def _decoder_steps(decoder: nn.Module) -> list[nn.Module]:
    """A decoder's parts one by one: its direct children, and the members of its lists."""
    body = getattr(decoder, "body", None)
    found: list[nn.Module] = []
    for child in (body if isinstance(body, nn.Module) else decoder).children():
        found += list(child.children()) if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child]
        if isinstance(child, nn.ModuleDict):
            found += list(child.values())
    return [m for m in dict.fromkeys(found) if not isinstance(m, nn.Identity)]


def _result_if_new(made: dict[str, list[Tensor]]) -> list[Tensor]:
    """The decoder's result where none of its parts has made a map of that size (a sum after them, a reshape)."""
    heights = {m.shape[2] for m in made["decoder"]}
    return [m for m in feature_maps_in(made["result"]) if m.shape[2] not in heights]


def _stage(part: str, feature: Tensor) -> Stage:
    return Stage(part, *feature.shape[1:])


def feature_maps_in(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that are feature maps: (B,C,H,W) with channels. (The library's encoders list the image itself first, and
    a map without channels at a stride that they skip.)"""
    return [t for i, t in enumerate(tensors) if t.dim() == 4 and t.shape[1] > (3 if i == 0 else 0)]


def tensors_in(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for item in output for t in tensors_in(item)] if isinstance(output, list | tuple) else []


def _on_meta(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have a shape, but no values."""
    return copy.deepcopy(network).to("meta").eval()

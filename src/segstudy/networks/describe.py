"""What a network is made of: layers with shapes, parameters and FLOP, receptive fields, and the shape of its U.

Counted on a copy without values (torch's meta device); the network itself is left as it is.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
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
    network = _shadow(network)
    names = {module: name for name, module in network.named_modules()}
    flop: dict[nn.Module, int] = {}
    shapes: dict[nn.Module, tuple[int, ...] | None] = {}
    counter, begun = FlopCounterMode(display=False), []

    def before(module: nn.Module, _: Any) -> None:
        begun.append(counter.get_total_flops())

    def after(module: nn.Module, _: Any, output: Any) -> None:
        flop[module] = flop.get(module, 0) + counter.get_total_flops() - begun.pop()
        shapes[module] = next((tuple(t.shape[1:]) for t in reversed(_tensors(output))), None)

    for module in names:
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
    with counter, torch.no_grad(), torch.device("meta"):
        network(torch.zeros(1, 3, height, width))
    for module in reversed(list(names)):  # a list of modules is never called: it holds what its members hold
        if module not in flop:
            flop[module] = sum(flop[child] for child in set(module.children()))
    return [
        Layer(name, type(m).__name__, shapes.get(m), sum(p.numel() for p in m.parameters()), flop[m])
        for m, name in names.items()
    ]


# The U


@dataclass(frozen=True)
class Stage:
    """A feature map on the way through the network: `part` is image, encoder, bridge, decoder or logits."""

    part: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Shape:
    """The maps in the order of their making, and the pairs (encoder's, decoder's) of positions that a skip joins."""

    stages: list[Stage]
    skips: list[tuple[int, int]]


def gflop(network: nn.Module, size: tuple[int, int]) -> float | None:
    """GFLOP of one image (height, width), as `describe` counts them; None for a network that needs values to run."""
    try:
        return describe(network, *size)[0].flop / 1e9
    except Exception:  # without values a network of one's own may fail in any way, and train nevertheless
        return None


def parts(network: nn.Module) -> dict[str, nn.Module]:
    """Encoder, bridge (where there is one), decoder and head of a network of sockets, or of the library's.

    Raises ConfigError for a network without an encoder and a decoder.
    """
    home = _home(network)
    found = {"encoder": getattr(home, "encoder", None), "decoder": getattr(home, "decoder", None)}
    missing = [name for name, part in found.items() if not isinstance(part, nn.Module)]
    if missing:
        names = ", ".join(name for name, _ in home.named_children()) or "nothing"
        raise ConfigError(
            f"{type(network).__name__} has no part called {' or '.join(missing)}, found {names}\n"
            "  → only networks of an encoder and a decoder are drawn: leave out --out"
        )
    bridge = getattr(home, "bridge", None)
    if isinstance(bridge, nn.Module) and not isinstance(bridge, nn.Identity):
        found["bridge"] = bridge
    return found  # type: ignore[return-value]


def _home(network: nn.Module) -> nn.Module:
    """The module that has the encoder and the decoder: network=smp holds the library's network."""
    model = getattr(network, "model", None)
    return model if isinstance(model, nn.Module) else network


def shape(network: nn.Module, height: int, width: int) -> Shape:
    """The maps of an encoder-decoder for one image (3,height,width), and which of them skip to the decoder.

    The decoder is shown by the last map that it makes at each resolution. A skip is what the decoder's output has a
    gradient to. Raises ConfigError for a network of other parts.
    """
    network = _shadow(network)
    encoder, decoder = parts(network)["encoder"], parts(network)["decoder"]
    bridge = parts(network).get("bridge")
    made: dict[str, list[Tensor]] = {"encoder": [], "bridge": [], "decoder": [], "given": [], "result": []}

    def isolate(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        made["given"] = [t.detach().requires_grad_() for t in _tensors(given)]
        return ([*made["given"]],) if isinstance(given[0], list | tuple) else tuple(made["given"])

    encoder.register_forward_hook(lambda _, __, out: made.update(encoder=_tensors(out)))
    decoder.register_forward_pre_hook(isolate)
    decoder.register_forward_hook(lambda _, __, out: made.update(result=_tensors(out)))
    if bridge is not None:
        bridge.register_forward_hook(lambda _, __, out: made.update(bridge=_tensors(out)))
    for step in _steps(decoder):
        step.register_forward_hook(lambda _, __, out: made["decoder"].extend(_maps(_tensors(out))))
    with torch.device("meta"):
        image = torch.zeros(1, 3, height, width)
        logits = network(image)
    used = torch.autograd.grad([t.sum() for t in made["result"]], made["given"], allow_unused=True)
    feeding = {given.shape[1:] for given, g in zip(made["given"], used, strict=True) if g is not None}
    maps = _maps(made["encoder"])
    climb = {m.shape[2]: m for m in made["decoder"] + _last_if_new(made)}
    up = [climb[h] for h in sorted(climb)]
    stages = [_stage("image", image), *(_stage("encoder", m) for m in maps)]
    stages += [*(_stage("bridge", m) for m in made["bridge"]), *(_stage("decoder", m) for m in up)]
    first = len(stages) - len(up)
    skips = [
        (1 + i, first + next(k for k, u in enumerate(up) if u.shape[2] >= m.shape[2]))
        for i, m in enumerate(maps[:-1])
        if m.shape[1:] in feeding and m.shape[2] <= up[-1].shape[2]
    ]
    return Shape([*stages, _stage("logits", logits)], skips)


def _steps(decoder: nn.Module) -> list[nn.Module]:
    """A decoder's parts one by one: its direct children, and the members of its lists."""
    body = getattr(decoder, "body", None)
    found: list[nn.Module] = []
    for child in (body if isinstance(body, nn.Module) else decoder).children():
        found += list(child.children()) if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child]
        if isinstance(child, nn.ModuleDict):
            found += list(child.values())
    return [m for m in dict.fromkeys(found) if not isinstance(m, nn.Identity)]


def _last_if_new(made: dict[str, list[Tensor]]) -> list[Tensor]:
    """The decoder's result where none of its parts has made a map of that size (a sum after them, a reshape)."""
    heights = {m.shape[2] for m in made["decoder"]}
    return [m for m in _maps(made["result"]) if m.shape[2] not in heights]


def _stage(part: str, feature: Tensor) -> Stage:
    return Stage(part, *feature.shape[1:])


def _maps(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that are feature maps: (B,C,H,W) with channels. (The library's encoders list the image itself first, and
    a map without channels at a stride that they skip.)"""
    return [t for i, t in enumerate(tensors) if t.dim() == 4 and t.shape[1] > (3 if i == 0 else 0)]


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for item in output for t in _tensors(item)] if isinstance(output, list | tuple) else []


def _shadow(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have a shape, but no values."""
    return copy.deepcopy(network).to("meta").eval()


# Receptive fields

HEIGHTS = (512, 2048)
"""Rows of the strips on which receptive fields are measured; the second where the first is too small."""


@dataclass(frozen=True)
class Field:
    """How many rows of the image a value of a map can depend on: `extent`, None where no strip was large enough.

    `local` is the same with global pooling left out; it equals `extent` where there is none. `stride`: image rows a
    row of the map. `rows`: of the largest image that it was measured on.
    """

    name: str
    channels: int
    stride: int
    extent: int | None
    local: int | None
    rows: int = HEIGHTS[-1]

    def text(self) -> str:
        """`extent` in words."""
        if self.extent is not None:
            return f"{self.extent} px"
        return "whole image" if self.local is not None else f"{self.rows} px or more"


def receptive_fields(network: nn.Module, size: tuple[int, int] | None = None, maps: bool = True) -> list[Field]:
    """The theoretical receptive fields of the encoder's maps (if `maps`) and of the logits, at the middle of the image.

    size: (height, width) that the network was made for: of one that takes no other, the field is measured on that.

    Measured, not derived: the rows of a long strip to which the middle value has a gradient in float64, in a copy
    whose convolutions average, whose activations and normalisation let everything pass, and whose max pooling is a
    mean. So no weight, sign or dead unit hides a path. Under upsampling, other pixels may differ from the middle one by
    up to the deepest stride. Batch statistics, which join the whole image in training, are not counted.
    """
    network = copy.deepcopy(network).double().eval().requires_grad_(False)
    stride = getattr(network, "stride", 32)
    found: list[Field] = []
    try:
        for height in HEIGHTS:
            found = _fields(network, height, stride, maps)
            if all(field.local is not None for field in found):
                break
    except Exception:  # a network that takes one size only refuses the strips, each in its own words
        if size is None:
            raise
        found = _fields(network, *size, maps)
    return found


def _fields(network: nn.Module, height: int, width: int, maps: bool) -> list[Field]:
    """The fields as an image of this size shows them."""
    whole, pools = _extents(network, height, width, maps, local=False)
    cut = pools and any(extent is None for _, _, extent in whole.values())
    local = _extents(network, height, width, maps, local=True)[0] if cut else whole
    return [Field(n, c, s, e, local[n][2] if e is None else e, height) for n, (c, s, e) in whole.items()]


def effective_receptive_field(network: nn.Module, image: Tensor) -> Tensor:
    """How much each pixel of the image moves the middle of the output: mean absolute gradient over a batch, (H,W).

    network: image (B,3,H,W) → logits, in evaluation mode; it is left as it is. What is derived is the predicted class's
    logit against the mean of all classes: adding the same to every logit changes no label. The maps of several batches
    may be added. Computed in the image's precision, within inference mode too. Source: Luo et al. 2016.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        image = image.detach().clone().requires_grad_()
        logits = network(image)
        middle = logits[:, :, logits.shape[2] // 2, logits.shape[3] // 2]
        predicted = middle.amax(1)
        target = predicted - middle.mean(1) if middle.shape[1] > 1 else predicted
        (gradient,) = torch.autograd.grad(target.sum(), image)
    return gradient.abs().sum(1).float().mean(0)


def field_side(gradient: Tensor, share: float = 0.95) -> float:
    """Side of the square with as many pixels as hold `share` of a map's sum, the strongest first; NaN if all are 0.

    Global pooling spreads a little over the whole image, so this can be far larger than the bright spot of the map.
    """
    held = gradient.flatten().double().sort(descending=True).values.cumsum(0)
    if held[-1] == 0:
        return float("nan")
    return float(((held < share * held[-1]).sum() + 1) ** 0.5)


def _extents(
    network: nn.Module, height: int, width: int, with_maps: bool, local: bool
) -> tuple[dict[str, tuple[int, int, int | None]], bool]:
    """(channels, stride, rows or None if they reach the strip's edges) of each encoder's map and of the logits; and
    whether anything is pooled over the whole image."""
    image = torch.ones(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    maps: list[Tensor] = []
    encoder, handles = getattr(_home(network), "encoder", None), []
    if with_maps and isinstance(encoder, nn.Module):
        handles.append(encoder.register_forward_hook(lambda _, __, out: maps.extend(_maps(_tensors(out)))))
    with _Transparent(local) as seen:
        logits = network(image)
    for handle in handles:
        handle.remove()
    targets = {f"encoder's map {i}": m for i, m in enumerate(maps, 1)} | {"logits": logits}
    found = {}
    for name, target in targets.items():
        middle = target[0, :, target.shape[2] // 2, target.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, image, retain_graph=True)
        rows = gradient[0].abs().sum((0, 2)).nonzero()[:, 0].tolist()
        inside = rows[0] > 0 and rows[-1] < height - 1
        found[name] = (target.shape[1], height // target.shape[2], rows[-1] - rows[0] + 1 if inside else None)
    return found, seen.pools


class _Transparent(TorchFunctionMode):
    """Within it, torch's functions pass every dependence on: see `receptive_fields`.

    local=True cuts the gradient of global pooling.
    """

    PASS = frozenset(
        {
            "relu", "relu_", "relu6", "elu", "elu_", "selu", "celu", "gelu", "silu", "silu_", "mish", "hardswish",
            "leaky_relu", "leaky_relu_", "prelu", "rrelu", "softplus", "hardtanh", "threshold", "clamp", "clamp_",
            "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
        }
    )  # fmt: skip
    GATES = frozenset({"sigmoid", "sigmoid_", "hardsigmoid", "tanh"})
    WEIGHTED = frozenset({"conv1d", "conv2d", "conv_transpose2d", "linear"})

    def __init__(self, local: bool):
        super().__init__()
        self.local, self.pools = local, False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = args[0] if args else kwargs.get("input")
        if name in self.PASS:
            return given
        if name in self.GATES:  # a gate's product would square the values at each; so its value is fixed
            return 0.5 + 1e-3 * (given - given.detach())  # type: ignore[union-attr]
        if name in self.WEIGHTED:
            weight = args[1] if len(args) > 1 else kwargs.pop("weight")
            inputs = weight.shape[0] if "transpose" in name else weight[0].numel()
            return func(given, torch.full_like(weight, 1 / inputs), *args[2:], **kwargs)
        if name == "max_pool2d":
            return _mean_pool(*args, **kwargs)
        pooled = func(*args, **kwargs)
        if isinstance(given, Tensor) and _is_global(name, given, pooled):
            self.pools = True
            return pooled.detach() if self.local else pooled
        return pooled


def _mean_pool(
    given: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Average pooling over the same rows and columns as a max pooling."""
    sizes, gaps = (v if isinstance(v, list | tuple) else (v, v) for v in (kernel_size, dilation))
    window = [d * (k - 1) + 1 for k, d in zip(sizes, gaps, strict=True)]
    return F.avg_pool2d(given, window, stride or kernel_size, padding, ceil_mode)


def _is_global(name: str, given: Tensor, result: Any) -> bool:
    """Whether a function pools maps (B,C,H,W) over the whole area."""
    if not isinstance(result, Tensor) or given.dim() != 4 or not result.is_floating_point():
        return False
    if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return True
    return name in ("mean", "amax") and (result.dim() == 2 or tuple(result.shape[2:]) == (1, 1))

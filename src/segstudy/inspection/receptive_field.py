"""Theoretical and effective receptive fields of a network, measured by gradients."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from segstudy.inspection.summary import encoder_decoder, feature_maps_in, tensors_in
from segstudy.networks.normalize import input_channels, normalize_of

HEIGHTS = (512, 2048)
"""Heights of the images on which receptive fields are measured; the second is used if the first is too small."""


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive field of a feature map.

    extent: number of image rows that a value can depend on; None if no image was large enough. local: the same without
    global pooling. stride: image rows per row of the map. rows: height of the largest image used.
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


def receptive_fields(
    network: nn.Module, size: tuple[int, int] | None = None, maps: bool = True
) -> list[ReceptiveField]:
    """The theoretical receptive fields of the encoder's maps (if `maps`) and of the logits, at the middle of the image.

    size: (height, width) that the network was made for; used if it accepts no other size.

    Measured, not derived: the image rows for which the middle value has a gradient, in float64, on a tall image. The
    network is a copy in which convolutions and max pooling take means, and activations and normalisation pass values
    unchanged, so that no weight, sign or dead unit hides a path. With upsampling, the field of other pixels may differ
    by up to the largest stride. Batch statistics, which connect the whole image in training, are not counted.
    """
    network = copy.deepcopy(network).double().eval().requires_grad_(False)
    stride = getattr(network, "stride", 32)
    fields: list[ReceptiveField] = []
    try:
        for height in HEIGHTS:
            fields = _fields(network, height, stride, maps)
            if all(field.local is not None for field in fields):
                break
    except Exception:  # a network for a single size may raise any type
        if size is None:
            raise
        fields = _fields(network, *size, maps)
    return fields


def effective_receptive_field(network: nn.Module, image: Tensor) -> Tensor:
    """Influence of each image pixel on the middle of the output: mean absolute gradient over a batch, (H,W).

    network: image (B,3,H,W) → logits, in evaluation mode; it is not changed. The gradient is that of the predicted
    class's logit minus the mean logit (a constant added to all logits changes no label), with respect to the image
    after `Normalize` if the network has it. Maps of several batches may be added. Computed in the precision of the
    image; works in inference mode too. Source: Luo et al. 2016.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        image = image.detach().clone().requires_grad_()
        inputs, normalize = [image], normalize_of(network)
        hook = normalize and normalize.register_forward_hook(lambda _, __, out: inputs.append(out))
        logits = network(image)
        if hook:
            hook.remove()
        middle = logits[:, :, logits.shape[2] // 2, logits.shape[3] // 2]
        predicted = middle.amax(1)
        target = predicted - middle.mean(1) if middle.shape[1] > 1 else predicted
        (gradient,) = torch.autograd.grad(target.sum(), inputs[-1])
    return gradient.abs().sum(1).float().mean(0)


def field_side(gradient: Tensor, share: float = 0.95) -> float:
    """√n, where the n strongest pixels have `share` of a map's sum: the side of a square of n pixels. NaN if all are 0.

    Global pooling spreads a little over the whole image, so this can be far larger than the bright spot of the map.
    """
    held = gradient.flatten().double().sort(descending=True).values.cumsum(0)
    if held[-1] == 0:
        return float("nan")
    return float(((held < share * held[-1]).sum() + 1) ** 0.5)


def _fields(network: nn.Module, height: int, width: int, with_maps: bool) -> list[ReceptiveField]:
    """The receptive fields of the encoder's maps and the logits, measured on an image of this size."""
    channels = input_channels(network)
    image = torch.ones(1, channels, height, width, dtype=torch.float64, requires_grad=True)
    maps: list[Tensor] = []
    encoder, handles = getattr(encoder_decoder(network), "encoder", None), []
    if with_maps and isinstance(encoder, nn.Module):
        hook = encoder.register_forward_hook(lambda _, __, out: maps.extend(feature_maps_in(tensors_in(out), channels)))
        handles.append(hook)
    with _Transparent() as mode:
        logits = network(image)
    for handle in handles:
        handle.remove()
    targets = {f"encoder's map {i}": m for i, m in enumerate(maps, 1)} | {"logits": logits}
    fields = []
    for name, target in targets.items():
        middle = target[0, :, target.shape[2] // 2, target.shape[3] // 2].sum()
        gradient, *pooled = torch.autograd.grad(middle, [image, *mode.pooled], retain_graph=True, allow_unused=True)
        rows = gradient[0].abs().sum((0, 2)).nonzero()[:, 0].tolist()
        local = rows[-1] - rows[0] + 1 if rows[0] > 0 and rows[-1] < height - 1 else None
        whole = any(each is not None and each.any() for each in pooled)
        stride = height // target.shape[2]
        fields.append(ReceptiveField(name, target.shape[1], stride, None if whole else local, local, height))
    return fields


class _Transparent(TorchFunctionMode):
    """Inside this context, torch's functions let all gradients pass: see `receptive_fields`.

    pooled: results of global pooling, which pass no gradient on: one that has a gradient sees the whole image.
    """

    PASS = frozenset(
        {
            "relu", "relu_", "relu6", "elu", "elu_", "selu", "celu", "gelu", "silu", "silu_", "mish", "hardswish",
            "leaky_relu", "leaky_relu_", "prelu", "rrelu", "softplus", "hardtanh", "threshold", "clamp", "clamp_",
            "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
        }
    )  # fmt: skip
    GATES = frozenset({"sigmoid", "sigmoid_", "hardsigmoid", "tanh"})
    WEIGHTED = frozenset({"conv1d", "conv_transpose2d", "linear"})

    def __init__(self) -> None:
        super().__init__()
        self.pooled: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = args[0] if args else kwargs.get("input")
        if name in self.PASS:
            return given
        if name in self.GATES:  # with a fixed value: multiplied by the gate, values would be squared each time
            return 0.5 + 1e-3 * (given - given.detach())  # type: ignore[union-attr]
        if name == "conv2d":
            return _mean_convolution(*args, **kwargs)
        if name in self.WEIGHTED:
            weight = args[1] if len(args) > 1 else kwargs.pop("weight")
            inputs = weight.shape[0] if "transpose" in name else weight[0].numel()
            return func(given, torch.full_like(weight, 1 / inputs), *args[2:], **kwargs)
        if name == "max_pool2d":
            return _mean_pool(*args, **kwargs)
        result = func(*args, **kwargs)
        if isinstance(given, Tensor) and _is_global(name, given, result):
            result = result.detach().requires_grad_()
            self.pooled.append(result)
        return result


def _mean_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution whose weights are all equal and take means: of the channels of each group, then of the pixels.

    All output channels of a group are equal, so that one convolution of a single channel is enough.
    """
    means = input.unflatten(1, (groups, -1)).mean(2)
    kernel = torch.full_like(weight[:1, :1], 1 / weight[0, 0].numel())
    result = F.conv2d(means.flatten(0, 1)[:, None], kernel, None, stride, padding, dilation)
    repeated = result.expand(-1, len(weight) // groups, -1, -1).contiguous()  # the network may write into it
    return repeated.unflatten(0, (len(input), groups)).flatten(1, 2)


def _mean_pool(
    given: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Average pooling over the same rows and columns as max pooling with these arguments."""
    sizes, gaps = (v if isinstance(v, list | tuple) else (v, v) for v in (kernel_size, dilation))
    window = [d * (k - 1) + 1 for k, d in zip(sizes, gaps, strict=True)]
    return F.avg_pool2d(given, window, stride or kernel_size, padding, ceil_mode)


def _is_global(name: str, given: Tensor, result: Any) -> bool:
    """Whether a function has pooled maps (B,C,H,W) over their whole area."""
    if not isinstance(result, Tensor) or given.dim() != 4 or not result.is_floating_point():
        return False
    if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return True
    return name in ("mean", "amax") and (result.dim() == 2 or tuple(result.shape[2:]) == (1, 1))

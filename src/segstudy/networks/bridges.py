"""Bridges: modules on the deepest feature map. Each has its number of output `channels`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.ranges import Fraction, Layers, Rates, Width, checked


class NoBridge(nn.Identity):
    """Passes the deepest map to the decoder unchanged."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.channels = in_channels


@checked
class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1×1, a dilated 3×3 for each rate, and a global average, fused by a 1×1.

    channels: of each branch and of the output; None: as many as the input has, at most 512 (with the 1280 of some
    encoders, the 3×3 branches alone would have 44 million weights). Source: Chen et al. 2017 (DeepLabv3), section 3.3.
    """

    def __init__(
        self, in_channels: int, channels: Width | None = None, rates: Rates = (2, 4, 8), dropout: Fraction = 0.5
    ):
        super().__init__()
        self.channels = channels or min(in_channels, 512)
        self.branches = nn.ModuleList([_conv(in_channels, self.channels, 1)])
        self.branches.extend(_conv(in_channels, self.channels, 3, rate) for rate in rates)
        self.pooled = _conv(in_channels, self.channels, 1)
        self.fuse = nn.Sequential(*_conv(self.channels * (len(rates) + 2), self.channels, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.fuse(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))


@checked
class PlainBridge(nn.Module):
    """`layers` 3×3 convolutions of `channels`: a control for whether a bridge helps only by more parameters."""

    def __init__(self, in_channels: int, channels: Width | None = None, layers: Layers = 2):
        super().__init__()
        self.channels = channels or in_channels
        inputs = [in_channels] + [self.channels] * (layers - 1)
        self.body = nn.Sequential(*(_conv(each, self.channels, 3) for each in inputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _OneValueNorm(nn.BatchNorm2d):
    """Batch normalisation that uses the running statistics if each channel has a single value.

    One image after global pooling has no variance; there torch would raise, in the middle of an epoch.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False),
        _OneValueNorm(outputs),
        nn.ReLU(inplace=True),
    )

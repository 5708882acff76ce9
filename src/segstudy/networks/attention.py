"""Attention on a feature map (B,C,H,W) → (B,C,H,W): channels and positions are multiplied by weights in 0…1."""

from typing import Literal

import torch
from segmentation_models_pytorch.base.modules import SCSEModule
from torch import Tensor, nn


class CBAM(nn.Module):
    """Channel attention, then spatial attention, each from the means and maxima of the map.

    Source: Woo et al. 2018, "CBAM: Convolutional Block Attention Module", section 3.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channel(mean) + self.channel(largest))
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(both))


def build_attention(name: Literal["cbam", "scse"], channels: int) -> nn.Module:
    """The attention module "cbam", or "scse" (Roy et al. 2018; smp's)."""
    return CBAM(channels) if name == "cbam" else SCSEModule(channels, reduction=min(16, channels))

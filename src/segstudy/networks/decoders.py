"""Decoders: feature maps (finest first) → one map. Each has its output's `channels` and `stride`."""

import inspect
from collections.abc import Sequence
from typing import Literal

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.networks.attention import build_attention
from segstudy.networks.encoders import DoubleConv
from segstudy.ranges import Widths, checked


@checked
class PreactDecoder(nn.Module):
    """The study's decoder: pre-activation ELU blocks that double the map's size, each followed by its skip (concat).

    Block: BN, ELU, conv3×3 in→out, BN, ELU, nearest ×2, conv3×3 out→out.
    The output is the concatenation with the finest map (stride 1 with the study's encoder, 2 with a ResNet).
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], widths: Widths = (256, 128, 64, 64)):
        super().__init__()
        skips = list(channels[-2::-1])
        # A shallower encoder leaves out the first (deepest) widths, so that the last ones stay the same.
        widths = list(widths)[-len(skips) :]
        widths = [widths[0]] * (len(skips) - len(widths)) + widths
        self.blocks = nn.ModuleList()
        inputs = channels[-1]
        for width, skip in zip(widths, skips, strict=True):
            self.blocks.append(
                nn.Sequential(
                    nn.BatchNorm2d(inputs), nn.ELU(inplace=True), nn.Conv2d(inputs, width, 3, padding=1),
                    nn.BatchNorm2d(width), nn.ELU(inplace=True), nn.Upsample(scale_factor=2, mode="nearest"),
                    nn.Conv2d(width, width, 3, padding=1),
                )
            )  # fmt: skip
            inputs = width + skip
        self.channels, self.stride = inputs, strides[0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for block, skip in zip(self.blocks, maps[-2::-1], strict=True):
            x = torch.cat([fit(block(x), skip), skip], 1)
        return x


@checked
class DoubleConvDecoder(nn.Module):
    """The U-Net decoder: upsampling, concatenation with the skip, double convolution.

    up: "transpose" (2×2, to the block's width), "nearest" (×2, then conv3×3 to that width) or "bilinear" (×2 without
    weights; only the double convolution changes the channels).
    attention: None, "cbam" or "scse", after each block.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        up: Literal["transpose", "nearest", "bilinear"] = "transpose",
        widths: Widths | None = None,
        bias: bool = False,
        attention: Literal["cbam", "scse"] | None = None,
    ):
        super().__init__()
        skips = list(channels[-2::-1])
        widths = list(widths) if widths else skips
        if len(widths) != len(skips):
            raise ValueError(f"decoder.widths has {len(widths)} entries, the encoder has {len(skips)} skips")
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        inputs = channels[-1]
        for width, skip in zip(widths, skips, strict=True):
            middle = inputs if up == "bilinear" else width
            self.ups.append(_upsampling(up, inputs, middle))
            block = DoubleConv(middle + skip, width, bias)
            self.blocks.append(nn.Sequential(block, build_attention(attention, width)) if attention else block)
            inputs = width
        self.channels, self.stride = inputs, strides[0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for up, block, skip in zip(self.ups, self.blocks, maps[-2::-1], strict=True):
            x = block(torch.cat([fit(up(x), skip), skip], 1))
        return x


DecoderName = Literal["unet", "unetplusplus", "linknet", "fpn", "manet", "upernet", "segformer"]


@checked
class LibraryDecoder(nn.Module):
    """A decoder of segmentation-models-pytorch (smp), by the name of its architecture.

    name: unet, unetplusplus, linknet, fpn, manet, upernet or segformer. options: its arguments.
    Raises ValueError for an unknown option.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], name: DecoderName = "unet", **options: object):
        super().__init__()
        decoders = smp_decoders()
        taken = inspect.signature(decoders[name]).parameters
        unknown = sorted(set(options) - set(taken))
        if unknown:
            raise ValueError(f"decoder.name={name} has no option {', '.join(unknown)}; it has {', '.join(taken)}")
        # smp's pyramid has a map at every power of two from 1 on; where ours has none, it gets one without channels.
        have = dict(zip(strides, channels, strict=True))
        self.strides = [2**i for i in range(strides[-1].bit_length())]
        full = [have.get(s, 3 if s == 1 else 0) for s in self.strides]
        self.missing = {s: c for s, c in zip(self.strides, full, strict=True) if s not in have}
        levels = len(full) - 1
        given: dict[str, object] = {"encoder_channels": full, "encoder_depth": levels, "n_blocks": levels}
        if name in ("unet", "unetplusplus", "manet"):
            given["decoder_channels"] = [256, 128, 64, 32, 16][:levels]
        given |= options
        self.body = decoders[name](**{k: v for k, v in given.items() if k in taken})
        self.channels, self.stride = self._probe(channels, strides)

    def _probe(self, channels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
        # smp's decoders do not state their output's shape; a small forward pass gives it.
        side = 2 * strides[-1]
        maps = [torch.zeros(1, c, side // s, side // s) for c, s in zip(channels, strides, strict=True)]
        self.eval()
        with torch.no_grad():
            out = self(maps)
        self.train()
        return out.shape[1], side // out.shape[2]

    def forward(self, maps: list[Tensor]) -> Tensor:
        batch, _, height, width = maps[-1].shape
        given, pyramid = iter(maps), []
        for s in self.strides:
            if s in self.missing:  # smp reads only their size
                scale = self.strides[-1] // s
                shape = (batch, self.missing[s], height * scale, width * scale)
                pyramid.append(maps[-1].new_zeros(1, 1, 1, 1).expand(shape))
            else:
                pyramid.append(next(given))
        return self.body(pyramid)


def smp_decoders() -> dict[DecoderName, type[nn.Module]]:
    """Decoder classes of segmentation-models-pytorch that accept any pyramid, by architecture.

    PAN, PSPNet and DeepLab change the strides of their encoder: use network=smp for them.
    """
    d = smp.decoders
    return {
        "unet": d.unet.decoder.UnetDecoder, "unetplusplus": d.unetplusplus.decoder.UnetPlusPlusDecoder,
        "linknet": d.linknet.decoder.LinknetDecoder, "fpn": d.fpn.decoder.FPNDecoder,
        "manet": d.manet.decoder.MAnetDecoder, "upernet": d.upernet.decoder.UPerNetDecoder,
        "segformer": d.segformer.decoder.SegformerDecoder,
    }  # fmt: skip


def fit(x: Tensor, like: Tensor) -> Tensor:
    """Crop or edge-pad x to the height and width of `like` (after an odd size, doubling gives a pixel too many)."""
    h, w = like.shape[2:]
    if x.shape[2] < h or x.shape[3] < w:
        x = F.pad(x, (0, max(0, w - x.shape[3]), 0, max(0, h - x.shape[2])), mode="replicate")
    return x[:, :, :h, :w]


def _upsampling(up: str, inputs: int, outputs: int) -> nn.Module:
    if up == "transpose":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    if up == "nearest":
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1))
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

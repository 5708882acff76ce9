"""Encoders: image (B,3,H,W) → feature maps, finest first. Each states `channels` and `strides` of its maps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn

from segstudy.errors import did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DPN = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
NORMALISATION = {
    "inceptionresnetv2": HALF, "inceptionv4": HALF, "xception": HALF, "timm-tf_efficientnet_lite": HALF, "dpn": DPN,
}  # fmt: skip
"""Mean and std of smp's own encoders that do not have ImageNet's, by the start of their names: smp keeps them on the
hub, where a file of weights on this disk cannot ask."""


class Encoder(nn.Module):
    """Interface of encoders whose weights are loaded, and which choose the normalisation of their image.

    `mean` and `std` normalise the image (in 0…1) that it expects; `weights` is where its weights come from:
    "imagenet", "auto", a path, or None for random. Any other module with `channels` and `strides` is an encoder too: it
    gets an image normalised with ImageNet's mean and std, and keeps its weights.
    """

    channels: list[int]
    strides: list[int]
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    weights: str | None = None


def encoder_of(network: nn.Module) -> Encoder | None:
    """The network's encoder, if it is one of ours: another module of that name has no weights to load."""
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, Encoder) else None


def normalisation_of(network: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the image that a network expects; ImageNet's where it does not say."""
    encoder = encoder_of(network)
    return (IMAGENET_MEAN, IMAGENET_STD) if encoder is None else (encoder.mean, encoder.std)


class PreactEncoder(Encoder):
    """The study's own encoder: a 3×3 stem, then pre-activation ELU blocks that halve the map.

    Block: BN, ELU, conv3×3 in→out, BN, ELU, max pooling 2, conv3×3 out→out.
    """

    def __init__(self, widths: Sequence[int] = (64, 64, 128, 128, 256), weights: str | None = None):
        super().__init__()
        self.weights = weights
        self.channels = list(widths)
        self.strides = [2**i for i in range(len(widths))]
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(a), nn.ELU(inplace=True), nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b), nn.ELU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(b, b, 3, padding=1),
            )
            for a, b in pairwise(widths)
        )  # fmt: skip

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


class DoubleConv(nn.Sequential):
    """(conv3×3, BN, ReLU) twice: the block of the original U-Net with batch normalisation."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


class DoubleConvEncoder(Encoder):
    """The U-Net encoder: double convolutions with `down` between them, "maxpool" or "strided" (conv3×3, stride 2)."""

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        down: str = "maxpool",
        bias: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        self.weights = weights
        if down not in ("maxpool", "strided"):
            raise ValueError(f"encoder.down is 'maxpool' or 'strided', not {down!r}")
        self.channels = list(widths)
        self.strides = [2**i for i in range(len(widths))]
        self.first = DoubleConv(3, widths[0], bias)
        self.downs = nn.ModuleList(
            nn.MaxPool2d(2) if down == "maxpool" else nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1]
        )
        self.blocks = nn.ModuleList(DoubleConv(a, b, bias) for a, b in pairwise(widths))

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.first(image)]
        for down, block in zip(self.downs, self.blocks, strict=True):
            maps.append(block(down(maps[-1])))
        return maps


class LibraryEncoder(Encoder):
    """Any encoder of segmentation-models-pytorch, and through it timm (`tu-<timm name>`), by name.

    It is built with random weights; `weights` is loaded afterwards by `segstudy.networks.weights`. Its mean and std are
    those of its published weights, wherever weights are loaded from.
    Raises ValueError with near names if `name` is unknown, and for an architecture that is no pyramid of maps.
    """

    def __init__(self, name: str, weights: str | None = "auto", depth: int = 5):
        super().__init__()
        self.name, self.weights = name, weights
        if name.startswith("tu-") and not timm.is_model(name[3:]):
            known = [f"tu-{each}" for each in timm.list_models()]
            raise ValueError(f"no encoder is called {name!r}{did_you_mean(name, known)}")
        try:
            self.body = smp.encoders.get_encoder(name, in_channels=3, depth=depth, weights=None)
        except KeyError:  # its own text lists every name
            raise ValueError(
                f"no encoder is called {name!r}{did_you_mean(name, smp.encoders.get_encoder_names())}"
            ) from None
        self.mean, self.std = published(name, self.body)
        # smp lists the image itself as the map at stride 1; some encoders hold empty maps at strides they skip.
        self.kept = [i for i, c in enumerate(self.body.out_channels) if i > 0 and c > 0]
        self.channels = [self.body.out_channels[i] for i in self.kept]
        self.strides = [min(2**i, self.body.output_stride) for i in self.kept]

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.body(image)
        return [maps[i] for i in self.kept]


def published(name: str, body: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of an encoder's published weights. timm's models hold them, with the tag of their name."""
    if hasattr(body, "model"):
        settings: Any = body.model.pretrained_cfg  # type: ignore[union-attr]
        return tuple(settings["mean"]), tuple(settings["std"])
    imagenet = (IMAGENET_MEAN, IMAGENET_STD)
    return next((known for start, known in NORMALISATION.items() if name.startswith(start)), imagenet)

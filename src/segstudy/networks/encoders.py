"""Encoders: normalised image (B,C,H,W) → feature maps, finest first. Each has the maps' `channels` and `strides`."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import segmentation_models_pytorch as smp
import timm
from pydantic import AfterValidator
from torch import Tensor, nn

from segstudy.errors import WeightsError, did_you_mean, first_line
from segstudy.networks.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, of_channels
from segstudy.networks.weights import adapt_channels, imagenet_state, load_file, packaged_state
from segstudy.ranges import Depth, EncoderWidths, Text, checked

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DPN = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
NORMALISATION = {
    "inceptionresnetv2": HALF, "inceptionv4": HALF, "xception": HALF, "timm-tf_efficientnet_lite": HALF, "dpn": DPN,
}  # fmt: skip
"""Mean and std of smp's own encoders that do not use ImageNet's, by the start of their names. smp keeps them on the
hub, which is not read for weights from a file."""

LOADS_WEIGHTS: ContextVar[bool] = ContextVar("LOADS_WEIGHTS", default=True)


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside the context, encoders ignore `weights` and load nothing: for a network that gets a checkpoint."""
    before = LOADS_WEIGHTS.set(False)
    try:
        yield
    finally:
        LOADS_WEIGHTS.reset(before)


class Encoder(nn.Module):
    """Interface of encoders that load weights or need another normalisation than ImageNet's.

    The network normalises its image (in 0…1) with `mean` and `std`. Any other module with `channels` and `strides` can
    be an encoder too: it gets an image normalised with ImageNet's mean and std. in_channels: argument of the
    constructors, the channels of the image.
    """

    channels: list[int]
    strides: list[int]
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    weights: str | None = None
    weights_origin: str = "random"
    in_channels: int = 3

    def load_weights(self, weights: str | None) -> None:
        """Load the weights "imagenet", "auto" (ImageNet if available) or a file, with their mean and std; None: random.

        Call it at the end of the constructor. It sets `weights_origin` to "random…", "imagenet…" or the path. If
        ImageNet weights are not available, "imagenet" raises WeightsError, and "auto" warns and stays random.
        Raises WeightsError for a file that does not fit. A file of a whole network has its own mean and std.
        """
        self.weights = weights
        if not LOADS_WEIGHTS.get():
            return
        adapted = self.in_channels != 3
        if weights in ("imagenet", "auto"):
            self._load_imagenet(weights)
        elif weights is not None:
            name = getattr(self, "name", type(self).__name__)
            stored, adapted = load_file(self._body(), Path(weights).expanduser(), name)
            self.mean, self.std = stored.get("mean", self.mean), stored.get("std", self.std)
            self.weights_origin = str(weights)
        if adapted and not self.weights_origin.startswith("random"):
            self.weights_origin += f", first convolution adapted to {self.in_channels} channels"

    def _body(self) -> nn.Module:
        """The module that weights are loaded into."""
        return self

    def _load_imagenet(self, weights: str) -> None:
        raise WeightsError(f"encoder.weights={weights}: only library encoders have ImageNet weights; set it to null")


def encoder_of(network: nn.Module) -> Encoder | None:
    """The network's encoder if it is an `Encoder`, else None: other modules have no weights to load."""
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, Encoder) else None


def normalize_for(encoder: nn.Module, in_channels: int = 3) -> Normalize:
    """The image normalisation that an encoder expects: its own, or ImageNet's if it is no `Encoder`."""
    mean, std = (encoder.mean, encoder.std) if isinstance(encoder, Encoder) else (IMAGENET_MEAN, IMAGENET_STD)
    return Normalize(of_channels(mean, in_channels), of_channels(std, in_channels))


@checked
class PreactEncoder(Encoder):
    """The study's encoder: a 3×3 stem, then pre-activation ELU blocks that halve the map's size.

    Block: BN, ELU, conv3×3 in→out, BN, ELU, max pooling 2, conv3×3 out→out.
    """

    def __init__(
        self, widths: EncoderWidths = (64, 64, 128, 128, 256), weights: Text | None = None, in_channels: int = 3
    ):
        super().__init__()
        self.in_channels = in_channels
        self.channels = list(widths)
        self.strides = [2**i for i in range(len(widths))]
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(a), nn.ELU(inplace=True), nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b), nn.ELU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(b, b, 3, padding=1),
            )
            for a, b in pairwise(widths)
        )  # fmt: skip
        self.load_weights(weights)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


class DoubleConv(nn.Sequential):
    """(conv3×3, BN, ReLU) twice: the block of the original U-Net, with batch normalisation added."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


@checked
class DoubleConvEncoder(Encoder):
    """The U-Net encoder: double convolutions with `down` between them, "maxpool" or "strided" (conv3×3, stride 2)."""

    def __init__(
        self,
        widths: EncoderWidths = (64, 128, 256, 512, 1024),
        down: Literal["maxpool", "strided"] = "maxpool",
        bias: bool = False,
        weights: Text | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.channels = list(widths)
        self.strides = [2**i for i in range(len(widths))]
        self.first = DoubleConv(in_channels, widths[0], bias)
        self.downs = nn.ModuleList(
            nn.MaxPool2d(2) if down == "maxpool" else nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1]
        )
        self.blocks = nn.ModuleList(DoubleConv(a, b, bias) for a, b in pairwise(widths))
        self.load_weights(weights)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.first(image)]
        for down, block in zip(self.downs, self.blocks, strict=True):
            maps.append(block(down(maps[-1])))
        return maps


def _encoder_name(name: str) -> str:
    named = name
    if smp.encoders.is_equivalent_to_timm_universal(name):  # an old name
        named = name.replace("timm-", "tu-").replace("tu-mobilenetv3", "tu-tf_mobilenetv3")
    if not (timm.is_model(named[3:]) if named.startswith("tu-") else name in smp.encoders.get_encoder_names()):
        known = [*smp.encoders.get_encoder_names(), *(f"tu-{each}" for each in timm.list_models())]
        raise ValueError(f"must be an encoder of smp, or of timm as tu-NAME{did_you_mean(name, known)}")
    return name


EncoderName = Annotated[str, AfterValidator(_encoder_name)]


@checked
class LibraryEncoder(Encoder):
    """Any encoder of segmentation-models-pytorch (smp), or of timm as `tu-<timm name>`, by name.

    Its mean and std are those of its published weights, even if weights are loaded from elsewhere.
    Raises ValueError for an architecture without a pyramid of maps.
    """

    def __init__(self, name: EncoderName, weights: Text | None = "auto", depth: Depth = 5, in_channels: int = 3):
        super().__init__()
        self.name, self.in_channels = name, in_channels
        self.body = smp.encoders.get_encoder(name, in_channels=in_channels, depth=depth, weights=None)
        self.mean, self.std = published(name, self.body)
        # smp lists the image itself as the map at stride 1; some encoders hold empty maps at strides they skip.
        self.kept = [i for i, c in enumerate(self.body.out_channels) if i > 0 and c > 0]
        self.channels = [self.body.out_channels[i] for i in self.kept]
        self.strides = [min(2**i, self.body.output_stride) for i in self.kept]
        self.load_weights(weights)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.body(image)
        return [maps[i] for i in self.kept]

    def _body(self) -> nn.Module:
        return self.body

    def _load_imagenet(self, weights: str) -> None:
        try:
            state, settings = imagenet_state(self.name, len(self.body.out_channels) - 1)
        except Exception as error:  # the hub's libraries raise a dozen types for "no network"
            if (packaged := packaged_state(self.name, self.body.state_dict())) is not None:
                self.body.load_state_dict(packaged[0])
                self.weights_origin = f"imagenet, of the package {packaged[1]}"
                return
            if weights == "imagenet":
                raise WeightsError(
                    f"ImageNet weights of {self.name!r} cannot be loaded: {first_line(error)}\n"
                    "  → encoder.weights=PATH (a torchvision, timm or smp state dict), encoder.weights=null (random),\n"
                    "    or encoder.weights=auto (ImageNet if available, else random, with a warning)"
                ) from error
            self.weights_origin = "random (ImageNet weights could not be loaded)"
            warnings.warn(
                f"ImageNet weights of {self.name!r} could not be loaded ({first_line(error)}): it starts random\n"
                "  → weights=PATH, or weights=None for random weights",
                stacklevel=4,
            )
            return
        self.body.load_state_dict(adapt_channels(state, self.body.state_dict()))
        if settings:
            self.mean, self.std = settings["mean"], settings["std"]
        self.weights_origin = "imagenet"


def published(name: str, body: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of an encoder's published weights. Models of timm hold them."""
    if hasattr(body, "model"):
        settings: Any = body.model.pretrained_cfg  # type: ignore[union-attr]
        return tuple(settings["mean"]), tuple(settings["std"])
    imagenet = (IMAGENET_MEAN, IMAGENET_STD)
    return next((known for start, known in NORMALISATION.items() if name.startswith(start)), imagenet)

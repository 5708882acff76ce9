"""The modular network: encoder → bridge → decoder → head."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.networks.encoders import Encoder, normalize_for
from segstudy.ranges import Kernel, NotNegative, checked


@checked
class Head(nn.Sequential):
    """The last convolution, to one channel per class, after an optional activation ("elu" or None).

    single: one channel for two classes, the logit of class 1 against class 0. Raises ValueError for more classes.
    """

    def __init__(
        self,
        in_channels: int,
        outputs: int,
        kernel_size: Kernel = 3,
        activation: Literal["elu"] | None = None,
        single: bool = False,
    ):
        layers: list[nn.Module] = [nn.ELU()] if activation == "elu" else []
        if single and outputs != 2:
            raise ValueError(f"head.single is for two classes, the data has {outputs}; use head=conv_1x1")
        outputs = 1 if single else outputs
        super().__init__(*layers, nn.Conv2d(in_channels, outputs, kernel_size, padding=kernel_size // 2))


class Network(nn.Module):
    """Image (B,in_channels,H,W) in 0…1 → logits (B,num_classes,H,W), any H and W.

    The image is normalised with the encoder's mean and std (ImageNet's if it is no `Encoder`) and padded to a multiple
    of the encoder's stride; the logits are cropped back.
    `bridge`, `decoder` and `head` are functions that build the part from the channels of the part before it.
    auxiliary: weight in training of the loss of a second, small head on the second-deepest map; 0: no such head.
    Source of that head: Zhao et al. 2017 (PSPNet), section 3.3.
    """

    def __init__(
        self,
        num_classes: int,
        encoder: Encoder,
        bridge: Callable[[int], nn.Module],
        decoder: Callable[..., nn.Module],
        head: Callable[[int, int], nn.Module],
        auxiliary: NotNegative = 0.0,
        in_channels: int = 3,
    ):
        super().__init__()
        self.normalize = normalize_for(encoder, in_channels)
        self.encoder = encoder
        self.bridge = bridge(encoder.channels[-1])
        self.decoder = decoder([*encoder.channels[:-1], self.bridge.channels], encoder.strides)
        self.head = head(self.decoder.channels, num_classes)  # type: ignore[arg-type]
        self.stride = encoder.strides[-1]
        self.auxiliary_weight = auxiliary
        if auxiliary:
            self.auxiliary = AuxiliaryHead(encoder.channels[-2], self.head[-1].out_channels)  # type: ignore[index]

    def forward(self, image: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The logits; with auxiliary=True, (logits, logits of the auxiliary head). All at the image's size."""
        height, width = image.shape[2:]
        image = F.pad(self.normalize(image), (0, -width % self.stride, 0, -height % self.stride))
        maps = self.encoder(image)
        logits = self._classified(self.decoder([*maps[:-1], self.bridge(maps[-1])]))
        logits = _enlarged(logits, image)[:, :, :height, :width]
        if not auxiliary:
            return logits
        return logits, _enlarged(self.auxiliary(maps[-2]), image)[:, :, :height, :width]

    def _classified(self, features: Tensor) -> Tensor:
        """The head's logits; outside training always in float32, also under autocast.

        In half precision, about one pixel of a thousand has two equal highest logits, and argmax takes the first class,
        the background.
        """
        device = features.device.type
        if self.training or device == "meta" or not torch.is_autocast_enabled(device):
            return self.head(features)
        with torch.autocast(device, enabled=False):
            return self.head(features.float())


class AuxiliaryHead(nn.Sequential):
    """conv3×3 to a quarter of the channels, BN, ReLU, dropout .1, conv1×1."""

    def __init__(self, in_channels: int, outputs: int):
        middle = max(outputs, in_channels // 4)
        super().__init__(
            nn.Conv2d(in_channels, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True),
            nn.Dropout(0.1), nn.Conv2d(middle, outputs, 1),
        )  # fmt: skip


def _enlarged(logits: Tensor, image: Tensor) -> Tensor:
    if logits.shape[2:] == image.shape[2:]:
        return logits
    return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)

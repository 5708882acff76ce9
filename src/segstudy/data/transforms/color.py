"""What can follow the geometry within each image: colour, blur, erased rectangles; and the base of all such parts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.data.transforms.base import GREY, Transform, fraction, positive_range, rectangles, setting_name
from segstudy.labels import IGNORE


class HueSaturation(Transform):
    """Saturation and hue. saturation: largest relative change; hue: largest turn, as a share of the colour circle."""

    num_params = 3

    def __init__(self, saturation: float = 0.3, hue: float = 0.05, probability: float = 0.0):
        super().__init__(probability)
        self.saturation = fraction("saturation", self, saturation)
        if not 0 <= hue <= 0.5:
            raise ValueError(f"{setting_name(self)}.hue is a share of the colour circle in 0…0.5, not {hue}")
        self.hue = hue

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        selected = self.selected(params)[:, None, None, None]
        out = image
        if self.saturation:
            gain = 1 + self.saturation * (2 * params[:, 1] - 1)
            red, green, blue = image.split(1, 1)
            luma = 0.2989 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as torchvision has it
            out = torch.lerp(luma, image, gain[:, None, None, None]).clamp_(0, 1)
        if self.hue:
            out = rotate_hue(out, self.hue * (2 * params[:, 2] - 1))
        return torch.where(selected, out, image), mask


def rotate_hue(image: Tensor, turn: Tensor) -> Tensor:
    """Colours turned on the circle of hues, value and chroma kept. image (B,3,H,W) in 0…1, turn (B,) in circles."""
    red, green, blue = (plane.contiguous() for plane in image.unbind(1))  # strided planes take twice the time
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    # The hue in sixths of the circle, counted from red; a grey has none, and with chroma 0 none is needed.
    sixths = torch.where(value == green, blue - red, red - green)
    sixths = torch.where(value == red, green - blue, sixths).div_(chroma.clamp(min=1e-8))
    sixths += torch.where(value == red, 0.0, torch.where(value == green, 2.0, 4.0))
    sixths += 6 * turn[:, None, None]
    # Each channel is the value less the chroma times a trapezium over the circle, which is 0 around its own hue.
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    for channel, start in enumerate((5, 3, 1)):
        k = sixths + start
        k -= 6 * (k / 6).floor_()  # remainder_ takes three times as long
        k = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(value, chroma, k, value=-1, out=out[:, channel])
    return out


class Blur(Transform):
    """Gaussian blur. sigma: [low, high] of its standard deviation in pixels, drawn evenly."""

    num_params = 2

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), probability: float = 0.0):
        super().__init__(probability)
        self.sigma = positive_range("sigma", self, sigma)

    @property
    def reach(self) -> int:
        """Pixels to each side that count: three standard deviations of the widest blur."""
        return math.ceil(3 * self.sigma[1])

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.sigma
        sigma = low + (high - low) * params[:, 1:2]
        distance = torch.arange(self.reach + 1, device=image.device)
        taps = torch.exp(-0.5 * (distance / sigma) ** 2)
        taps = taps / (2 * taps.sum(1, keepdim=True) - taps[:, :1])
        taps = torch.where(self.selected(params)[:, None], taps, (distance == 0).float())
        return _filtered(image, torch.cat([taps.flip(1)[:, :-1], taps], 1)), mask


def _filtered(image: Tensor, taps: Tensor) -> Tensor:
    """Each image filtered with its own taps (B,2·reach+1) down and across, mirrored at its borders."""
    batch, channels, height, width = image.shape
    reach = taps.shape[1] // 2
    padded = F.pad(image, [reach] * 4, mode="reflect").reshape(1, -1, height + 2 * reach, width + 2 * reach)
    kernels = taps.repeat_interleave(channels, 0)[:, None]  # each plane of the batch is a group of its own
    down = F.conv2d(padded, kernels[..., None], groups=batch * channels)
    return F.conv2d(down, kernels[:, :, None], groups=batch * channels).view_as(image)


class RandomErasing(Transform):
    """A rectangle made grey; its pixels become 255 in the mask, since nobody could know them.

    area: [low, high] of its share of the image, drawn evenly; aspect: [low, high] of height/width, evenly in its
    logarithm. Source: Zhong et al. 2020, "Random Erasing Data Augmentation", section 3.
    """

    num_params = 5

    def __init__(
        self, area: Sequence[float] = (0.02, 0.2), aspect: Sequence[float] = (0.3, 3.3), probability: float = 0.0
    ):
        super().__init__(probability)
        self.area, self.aspect = positive_range("area", self, area), positive_range("aspect", self, aspect)
        if self.area[1] > 1:
            raise ValueError(f"{setting_name(self)}.area is a share of the image, at most 1, not {self.area[1]}")

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        (small, large), (low, high) = self.area, map(math.log, self.aspect)
        area, aspect = small + (large - small) * params[:, 1], torch.exp(low + (high - low) * params[:, 2])
        gone = rectangles(area * self.selected(params), aspect, params[:, 3:5], image.shape[2], image.shape[3])
        return torch.where(gone[:, None], GREY, image), torch.where(gone, IGNORE, mask)

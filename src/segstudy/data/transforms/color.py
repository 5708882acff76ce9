"""Transforms of single images: hue and saturation, blur, erased rectangles.

Hand-written: torchvision takes one factor for the whole batch, and kornia's results differ in the last bits. On one
core, the hue of 16 images of 256² takes 128 ms here, 305 ms in kornia, 185 ms in torchvision image by image; blur takes
106 ms here, 57 ms in kornia.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.data.transforms.base import GREY, Transform, rectangles
from segstudy.labels import IGNORE
from segstudy.ranges import Hue, Probability, Ratios, Shares, checked


@checked
class HueSaturation(Transform):
    """Changes saturation and hue. saturation: largest relative change. hue: largest rotation (1: the full circle)."""

    num_params = 3
    needs_rgb = True

    def __init__(self, saturation: Probability = 0.3, hue: Hue = 0.05, probability: Probability = 0.0):
        super().__init__(probability)
        self.saturation, self.hue = saturation, hue

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
    """Rotate the hue, keep value and chroma. image (B,3,H,W) in 0…1; turn (B,): 1 is the full colour circle."""
    red, green, blue = (plane.contiguous() for plane in image.unbind(1))  # strided planes take twice as long
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    # The hue in sixths of the circle, from red. Grey has none, and does not need one: its chroma is 0.
    sixths = torch.where(value == green, blue - red, red - green)
    sixths = torch.where(value == red, green - blue, sixths).div_(chroma.clamp(min=1e-8))
    sixths += torch.where(value == red, 0.0, torch.where(value == green, 2.0, 4.0))
    sixths += 6 * turn[:, None, None]
    # A channel is value − chroma × a trapezoid over the circle, which is 0 around the hue of the channel.
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    for channel, start in enumerate((5, 3, 1)):
        k = sixths + start
        k -= 6 * (k / 6).floor_()  # remainder_ takes three times as long
        k = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(value, chroma, k, value=-1, out=out[:, channel])
    return out


@checked
class Blur(Transform):
    """Gaussian blur. sigma: [low, high], range of the standard deviation in pixels, drawn uniformly."""

    num_params = 2

    def __init__(self, sigma: Ratios = (0.1, 2.0), probability: Probability = 0.0):
        super().__init__(probability)
        self.sigma = tuple(sigma)

    @property
    def radius(self) -> int:
        """Radius of the kernel in pixels: three standard deviations of the widest blur."""
        return math.ceil(3 * self.sigma[1])

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.sigma
        sigma = low + (high - low) * params[:, 1:2]
        distance = torch.arange(self.radius + 1, device=image.device)
        weights = torch.exp(-0.5 * (distance / sigma) ** 2)
        weights = weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
        weights = torch.where(self.selected(params)[:, None], weights, (distance == 0).float())
        return _filter(image, torch.cat([weights.flip(1)[:, :-1], weights], 1)), mask


def _filter(image: Tensor, weights: Tensor) -> Tensor:
    """Filter each image with its own weights (B,2·radius+1), vertically and horizontally; borders are mirrored."""
    batch, channels, height, width = image.shape
    radius = weights.shape[1] // 2
    padded = F.pad(image, [radius] * 4, mode="reflect").reshape(1, -1, height + 2 * radius, width + 2 * radius)
    kernels = weights.repeat_interleave(channels, 0)[:, None]  # each channel of each image is a group
    down = F.conv2d(padded, kernels[..., None], groups=batch * channels)
    return F.conv2d(down, kernels[:, :, None], groups=batch * channels).view_as(image)


@checked
class RandomErasing(Transform):
    """Makes a rectangle grey and ignores it in the mask.

    area: [low, high] of its share of the image, drawn uniformly. aspect: [low, high] of height/width, log-uniform.
    Source: Zhong et al. 2020, "Random Erasing Data Augmentation", section 3.
    """

    num_params = 5

    def __init__(self, area: Shares = (0.02, 0.2), aspect: Ratios = (0.3, 3.3), probability: Probability = 0.0):
        super().__init__(probability)
        self.area, self.aspect = tuple(area), tuple(aspect)

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        (small, large), (low, high) = self.area, map(math.log, self.aspect)
        area, aspect = small + (large - small) * params[:, 1], torch.exp(low + (high - low) * params[:, 2])
        erased = rectangles(area * self.selected(params), aspect, params[:, 3:5], image.shape[2], image.shape[3])
        return torch.where(erased[:, None], GREY, image), torch.where(erased, IGNORE, mask)

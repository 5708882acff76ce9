"""Transforms that mix images of a batch: the partner of image i is image i + 1, of the last image the first.

With several transforms, each mixes the results of the one before. A batch of one image does not change. Hand-written
because torchvision's versions mix image labels, not masks.
"""

import numpy as np
import torch
from torch import Tensor

from segstudy.data.transforms.base import Transform, rectangles
from segstudy.labels import IGNORE
from segstudy.ranges import BetaShape, ClassNumber, Probability, checked


@checked
class BetaMix(Transform):
    """Base class of mixtures: the image has the share λ ~ Beta(alpha, alpha), its partner 1−λ.

    The larger alpha, the nearer λ is to 1/2; with alpha = 1 it is uniform in 0…1.
    """

    def __init__(self, alpha: BetaShape = 1.0, probability: Probability = 0.0):
        super().__init__(probability)
        self.alpha = alpha
        self.table = beta_table(alpha)

    def make_params(self, params: Tensor) -> Tensor:
        """Convert the second parameter to λ."""
        share = beta_quantile(params[:, 1].numpy(), self.alpha, self.table)
        return torch.cat([params[:, :1], torch.from_numpy(share)[:, None], params[:, 2:]], 1)


class MixUp(BetaMix):
    """Image λa + (1−λ)b; the label of each pixel is drawn: that of a with probability λ, else that of b.

    For any per-pixel loss, the expected loss is λ·loss(a) + (1−λ)·loss(b). A pixel whose drawn label is 255 is ignored.
    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """

    num_params = 3

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.where(self.selected(params), params[:, 1], 1.0)[:, None, None]
        image = torch.lerp(image.roll(-1, 0), image, own[:, None])
        return image, torch.where(dither(params[:, 2], *mask.shape[1:]) < own, mask, mask.roll(-1, 0))


class CutMix(BetaMix):
    """Replaces a rectangle with the share 1−λ of the area by the partner's, in image and mask.

    The rectangle has the aspect ratio of the image. Source: Yun et al. 2019, "CutMix", section 3.2; there the rectangle
    may extend beyond the image.
    """

    num_params = 4

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        height, width = mask.shape[1:]
        area = (1 - params[:, 1]) * self.selected(params)
        pasted = rectangles(area, torch.full_like(area, height / width), params[:, 2:4], height, width)
        return torch.where(pasted[:, None], image.roll(-1, 0), image), torch.where(pasted, mask.roll(-1, 0), mask)


@checked
class CopyPaste(Transform):
    """Pastes all pixels of one class of the partner, drawn uniformly from its classes except background and 255.

    background: a class that is never pasted, or null. Nothing is pasted if the partner has no other class.
    Source: Ghiasi et al. 2021, "Simple Copy-Paste", section 3; there single objects are pasted, here a class.
    """

    num_params = 2

    def __init__(self, background: ClassNumber | None = 0, probability: Probability = 0.0):
        super().__init__(probability)
        self.background = background

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        has_class = torch.zeros(len(mask), IGNORE + 1, device=mask.device).scatter_(1, mask.flatten(1), 1.0)
        has_class[:, IGNORE] = 0
        if self.background is not None:
            has_class[:, self.background] = 0
        up_to = has_class.roll(-1, 0).cumsum(1)  # number of the partner's classes up to each class
        count = up_to[:, -1:]
        chosen = (up_to > (params[:, 1:] * count).floor()).int().argmax(1)  # the class drawn: the first above it
        drawn = self.selected(params) & (count[:, 0] > 0)
        pasted = (mask.roll(-1, 0) == chosen[:, None, None]) & drawn[:, None, None]
        return torch.where(pasted[:, None], image.roll(-1, 0), image), torch.where(pasted, mask.roll(-1, 0), mask)


def dither(phase: Tensor, height: int, width: int) -> Tensor:
    """A quasirandom number in [0,1) for each pixel of each image: phase (B,) → (B,height,width).

    Uniform over the phases at each pixel, and, unlike independent noise, over the pixels of any small area.
    Source: the additive recurrence R₂ of Roberts 2018, "The Unreasonable Effectiveness of Quasirandom Sequences".
    """
    plastic = 1.32471795724474602596  # the root of x³ = x + 1
    y, x = (torch.arange(n, dtype=torch.float64, device=phase.device) for n in (height, width))
    lattice = (x / plastic + y[:, None] / plastic**2).frac().to(phase.dtype)
    return (lattice + phase[:, None, None]).frac_()


def beta_table(alpha: float, steps: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Table of the lower half of Beta(alpha, alpha): probabilities 0…1/2, and their quantiles to the power of alpha.

    In t = x^alpha the density is proportional to (1−t^(1/alpha))^(alpha−1), which is finite up to x = 1/2 for every
    alpha, so the trapezoidal rule works. Not scipy.special.betaincinv: its last bits differ and would change results.
    """
    x = np.linspace(0, 0.5, steps + 1)
    t, density = x**alpha, (1 - x) ** (alpha - 1)
    area = np.concatenate([[0], np.cumsum(np.diff(t) * (density[1:] + density[:-1]))])
    return 0.5 * area / area[-1], t


def beta_quantile(p: np.ndarray, alpha: float, table: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at the probabilities p: float32 in the shape of p."""
    lower = np.minimum(p, 1 - p)  # the distribution is symmetric
    x = np.interp(lower, *table) ** (1 / alpha)
    return np.where(p < 0.5, x, 1 - x).astype(np.float32)

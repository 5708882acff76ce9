"""Transforms that mix the images of a batch: the partner of image i is image i + 1, that of the last the first.

A transform that follows another mixes its results. A batch of one image does not change. Hand-written because the ones
of torchvision mix whole-image labels, not masks.
"""

import numpy as np
import torch
from torch import Tensor

from segstudy.data.transforms.base import Transform, rectangles, setting_name
from segstudy.labels import IGNORE


class BetaMix(Transform):
    """Base of mixtures in which the image itself has the share λ, drawn from Beta(alpha, alpha).

    The higher alpha, the nearer λ is to 1/2; with alpha 1 it is uniform in 0…1.
    """

    def __init__(self, alpha: float = 1.0, probability: float = 0.0):
        super().__init__(probability)
        if not alpha > 0:
            raise ValueError(f"{setting_name(self)}.alpha is above 0, not {alpha}")
        self.alpha = alpha
        self.table = beta_table(alpha)

    def make_params(self, params: Tensor) -> Tensor:
        """The second parameter becomes λ."""
        share = beta_quantile(params[:, 1].numpy(), self.alpha, self.table)
        return torch.cat([params[:, :1], torch.from_numpy(share)[:, None], params[:, 2:]], 1)


class MixUp(BetaMix):
    """Image λa + (1−λ)b; the label of each pixel is drawn: a's with probability λ, else b's.

    The expected loss of a pixel is λ·loss(a) + (1−λ)·loss(b), with any loss. A pixel whose drawn label is 255 is
    ignored. Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """

    num_params = 3

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.where(self.selected(params), params[:, 1], 1.0)[:, None, None]
        image = torch.lerp(image.roll(-1, 0), image, own[:, None])
        return image, torch.where(dither(params[:, 2], *mask.shape[1:]) < own, mask, mask.roll(-1, 0))


class CutMix(BetaMix):
    """Replaces a rectangle of area share 1−λ by the partner's, in image and mask. It has the image's aspect.

    Source: Yun et al. 2019, "CutMix", section 3.2; there the rectangle may extend beyond the image.
    """

    num_params = 4

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        height, width = mask.shape[1:]
        area = (1 - params[:, 1]) * self.selected(params)
        theirs = rectangles(area, torch.full_like(area, height / width), params[:, 2:4], height, width)
        return torch.where(theirs[:, None], image.roll(-1, 0), image), torch.where(theirs, mask.roll(-1, 0), mask)


class CopyPaste(Transform):
    """Pastes all pixels of one of the partner's classes, drawn uniformly from those other than background and 255.

    background: a class that is never pasted, or null. Nothing is pasted if the partner has no other class.
    Source: Ghiasi et al. 2021, "Simple Copy-Paste", section 3; there instances are pasted, here a class.
    """

    num_params = 2

    def __init__(self, background: int | None = 0, probability: float = 0.0):
        super().__init__(probability)
        if background is not None and not 0 <= background < IGNORE:
            raise ValueError(f"{setting_name(self)}.background is a class in 0…254 or null, not {background}")
        self.background = background

    def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        has_class = torch.zeros(len(mask), IGNORE + 1, device=mask.device).scatter_(1, mask.flatten(1), 1.0)
        has_class[:, IGNORE] = 0
        if self.background is not None:
            has_class[:, self.background] = 0
        before = has_class.roll(-1, 0).cumsum(1)  # the partner's classes up to this one
        count = before[:, -1:]
        chosen = (
            (before > (params[:, 1:] * count).floor()).int().argmax(1)
        )  # the first that exceeds it: the class drawn
        drawn = self.selected(params) & (count[:, 0] > 0)
        theirs = (mask.roll(-1, 0) == chosen[:, None, None]) & drawn[:, None, None]
        return torch.where(theirs[:, None], image.roll(-1, 0), image), torch.where(theirs, mask.roll(-1, 0), mask)


def dither(phase: Tensor, height: int, width: int) -> Tensor:
    """A quasirandom number in [0,1) for each pixel of each image: phase (B,) → (B,height,width).

    Uniform over the phases at each pixel, and over the pixels of any small area, which independent noise is not.
    Source: the additive recurrence R₂ of Roberts 2018, "The Unreasonable Effectiveness of Quasirandom Sequences".
    """
    plastic = 1.32471795724474602596  # the root of x³ = x + 1
    y, x = (torch.arange(n, dtype=torch.float64, device=phase.device) for n in (height, width))
    lattice = (x / plastic + y[:, None] / plastic**2).frac().to(phase.dtype)
    return (lattice + phase[:, None, None]).frac_()


def beta_table(alpha: float, steps: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The lower half of Beta(alpha, alpha): probabilities 0…1/2 and the quantiles there, to the power of alpha.

    In t = x^alpha the density is proportional to (1−t^(1/alpha))^(alpha−1), finite up to x = 1/2 for every alpha, so
    that the trapezoidal rule integrates it. Not scipy.special.betaincinv: other last bits would change earlier figures.
    """
    x = np.linspace(0, 0.5, steps + 1)
    t, density = x**alpha, (1 - x) ** (alpha - 1)
    area = np.concatenate([[0], np.cumsum(np.diff(t) * (density[1:] + density[:-1]))])
    return 0.5 * area / area[-1], t


def beta_quantile(p: np.ndarray, alpha: float, table: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at the probabilities p: float32 of p's shape."""
    lower = np.minimum(p, 1 - p)  # the distribution is symmetric
    x = np.interp(lower, *table) ** (1 / alpha)
    return np.where(p < 0.5, x, 1 - x).astype(np.float32)

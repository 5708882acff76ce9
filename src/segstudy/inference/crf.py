"""Boundary refinement: a fully connected CRF's mean field, cut off at a window, as post-processing of probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp

import lightning as L
import torch
from torch import Tensor

from segstudy.callbacks.extra_evaluation import ExtraEvaluation

Slices = tuple[slice, slice]
Pairs = list[tuple[Slices, Slices, Tensor]]
"""For half of the window's offsets: where the first pixel of each pair lies, where the second, and their weight."""


@dataclass(frozen=True)
class CRF:
    """Pairwise terms after Krähenbühl & Koltun 2011, equation 3, with the Potts model: unlike labels cost

        appearance · exp(−|pᵢ−pⱼ|² / 2 position² − |Iᵢ−Iⱼ|² / 2 colour²) + smoothness · exp(−|pᵢ−pⱼ|² / 2 near²)

    iterations: of the mean field. radius: half the window's side, in pixels. appearance, smoothness: weights of the
    kernels, in nats. position, near: in pixels. colour: in levels of 0…255. The last five are commonly used on photos
    of about 500 pixels; they are not fitted to anything here.
    """

    iterations: int = 5
    radius: int = 5
    appearance: float = 10.0
    smoothness: float = 3.0
    position: float = 80.0
    colour: float = 13.0
    near: float = 3.0

    def __post_init__(self) -> None:
        whole = {"iterations": (self.iterations, 0), "radius": (self.radius, 1)}
        for name, (value, least) in whole.items():
            if value < least:
                raise ValueError(f"{name} is a whole number from {least} on, not {value}")
        if min(self.appearance, self.smoothness) < 0:
            raise ValueError(f"appearance and smoothness are 0 or more, not {self.appearance} and {self.smoothness}")
        if min(self.position, self.colour, self.near) <= 0:
            raise ValueError(
                f"position, colour and near are above 0, not {self.position}, {self.colour} and {self.near}"
            )


def refine(probabilities: Tensor, image: Tensor, crf: CRF | None = None) -> Tensor:
    """Probabilities that agree with the image's edges: the mean field of a CRF whose unary terms are −log p.

    probabilities (C,H,W) or (B,C,H,W), summing to 1; image uint8 RGB (H,W,3) or (B,H,W,3). Returns float32 of the same
    shape, summing to 1. Raises ValueError if the two do not belong together.

    What is approximated: only pairs of pixels in a square window of side 2·radius + 1 are connected, as in ConvCRF
    (Teichmann & Cipolla 2018), so nothing reaches further than `radius` an iteration; the original connects all pairs,
    and filters them approximately. Within the window the sums are exact. Each kernel is normalised symmetrically,
    k ← kᵢⱼ / √(Σⱼkᵢⱼ · Σᵢkᵢⱼ), as the original's published code does, so the weights mean the same at every radius and
    border. The mean field is itself an approximation of the CRF's marginals, stopped after `iterations`.
    Memory: 2·radius·(radius + 1) float32 numbers a pixel.
    """
    crf = crf or CRF()
    if probabilities.ndim == 3 and image.ndim == 3:
        return refine(probabilities[None], image[None], crf)[0]
    fitting = probabilities.ndim == 4 and image.shape == (len(probabilities), *probabilities.shape[2:], 3)
    if not fitting or image.dtype != torch.uint8:
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} and image {tuple(image.shape)} of {image.dtype} do not fit\n"
            "  expected: probabilities (C,H,W) and an RGB image (H,W,3) of torch.uint8, or both with a batch in front"
        )
    start = probabilities.float()
    if crf.iterations == 0:
        return start
    evidence = start.clamp_min(torch.finfo(torch.float32).tiny).log()  # a probability of 0 has no logarithm
    pairs = weighted_pairs(image, crf)
    refined = start
    for _ in range(crf.iterations):
        refined = (evidence + messages(refined, pairs)).softmax(1)
    return refined


def weighted_pairs(image: Tensor, crf: CRF) -> Pairs:
    """Both normalised kernels, weighted and added, of every pair of neighbours in uint8 images (B,H,W,3)."""
    colours = image.permute(0, 3, 1, 2).float()
    height, width = colours.shape[2:]
    similar, close = [], []
    similar_sum, close_sum = (colours.new_zeros(len(image), 1, height, width) for _ in range(2))
    for dy, dx, first, second in offsets(crf.radius, height, width):
        squared = dy * dy + dx * dx
        contrast = (colours[..., *first] - colours[..., *second]).square().sum(1, keepdim=True)
        similar.append(torch.exp(-squared / (2 * crf.position**2) - contrast / (2 * crf.colour**2)))
        close.append(exp(-squared / (2 * crf.near**2)))
        for place in (first, second):
            similar_sum[..., *place] += similar[-1]
            close_sum[..., *place] += close[-1]
    # a pixel unlike all others has a sum of 0, and a product with 0 below
    a, b = (s.clamp_min(1e-20).rsqrt() for s in (similar_sum, close_sum))
    pairs = []
    for (_, _, first, second), k, c in zip(offsets(crf.radius, height, width), similar, close, strict=True):
        appearance = crf.appearance * k * a[..., *first] * a[..., *second]
        pairs.append((first, second, appearance + crf.smoothness * c * b[..., *first] * b[..., *second]))
    return pairs


def offsets(radius: int, height: int, width: int) -> Iterator[tuple[int, int, Slices, Slices]]:
    """(dy, dx, place of the first pixels, of the second) for the half of the window in which each pair occurs once."""
    for dy in range(min(radius, height - 1) + 1):
        reach = min(radius, width - 1)
        for dx in range(-reach if dy else 1, reach + 1):
            first = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
            second = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
            yield dy, dx, first, second


def messages(probabilities: Tensor, pairs: Pairs) -> Tensor:
    """For each pixel and label, the weighted probability of that label around it: (B,C,H,W).

    With Potts costs it is what they add to the logarithm, up to a number that all labels of a pixel share.
    """
    total = torch.zeros_like(probabilities)
    for first, second, weight in pairs:
        total[..., *first].addcmul_(weight, probabilities[..., *second])
        total[..., *second].addcmul_(weight, probabilities[..., *first])
    return total


class CRFEvaluation(ExtraEvaluation):
    """At the test, also refines each image's probabilities with a CRF: measured beside the plain test."""

    name = "crf"

    def __init__(
        self,
        iterations: int = 5,
        radius: int = 5,
        appearance: float = 10.0,
        smoothness: float = 3.0,
        position: float = 80.0,
        colour: float = 13.0,
        near: float = 3.0,
    ):
        super().__init__()
        try:
            self.crf = CRF(iterations, radius, appearance, smoothness, position, colour, near)
        except ValueError as error:
            raise ValueError(f"callbacks.crf: {error}") from error

    def probabilities(
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        pixels = (batch["image"] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return refine(logits.float().softmax(1), pixels, self.crf)

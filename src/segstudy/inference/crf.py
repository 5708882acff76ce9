"""Boundary refinement of probabilities: mean-field inference in a dense CRF, restricted to a window."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp

import lightning as L
import torch
from torch import Tensor

from segstudy.callbacks.extra_evaluation import ExtraEvaluation
from segstudy.ranges import Deviation, Iterations, NotNegative, Radius, checked

Slices = tuple[slice, slice]
Pairs = list[tuple[Slices, Slices, Tensor]]
"""For each offset in half of the window: the first pixels of the pairs, the second pixels, and their weights."""

PIXELS = 2**20
"""Larger images are refined in strips of about so many pixels."""


@checked
@dataclass(frozen=True)
class CRF:
    """Pairwise terms of Krähenbühl & Koltun 2011, equation 3, with the Potts model. Different labels cost

        appearance · exp(−|pᵢ−pⱼ|² / 2 position² − |Iᵢ−Iⱼ|² / 2 colour²) + smoothness · exp(−|pᵢ−pⱼ|² / 2 near²)

    iterations: of the mean field. radius: half the window's side, in pixels. appearance, smoothness: weights of the
    kernels, in nats. position, near: in pixels. colour: in levels of 0…255. The defaults of the last five are common
    for photos of about 500 pixels; they were not tuned.
    """

    iterations: Iterations = 5
    radius: Radius = 5
    appearance: NotNegative = 10.0
    smoothness: NotNegative = 3.0
    position: Deviation = 80.0
    colour: Deviation = 13.0
    near: Deviation = 3.0


def refine(probabilities: Tensor, image: Tensor, crf: CRF | None = None) -> Tensor:
    """Align probabilities with the image's edges: mean-field inference in a CRF with the unary terms −log p.

    probabilities (C,H,W) or (B,C,H,W), summing to 1; image uint8 RGB (H,W,3) or (B,H,W,3). Returns float32 of the same
    shape, summing to 1. Raises ValueError if the shapes do not fit.

    Approximation: only pixels within a square window of side 2·radius + 1 are connected, as in ConvCRF (Teichmann &
    Cipolla 2018), so information moves at most `radius` pixels per iteration. The original connects all pairs and
    filters approximately; here the sums within the window are exact. Each kernel is normalised symmetrically,
    k ← kᵢⱼ / √(Σⱼkᵢⱼ · Σᵢkᵢⱼ), as in the original's code, so that the weights mean the same for any radius and at
    borders. Mean field itself approximates the CRF's marginals; it stops after `iterations`.
    Memory: 2·radius·(radius + 1) float32 numbers per pixel, of at most about PIXELS at a time.
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
    if crf.iterations == 0:
        return probabilities.float()
    margin = crf.radius * (crf.iterations + 1)  # nothing further away has an influence, so strips change nothing
    images, _, height, width = probabilities.shape
    rows = max(margin, PIXELS // (images * width))
    strips = []
    for top in range(0, height, rows):
        first = max(0, top - margin)
        part = slice(first, top + rows + margin)
        strips.append(_refine_whole(probabilities[:, :, part], image[:, part], crf)[:, :, top - first :][:, :, :rows])
    return torch.cat(strips, 2)


def _refine_whole(probabilities: Tensor, image: Tensor, crf: CRF) -> Tensor:
    start = probabilities.float()
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
    # the sum is 0 for a pixel unlike all others; its product below is then 0, not NaN
    a, b = (s.clamp_min(1e-20).rsqrt() for s in (similar_sum, close_sum))
    pairs = []
    for (_, _, first, second), k, c in zip(offsets(crf.radius, height, width), similar, close, strict=True):
        appearance = crf.appearance * k * a[..., *first] * a[..., *second]
        pairs.append((first, second, appearance + crf.smoothness * c * b[..., *first] * b[..., *second]))
    return pairs


def offsets(radius: int, height: int, width: int) -> Iterator[tuple[int, int, Slices, Slices]]:
    """(dy, dx, first pixels, second pixels) for the offsets of half a window, so that each pair occurs once."""
    for dy in range(min(radius, height - 1) + 1):
        reach = min(radius, width - 1)
        for dx in range(-reach if dy else 1, reach + 1):
            first = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
            second = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
            yield dy, dx, first, second


def messages(probabilities: Tensor, pairs: Pairs) -> Tensor:
    """For each pixel and label, the weighted sum of that label's probability at the neighbours: (B,C,H,W).

    With Potts costs, this is the term added to log p, up to a constant for all labels of a pixel.
    """
    total = torch.zeros_like(probabilities)
    for first, second, weight in pairs:
        total[..., *first].addcmul_(weight, probabilities[..., *second])
        total[..., *second].addcmul_(weight, probabilities[..., *first])
    return total


@checked
class CRFEvaluation(ExtraEvaluation):
    """Extra evaluation of a run's test: the probabilities of each image are refined with a CRF."""

    name = "crf"

    def __init__(
        self,
        iterations: Iterations = 5,
        radius: Radius = 5,
        appearance: NotNegative = 10.0,
        smoothness: NotNegative = 3.0,
        position: Deviation = 80.0,
        colour: Deviation = 13.0,
        near: Deviation = 3.0,
    ):
        super().__init__()
        self.crf = CRF(iterations, radius, appearance, smoothness, position, colour, near)

    def probabilities(
        self, trainer: L.Trainer, module: L.LightningModule, logits: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        pixels = (batch["image"] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return refine(logits.float().softmax(1), pixels, self.crf)

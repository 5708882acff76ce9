"""Calibration: expected calibration error, proper scores, risk and coverage, from sums over images.

Confidence is the probability of the predicted class. Each image keeps sums in fine bins that never change; bins of
equal mass over the whole split are formed from them afterwards, and so every metric gets an interval over images.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.labels import IGNORE

REGIONS = ("all", "foreground", "edge")
"""Of the counted pixels: all, those whose truth is not the background, those near a true edge between classes."""

FINE = 300
"""Fine bins of u = −ln(1 − confidence), uniform in ln(1 + u/`UNSURE`) up to u = `SURE`.

Saturated networks differ by how far the confidence is from 1, by orders of magnitude; unsure ones of many classes
have it near 0. Against sorted pixels, on simulated networks of 2 to 150 classes, also saturated ones: ECE within
.001, the risk–coverage area within .3 %."""

UNSURE, SURE = 0.05, 1000.0

Bins = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pixels, summed confidence and right pixels of each bin, from unsure to sure."""


def confidence_sums(logits: Tensor, mask: Tensor, edge: Tensor | None, background: int | None) -> dict[str, np.ndarray]:
    """Sums of one image for each region: `confidence_<region>_<pixels|confidence|correct>` (FINE,) and, as scalars,
    `nll_<region>` (nats), `brier_<region>` (0…2 a pixel) and `pixels_<region>`.

    logits (C,H,W), C ≥ 2, of any float type; mask (H,W) in 0…C−1 or 255; edge bool (H,W), None: no such region;
    background: a class, None: no region foreground. Sources: Guo et al. 2017 (calibration), Brier 1950.
    """
    counted = mask != IGNORE
    sureness, right, nll, brier = (t.cpu().numpy() for t in _scores(logits, torch.where(counted, mask, 0)))
    regions = {"all": counted}
    if background is not None:
        regions["foreground"] = counted & (mask != background)
    if edge is not None:
        regions["edge"] = counted & edge
    doubt = np.exp(-sureness)
    place = FINE * np.log1p(sureness / UNSURE) / np.log1p(SURE / UNSURE)
    place = np.minimum(place, FINE - 1).astype(np.int64)
    sums: dict[str, np.ndarray] = {}
    for name, region in regions.items():
        inside = region.cpu().numpy()
        where, correct = place[inside], right[inside]
        pixels = np.bincount(where, minlength=FINE)
        confidence = pixels - np.bincount(where, doubt[inside], minlength=FINE)
        sums[f"confidence_{name}_pixels"] = pixels.astype(np.int32)
        sums[f"confidence_{name}_confidence"] = confidence.astype(np.float32)
        sums[f"confidence_{name}_correct"] = np.bincount(where[correct], minlength=FINE).astype(np.int32)
        sums[f"nll_{name}"] = nll[inside].sum(dtype=np.float64)
        sums[f"brier_{name}"] = brier[inside].sum(dtype=np.float64)
        sums[f"pixels_{name}"] = np.asarray(len(where))
    return sums


def _scores(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """−ln(1 − confidence), whether the label is right, NLL and Brier score of each pixel, float32 and bool (H,W)."""
    logits = logits.float()
    highest, label = logits.max(0)
    distance = logits.gather(0, mask[None].long())[0] - highest
    # The other classes apart, relative to the highest of them: exact where 1 − confidence would round to 0.
    others = logits.scatter(0, label[None], -torch.inf)
    second = others.amax(0)
    powers = others.sub_(second).exp_()
    rest = second - highest + powers.sum(0).log()  # ln of the others' odds against the highest
    log_total = F.softplus(rest)
    squares = 1 + powers.square_().sum(0) * (2 * (second - highest)).exp()
    brier = squares * (-2 * log_total).exp() - 2 * (distance - log_total).exp() + 1
    return F.softplus(-rest), label == mask, log_total - distance, brier


def fine_bins(sums: Mapping[str, np.ndarray], region: str = "all") -> Bins:
    """The fine bins of a region from the sums of one image (FINE,) or of N images (N, FINE), as float64."""
    pixels, confidence, correct = (
        np.asarray(sums[f"confidence_{region}_{what}"], np.float64) for what in ("pixels", "confidence", "correct")
    )
    return pixels, confidence, correct


def equal_mass(pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Bins:
    """Fine bins (FINE,) merged into `bins` of the same number of pixels each; all 0 without pixels."""
    shares = _shares(pixels, bins)
    return pixels @ shares, confidence @ shares, correct @ shares


def _shares(pixels: np.ndarray, bins: int) -> np.ndarray:
    """Which share of each fine bin lies in each bin of equal mass, (FINE, bins): one between two bins is divided."""
    upper = np.cumsum(pixels, dtype=np.float64)
    limits = np.linspace(0, upper[-1], bins + 1)
    overlap = np.minimum(upper[:, None], limits[1:]) - np.maximum((upper - pixels)[:, None], limits[:-1])
    return np.clip(overlap, 0, None) / np.maximum(pixels, 1)[:, None]


def ece(pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, 0…1, of fine bins (FINE,) over bins of equal mass; NaN without pixels.

    Chance alone makes it larger than 0. Source: Guo et al. 2017, with equal-mass bins.
    """
    mass, sure, right = equal_mass(pixels, confidence, correct, bins)
    return float(np.abs(sure - right).sum() / mass.sum()) if mass.sum() else float("nan")


def ece_influence_terms(
    pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator (N,) of each image, whose sums' ratio is the ECE of all, from fine bins (N, FINE).

    The bins' limits and the signs of their errors are those of all images together and are taken as given.
    """
    shares = _shares(pixels.sum(0), bins)
    errors = (confidence - correct) @ shares
    return errors @ np.sign(errors.sum(0)), pixels.sum(1)


def risk_coverage(pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> float:
    """Area under the risk–coverage curve, 0…1: the error rate of the surest share of pixels, averaged over all shares.

    From fine bins (FINE,), within which errors lie evenly; NaN without pixels. Source: Geifman et al. 2019.
    """
    there = pixels > 0
    if not there.any():
        return float("nan")
    number, wrong = (v[there][::-1].astype(np.float64) for v in (pixels, pixels - correct))
    after, rate = np.cumsum(number), wrong / number
    before, earlier = after - number, np.cumsum(wrong) - wrong
    # Within a bin the risk at n pixels is (earlier + rate·(n − before))/n, whose integral is rate·number + …·ln.
    ratio = after[1:] / before[1:]
    area = wrong.sum() + ((earlier - rate * before)[1:] * np.log(ratio)).sum()
    return float(area / after[-1])


def reliability(
    pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> list[tuple[float, float, float]]:
    """Rows (mean confidence, accuracy, share of pixels) of bins of equal mass, from unsure to sure; none without
    pixels."""
    mass, sure, right = equal_mass(pixels, confidence, correct, bins)
    if not mass.sum():
        return []
    rows = np.stack([sure / mass, right / mass, mass / mass.sum()], 1)
    return [(float(c), float(a), float(s)) for c, a, s in rows]

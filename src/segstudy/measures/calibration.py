"""Calibration: expected calibration error, negative log-likelihood, risk and coverage, from sums over images.

Confidence is the probability of the predicted class. The sums of each image are in fixed, fine bins. Bins of equal mass
over the whole split are formed from them afterwards, so that each metric can be resampled over images.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segstudy.labels import IGNORE
from segstudy.measures.top_two import TopTwo, top_two

REGIONS = ("all", "foreground", "edge")
"""Pixels that are not ignored: all, those whose truth is not background, those near a true edge between classes."""

FINE = 300
"""Number of fine bins of u = −ln(1 − confidence), uniform in ln(1 + u/`UNSURE`) up to u = `SURE`.

Fine at both ends: saturated networks differ in 1 − confidence by orders of magnitude, and unsure ones with many classes
have a confidence near 0. Compared with sorted pixels, on simulated networks of 2 to 150 classes, saturated ones too:
the ECE is exact to .001, the area under the risk–coverage curve to .3 %."""

UNSURE, SURE = 0.05, 1000.0

Bins = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pixels, summed confidence and correct pixels of each bin, from low to high confidence."""


def confidence_sums(
    logits: Tensor, mask: Tensor, edge: Tensor | None, background: int | None, top: TopTwo | None = None
) -> dict[str, np.ndarray]:
    """Sums of one image for each region: `confidence_<region>_<pixels|confidence|correct>` (FINE,) and, as scalars,
    `nll_<region>` (nats) and `pixels_<region>`.

    logits (C,H,W), C ≥ 2, of any float type; mask (H,W) in 0…C−1 or 255; edge bool (H,W), or None without that region;
    background: a class, or None without the region foreground; top: `top_two` of the logits, if the caller has it.
    Source: Guo et al. 2017.
    """
    counted = mask != IGNORE
    scores = _scores(logits, torch.where(counted, mask, 0), top or top_two(logits))
    sureness, right, nll = (t.cpu().numpy() for t in scores)
    regions = {"all": counted}
    if background is not None:
        regions["foreground"] = counted & (mask != background)
    if edge is not None:
        regions["edge"] = counted & edge
    doubt = np.exp(-sureness)
    bins = FINE * np.log1p(sureness / UNSURE) / np.log1p(SURE / UNSURE)
    bins = np.minimum(bins, FINE - 1).astype(np.int64)
    sums: dict[str, np.ndarray] = {}
    for name, region in regions.items():
        inside = region.cpu().numpy()
        bin_of, correct = bins[inside], right[inside]
        pixels = np.bincount(bin_of, minlength=FINE)
        confidence = pixels - np.bincount(bin_of, doubt[inside], minlength=FINE)
        sums[f"confidence_{name}_pixels"] = pixels.astype(np.int32)
        sums[f"confidence_{name}_confidence"] = confidence.astype(np.float32)
        sums[f"confidence_{name}_correct"] = np.bincount(bin_of[correct], minlength=FINE).astype(np.int32)
        sums[f"nll_{name}"] = nll[inside].sum(dtype=np.float64)
        sums[f"pixels_{name}"] = np.asarray(len(bin_of))
    return sums


def _scores(logits: Tensor, mask: Tensor, top: TopTwo) -> tuple[Tensor, Tensor, Tensor]:
    """−ln(1 − confidence), whether the label is correct, and NLL of each pixel: float32 and bool (H,W)."""
    logits = logits.float()
    highest, label, second, _ = top
    distance = logits.gather(0, mask[None].long())[0] - highest
    # The other classes alone, relative to the highest of them: exact even where 1 − confidence would round to 0.
    powers = logits.scatter(0, label[None], -torch.inf).sub_(second).exp_()
    rest = second - highest + powers.sum(0).log()  # log-odds of the other classes against the highest
    return F.softplus(-rest), label == mask, F.softplus(rest) - distance


def fine_bins(sums: Mapping[str, np.ndarray], region: str = "all") -> Bins:
    """The fine bins of a region, from the sums of one image (FINE,) or of N images (N, FINE): float64."""
    pixels, confidence, correct = (
        np.asarray(sums[f"confidence_{region}_{what}"], np.float64) for what in ("pixels", "confidence", "correct")
    )
    return pixels, confidence, correct


def equal_mass(pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Bins:
    """Merge the fine bins (FINE,) into `bins` bins with equally many pixels; all 0 without pixels."""
    shares = _shares(pixels, bins)
    return pixels @ shares, confidence @ shares, correct @ shares


def _shares(pixels: np.ndarray, bins: int) -> np.ndarray:
    """The share of each fine bin in each bin of equal mass, (FINE, bins); a fine bin across a limit is divided."""
    upper = np.cumsum(pixels, dtype=np.float64)
    limits = np.linspace(0, upper[-1], bins + 1)
    overlap = np.minimum(upper[:, None], limits[1:]) - np.maximum((upper - pixels)[:, None], limits[:-1])
    return np.clip(overlap, 0, None) / np.maximum(pixels, 1)[:, None]


def ece_influence_terms(
    pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator (N,) of each image, from fine bins (N, FINE); the ratio of their sums is the ECE.

    Expected calibration error, 0…1, over bins of equal mass; positive by chance even for a calibrated network.
    The limits of the bins and the signs of their errors come from all images together and are held fixed.
    Source: Guo et al. 2017, with equal-mass bins.
    """
    shares = _shares(pixels.sum(0), bins)
    errors = (confidence - correct) @ shares
    return errors @ np.sign(errors.sum(0)), pixels.sum(1)


def risk_coverage(pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> float:
    """Area under the risk–coverage curve, 0…1: error rate of the most confident share of pixels, mean over all shares.

    From fine bins (FINE,), with errors assumed uniform within a bin; NaN without pixels. Source: Geifman et al. 2019.
    """
    filled = pixels > 0
    if not filled.any():
        return float("nan")
    number, wrong = (v[filled][::-1].astype(np.float64) for v in (pixels, pixels - correct))
    after, rate = np.cumsum(number), wrong / number
    before, earlier = after - number, np.cumsum(wrong) - wrong
    # In a bin, the risk at n pixels is (earlier + rate·(n − before))/n; its integral has a linear and a log part.
    ratio = after[1:] / before[1:]
    area = wrong.sum() + ((earlier - rate * before)[1:] * np.log(ratio)).sum()
    return float(area / after[-1])


def reliability(
    pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> list[tuple[float, float, float]]:
    """Rows (mean confidence, accuracy, share of pixels) of bins of equal mass, by confidence; [] without pixels."""
    mass, sure, right = equal_mass(pixels, confidence, correct, bins)
    if not mass.sum():
        return []
    rows = np.stack([sure / mass, right / mass, mass / mass.sum()], 1)
    return [(float(c), float(a), float(s)) for c, a, s in rows]

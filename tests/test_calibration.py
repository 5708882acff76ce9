"""Confidence: hand-worked sums, and fine bins against sorted pixels."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from segstudy.measures.calibration import (
    FINE,
    Bins,
    confidence_sums,
    ece_influence_terms,
    equal_mass,
    fine_bins,
    reliability,
    risk_coverage,
)


def network_output(
    classes: int = 5, side: int = 128, scale: float = 1.0, blur: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits of a simulated network and a truth drawn from their softmax at another temperature (1: calibrated)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(classes, side, side, generator=generator) * 2 * scale
    logits[0] += 3 * scale * torch.rand(side, side, generator=generator)
    chances = (logits * blur).softmax(0).permute(1, 2, 0).reshape(-1, classes)
    return logits, torch.multinomial(chances, 1, generator=generator).reshape(side, side)


def exact(logits: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness of the counted pixels, from unsure to sure; by the odds of the other classes, which
    order also what is 1 as a number."""
    confidence, label = logits.double().softmax(0).max(0)
    others = logits.double().scatter(0, label[None], -torch.inf)
    counted = mask != 255
    order = (logits.double().amax(0) - others.logsumexp(0))[counted].argsort(stable=True)
    return confidence[counted][order].numpy(), (label == mask)[counted][order].double().numpy()


def exact_ece(logits: Tensor, mask: Tensor, bins: int = 15) -> float:
    confidence, right = exact(logits, mask)
    parts = zip(np.array_split(confidence, bins), np.array_split(right, bins), strict=True)
    return sum(abs(c.sum() - r.sum()) for c, r in parts) / len(right)


def ece(pixels: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error from fine bins (FINE,), over bins of equal mass; NaN without pixels."""
    top, bottom = ece_influence_terms(pixels[None], confidence[None], correct[None], bins)
    mass, sure, right = equal_mass(pixels, confidence, correct, bins)
    assert top.sum() == pytest.approx(np.abs(sure - right).sum())
    assert bottom.sum() == pytest.approx(mass.sum())
    return float(top.sum() / bottom.sum()) if bottom.sum() else math.nan


def test_sums_by_hand() -> None:
    odds = torch.tensor([[[9.0, 1.0, 3.0, 1.0]], [[1.0, 4.0, 1.0, 1.0]]])  # softmax .9 .2 .75 .5 for class 0
    mask = torch.tensor([[0, 0, 1, 255]])
    sums = confidence_sums(odds.log(), mask, torch.tensor([[False, True, True, True]]), background=0)
    for region, pixels, confidence, right in (("all", 3, 2.45, 1), ("foreground", 1, 0.75, 0), ("edge", 2, 1.55, 0)):
        assert sums[f"pixels_{region}"] == pixels
        assert sums[f"confidence_{region}_pixels"].sum() == pixels
        assert sums[f"confidence_{region}_confidence"].sum() == pytest.approx(confidence)
        assert sums[f"confidence_{region}_correct"].sum() == right
    assert sums["nll_all"] == pytest.approx(-math.log(0.9 * 0.2 * 0.25))
    assert sums["nll_foreground"] == pytest.approx(-math.log(0.25))
    assert all(s.shape in ((), (FINE,)) for s in sums.values())


def test_regions_need_an_edge_and_a_background() -> None:
    logits, mask = network_output(side=8)
    assert {key.rsplit("_", 1)[-1] for key in confidence_sums(logits, mask, None, None) if "nll" in key} == {"all"}
    everywhere = confidence_sums(logits, mask, torch.ones_like(mask, dtype=torch.bool), background=1)
    assert everywhere["nll_edge"] == everywhere["nll_all"]
    assert everywhere["pixels_foreground"] == (mask != 1).sum()


def test_ignored_pixels_change_nothing() -> None:
    logits, mask = network_output(side=16)
    mask[:5] = 255
    other = logits.clone()
    other[:, :5] = -7 * logits[:, :5]
    edge = torch.ones_like(mask, dtype=torch.bool)
    for key, value in confidence_sums(logits, mask, edge, 0).items():
        np.testing.assert_array_equal(value, confidence_sums(other, mask, edge, 0)[key])
    nothing = confidence_sums(logits, torch.full_like(mask, 255), edge, 0)
    assert not any(value.any() for value in nothing.values())
    assert math.isnan(ece(*fine_bins(nothing)))
    assert math.isnan(risk_coverage(*fine_bins(nothing)))
    assert reliability(*fine_bins(nothing)) == []


@pytest.mark.parametrize("classes", [2, 5, 21])
@pytest.mark.parametrize(("scale", "blur"), [(1.0, 0.4), (0.3, 2.5), (3.0, 0.3), (10.0, 0.1), (30.0, 0.05)])
def test_figures_are_those_of_sorted_pixels(classes: int, scale: float, blur: float) -> None:
    logits, mask = network_output(classes, scale=scale, blur=blur)
    mask[:9, :9] = 255
    fine = fine_bins(confidence_sums(logits, mask, None, None))
    assert ece(*fine) == pytest.approx(exact_ece(logits, mask), abs=0.002)
    confidence, right = exact(logits, mask)
    risk = np.cumsum(1 - right[::-1]) / np.arange(1, len(right) + 1)
    assert risk_coverage(*fine) == pytest.approx(risk.mean(), rel=0.004)
    rows = np.array(reliability(*fine))
    np.testing.assert_allclose(rows[:, 0], [part.mean() for part in np.array_split(confidence, 15)], atol=0.01)
    np.testing.assert_allclose(rows[:, 1], [part.mean() for part in np.array_split(right, 15)], atol=0.04)  # of 1,000
    np.testing.assert_allclose(rows[:, 2], 1 / 15)


def test_scores_are_those_of_the_softmax() -> None:
    logits, mask = network_output(7)
    sums = confidence_sums(logits, mask, None, None)
    chances = logits.double().softmax(0)
    assert sums["nll_all"] == pytest.approx(torch.nn.functional.cross_entropy(logits[None], mask[None]) * mask.numel())
    assert sums["confidence_all_confidence"].sum() == pytest.approx(chances.amax(0).sum().item(), rel=1e-6)


def test_a_calibrated_network_has_none_and_an_overconfident_one_its_excess() -> None:
    calibrated = fine_bins(confidence_sums(*network_output(side=400), None, None))
    assert ece(*calibrated) < 0.004
    sure = torch.stack([torch.full((10, 10), math.log(9.0)), torch.zeros(10, 10)])
    mask = torch.zeros(10, 10, dtype=torch.long)
    mask[:4] = 1
    fine = fine_bins(confidence_sums(sure, mask, None, None))  # says .9, is right in .6
    assert ece(*fine) == pytest.approx(0.3)
    assert risk_coverage(*fine) == pytest.approx(0.4)  # no order among equals
    assert reliability(*fine) == [pytest.approx((0.9, 0.6, 1 / 15))] * 15


def test_certain_pixels_keep_their_order_and_do_not_overflow() -> None:
    logits = torch.tensor([[[12.0, 1000.0, -1000.0]], [[0.0, 0.0, 0.0]]])
    sums = confidence_sums(logits, torch.tensor([[0, 0, 0]]), None, None)
    assert sums["nll_all"] == pytest.approx(1000, rel=1e-6)
    # −ln(1 − confidence) is 12 for the first: bin 300·ln(1 + 12/.05)/ln(1 + 1000/.05) = 166.1. The others: the last.
    assert np.repeat(np.arange(FINE), sums["confidence_all_pixels"]).tolist() == [166, 299, 299]


def test_half_precision_and_argmax_agree() -> None:
    logits, mask = network_output(3, side=32)
    coarse = logits.mul(2).round().div(2).bfloat16()  # many ties
    sums = confidence_sums(coarse, mask, None, None)
    assert sums["confidence_all_correct"].sum() == (coarse.argmax(0) == mask).sum()


def test_equal_mass_divides_a_bin_between_two() -> None:
    pixels, confidence, correct = np.array([3.0, 0, 1]), np.array([1.5, 0, 1]), np.array([3.0, 0, 0])
    mass, sure, right = equal_mass(pixels, confidence, correct, bins=2)
    assert (mass.tolist(), sure.tolist(), right.tolist()) == ([2, 2], [1, 1.5], [2, 1])
    assert ece(pixels, confidence, correct, bins=2) == pytest.approx((1 + 0.5) / 4)
    # Surest pixel wrong: risk 1 up to coverage 1/4; then 1/n.
    assert risk_coverage(pixels, confidence, correct) == pytest.approx((1 + math.log(4)) / 4)


def stacked(images: int) -> Bins:
    outputs = [network_output(3, 24, blur=0.5 + (i % 7) / 10, seed=i) for i in range(images)]
    every = [confidence_sums(*output, None, None) for output in outputs]
    return fine_bins({key: np.stack([sums[key] for sums in every]) for key in every[0]})


def test_influence_terms_add_up_to_the_ece_and_give_its_standard_error() -> None:
    fine = stacked(120)
    top, bottom = ece_influence_terms(*fine)
    value = ece(*(part.sum(0) for part in fine))
    assert top.sum() / bottom.sum() == pytest.approx(value)
    error = np.std(top - value * bottom) / bottom.mean() / np.sqrt(len(top))
    weights = np.random.default_rng(0).multinomial(120, np.full(120, 1 / 120), size=400)
    draws = [ece(*(w @ part for part in fine)) for w in weights]
    assert error == pytest.approx(np.std(draws), rel=0.15)

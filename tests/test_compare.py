"""`segstudy.compare` on results and on arrays of counts."""

import numpy as np
import pytest

from segstudy.errors import DataError
from segstudy.study.compare import compare
from segstudy.study.results import TestResult


def counts(share: float, seed: int = 0, images: int = 60, classes: int = 3) -> np.ndarray:
    """(N,C,3) of a network that is right on about `share` of each class; the truth is the same for all."""
    truth = np.random.default_rng(99).integers(50, 100, (images, classes))
    right = np.random.default_rng(seed).binomial(truth, share)
    wrong = truth - right
    return np.stack([right, truth, right + np.roll(wrong, 1, 1)], 2)


def miou(counts: np.ndarray) -> float:
    right, truth, predicted = counts.sum(0).T
    return float((right / (truth + predicted - right)).mean())


def test_arrays_of_several_seeds_get_a_verdict() -> None:
    a, b = [counts(0.7, s) for s in range(3)], [counts(0.8, s + 3) for s in range(3)]
    found = compare(a, b)
    expected = np.mean([miou(c) for c in b]) - np.mean([miou(c) for c in a])
    assert found.difference == pytest.approx(expected, abs=1e-12)
    assert found.low < found.difference < found.high
    assert found.interval == (found.low, found.high)
    assert found.verdict == "better"
    assert found.classes.all()
    assert str(found).startswith("b is better than a in mIoU by ")
    back = compare(b, a)
    assert (back.verdict, back.difference) == ("worse", pytest.approx(-found.difference))


def test_one_training_a_side_is_ahead_not_better() -> None:
    assert compare(counts(0.7), counts(0.8, 1)).verdict == "ahead"


def test_sides_may_be_named() -> None:
    assert "checkpoint new is ahead of checkpoint old" in str(
        compare(counts(0.7), counts(0.8, 1), names=("old", "new"))
    )
    assert "checkpoint x b is ahead of checkpoint x a" in str(compare(counts(0.7), counts(0.8, 1), names=("x", "x")))


def test_one_training_a_side_within_the_margin_is_told_of_these_networks() -> None:
    a = counts(0.7)
    b = a + np.random.default_rng(3).integers(0, 2, (60, 1, 1)) * [1, 0, 1]
    found = compare(a, b, margin=0.1)
    assert found.verdict == "undecided"
    assert found.low > 0
    assert found.detectable < found.difference
    assert "undecided: checkpoints b and a are equal in mIoU within ±0.100 (0.0" in str(found)
    assert "One training each: this does not show that variant b is equal to a" in str(found)
    assert "smallest difference" not in str(found)


def test_identical_images_have_no_interval() -> None:
    truth = np.full((40, 2), 100)
    a, b = (np.stack([truth - wrong, truth, truth], 2) for wrong in (20, 10))
    assert "is +0.152, without an interval: all images show the same difference, or" in str(compare(a, b))


def test_results_give_what_their_arrays_give() -> None:
    a, b = counts(0.7), counts(0.72, 1)
    results = [TestResult.from_counts(*np.moveaxis(c, 2, 0), variant="net") for c in (a, b)]
    found, plain = compare(*results), compare(a, b)
    assert (found.difference, found.low, found.p) == (plain.difference, plain.low, plain.p)
    assert "net b" in str(found)


def test_rare_classes_carry_no_verdict() -> None:
    a, b = counts(0.6, images=60), counts(0.8, 1, images=60)
    assert compare(a, b, min_images=61).verdict == "undecided"
    assert "no verdict" in str(compare(a, b, min_images=61))


def test_groups_widen_the_interval() -> None:
    a, b = counts(0.7), counts(0.8, 1)
    doubled = compare(np.repeat(a, 2, 0), np.repeat(b, 2, 0), groups=np.repeat(np.arange(60), 2).tolist())
    plain = compare(a, b)
    assert doubled.high - doubled.low == pytest.approx(plain.high - plain.low, rel=0.05)
    with pytest.raises(DataError, match="3 labels for 60 images"):
        compare(a, b, groups=[1, 2, 3])


def test_other_images_or_truths_are_refused() -> None:
    a = counts(0.7)
    other = a.copy()
    other[0, :, 1:] += 1
    for b, said in ((a[:50], "same images"), (other, "same truth"), (a[..., :2], "expected: "), ([], "empty")):
        with pytest.raises(DataError, match=said):
            compare(a, b)


def test_counts_that_cannot_be_are_refused() -> None:
    right, truth, predicted = np.moveaxis(counts(0.7), 2, 0)
    for args, said in (
        ((right, truth[:5], predicted), "shapes"),
        ((right / truth, truth, predicted), "whole numbers"),
        ((truth + 1, truth, predicted), "at most"),
    ):
        with pytest.raises(DataError, match=said):
            TestResult.from_counts(*args)
    with pytest.raises(DataError, match="2 classes for"):
        TestResult.from_counts(right, truth, predicted, classes=["a", "b"])

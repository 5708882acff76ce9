"""Offsets on the background's logit: the argmax at 0, monotone shares, sums that add up, equal spill."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from segstudy.measures.operating_curve import BINS, EDGES, OFFSETS, at_equal_spill, curve, offset_sums
from segstudy.metrics import confusion

ZERO = OFFSETS.index(0.0)
B, F, M, C, G, O, H = range(7)  # noqa: E741


def drawn(classes: int = 5, side: int = 48, seed: int = 0, background: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and a truth of three classes that they tend to find."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.tensor([background, *[c for c in range(classes) if c != background][:2]])
    mask = names[torch.randint(0, len(names), (side, side), generator=generator)]
    logits = 3 * torch.randn(classes, side, side, generator=generator)
    logits.scatter_add_(0, mask[None], torch.full((1, side, side), 4.0))
    mask[:2] = 255
    return logits, mask


def test_cells_by_hand() -> None:
    # Logits of background, 1, 2; truth background, background, 1, 1, 1 and one ignored. Class 2 is not in the image.
    logits = torch.tensor(
        [[[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], [[1.5, -9.0, 3.0, -1.5, 0.5, 9.0]], [[0.5, -3.0, 1.0, -5.0, 2.0, 0.0]]]
    )
    mask = torch.tensor([[0, 0, 1, 1, 1, 255]])
    sums = offset_sums(logits, mask, 0)
    cells = dict(zip(OFFSETS, sums["offset_cells"].tolist(), strict=True))
    assert cells[-4.0] == [0, 2, 0, 0, 1, 1, 1]
    assert cells[-2.3] == [1, 2, 0, 0, 1, 1, 0]
    assert cells[0.0] == cells[-1.0] == cells[1.0] == [1, 1, 1, 0, 1, 1, 0]
    assert cells[2.3] == [2, 1, 2, 0, 0, 0, 0]
    assert cells[4.0] == [2, 0, 3, 0, 0, 0, 0]
    assert sums["offset_truth"].tolist() == [2, 3, 0]
    assert sums["offset_hit"][ZERO].tolist() == [1, 1, 0]
    assert sums["offset_predicted"][ZERO].tolist() == [2, 2, 1]
    rows = {row[0]: row[1:] for row in curve(sums)}
    assert rows[0.0] == pytest.approx((1 / 3, 1 / 2, 1 / 5, (1 / 3 + 1 / 4) / 2))  # class 2 has no truth
    assert rows[4.0] == pytest.approx((1, 0, 0, (2 / 5 + 0) / 2))


def test_confused_needs_the_other_class_in_the_image() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[1.0, 2.0]], [[0.0, 1.0]], [[5.0, 0.0]]])
    cells = offset_sums(logits, torch.tensor([[1, 2]]), 0)["offset_cells"][ZERO]
    assert cells.tolist() == [0, 0, 0, 1, 1, 0, 0]  # 2 called 1 is confused, 1 called 3 is foreign


@pytest.mark.parametrize("background", [0, 2, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_each_offset_is_an_argmax(background: int, ties: bool) -> None:
    logits, mask = drawn(background=background)
    if ties:
        logits = logits.round().bfloat16()
    sums = offset_sums(logits, mask, background)
    for i, offset in enumerate(OFFSETS):
        moved = logits.float().clone()
        moved[background] += offset
        counts = confusion(moved.argmax(0)[None], mask[None], 5).numpy()
        assert sums["offset_hit"][i].tolist() == counts.diagonal().tolist()
        assert sums["offset_predicted"][i].tolist() == counts.sum(0).tolist()
        assert sums["offset_truth"].tolist() == counts.sum(1).tolist()
        cells = sums["offset_cells"][i]
        assert cells.sum() == (mask != 255).sum()
        assert cells[B] == counts[background, background]
        assert cells[M] == counts[:, background].sum() - counts[background, background]
        assert cells[F] == counts.trace() - cells[B]
        assert cells[O] + cells[H] == counts[background].sum() - cells[B]


def test_missed_grows_and_spill_falls() -> None:
    rows = np.array(curve(offset_sums(*drawn(), 0)))
    assert (np.diff(rows[:, 1]) > 0).all()
    assert (np.diff(rows[:, 2]) < 0).all()
    assert rows[:, 4].argmax() not in (0, len(OFFSETS) - 1)


def test_sums_add_up_and_ignored_pixels_do_not_count() -> None:
    logits, mask = drawn()
    left, right = (offset_sums(logits[..., half], mask[..., half], 0) for half in (slice(0, 24), slice(24, 48)))
    for key, value in offset_sums(logits, mask, 0).items():
        np.testing.assert_array_equal(value, left[key] + right[key])
    other = logits.clone()
    other[:, mask == 255] *= -9
    for key, value in offset_sums(other, mask, 0).items():
        np.testing.assert_array_equal(value, left[key] + right[key])
    nothing = offset_sums(logits, torch.full_like(mask, 255), 0)
    assert not any(value.any() for value in nothing.values())
    assert np.isnan(np.array(curve(nothing))[:, 1:]).all()


def test_no_background_no_curve() -> None:
    assert offset_sums(*drawn(), None) == {}
    assert curve({}) == []


def test_two_classes_move_the_threshold_and_have_no_third_label() -> None:
    chance = torch.linspace(0.005, 0.995, 100)[None]
    logits = torch.stack([torch.zeros_like(chance), chance.logit()])
    sums = offset_sums(logits, torch.ones(1, 100, dtype=torch.long), 0)
    for offset, hit in zip(OFFSETS, sums["offset_hit"], strict=True):
        assert hit[1] == (chance > 1 / (1 + math.exp(-offset))).sum()
    rows = np.array(curve(sums))
    assert np.isnan(rows[:, 2:4]).all()  # no background in the truth, no third class
    assert rows[ZERO, 1] == pytest.approx(0.5)


def test_miou_over_the_supported_classes() -> None:
    sums = offset_sums(*drawn(), 0)
    only = np.array([False, True, False, False, True])  # class 4 has no truth
    hit, union = sums["offset_hit"], sums["offset_truth"] + sums["offset_predicted"] - sums["offset_hit"]
    assert curve(sums, only)[ZERO][4] == pytest.approx(hit[ZERO, 1] / union[ZERO, 1])


def margins(logits: Tensor, mask: Tensor) -> np.ndarray:
    return offset_sums(logits, mask, 0)["offset_margins"]


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 30.0, 5000.0])
@pytest.mark.parametrize("shift", [-6.0, -1.7, 0.4, 3.0])
def test_equal_spill_is_that_of_sorted_pixels(scale: float, shift: float) -> None:
    """The offset up to which as many background pixels are given up, among all of them."""
    (mine, mask), (other, same) = drawn(side=256, seed=1), drawn(side=256, seed=2)
    other = torch.where(same == mask, other, other.roll(1, 2)) * scale  # of another quality, not only moved
    mine = mine * scale
    mine[0] += shift * scale
    equal = at_equal_spill(margins(mine, mask), margins(other, mask), 5)
    ground, object_ = mask == 0, (mask == 1) | (mask == 2)
    spilled = int((other.argmax(0)[ground] != 0).sum())
    assert equal.spill == spilled / int(ground.sum())
    assert equal.missed_b == pytest.approx((other.argmax(0)[object_] == 0).double().mean().item())
    margin = mine[1:].amax(0) - mine[0]
    offset = margin[ground].sort(descending=True).values[spilled]
    assert equal.offset == pytest.approx(offset.item(), rel=0.02, abs=0.01)
    assert equal.missed_a == pytest.approx((margin[object_] <= offset).double().mean().item(), abs=3e-4)
    absent = (margin > offset) & (mine[1:].argmax(0) > 1)
    assert equal.hallucinated_a == pytest.approx(absent[ground | object_].double().mean().item(), abs=3e-4)


def test_margins_hold_the_curve() -> None:
    """At offset 0 exactly, ties as in the argmax; everything at the outermost."""
    logits, mask = drawn()
    logits = logits.round().bfloat16()
    sums = offset_sums(logits, mask, 0)
    assert EDGES[BINS // 2] == 0
    assert (np.diff(EDGES) > 0).all()
    kept = sums["offset_margins"][BINS // 2 :].sum(0)
    assert kept.tolist() == sums["offset_cells"][ZERO][[F, C, G, O, H]].tolist()
    assert sums["offset_margins"].sum() == (mask != 255).sum()
    far = offset_sums(torch.tensor([[[0.0, 9e9]], [[9e9, 0.0]]]), torch.tensor([[1, 0]]), 0)["offset_margins"]
    assert (far[-1, 0], far[0, 3]) == (1, 1)


def test_equal_spill_of_a_network_with_itself_moves_nothing() -> None:
    """Also where many offsets give the same spill: few background pixels, far apart."""
    for side in (8, 48):
        counts = margins(*drawn(side=side))
        same = at_equal_spill(counts, counts, 5)
        assert (same.offset, same.missed_a, same.hallucinated_a) == (0, same.missed_b, same.hallucinated_b)


def test_equal_spill_reaches_as_far_as_the_logits() -> None:
    logits, mask = drawn()
    timid = logits.clone()
    timid[0] += 20
    equal = at_equal_spill(margins(timid, mask), margins(logits, mask), 5)
    assert equal.offset == pytest.approx(-20, rel=0.05)
    assert equal.missed_a == pytest.approx(equal.missed_b, abs=0.005)
    objects = mask.clamp(min=1)  # no background in the truth: nothing can spill
    nothing = at_equal_spill(margins(timid, objects), margins(logits, objects), 5)
    assert math.isnan(nothing.missed_a)
    assert math.isnan(nothing.spill)


def test_what_is_in_the_image_may_be_told() -> None:
    """Class 3 lies in the image, but in no pixel of this size: where it is predicted is confused, not foreign."""
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]], [[5.0, 5.0]]])
    mask = torch.tensor([[1, 0]])
    for present, cells in ((None, [0, 0, 0, 0, 1, 0, 1]), ([0, 1, 3], [0, 0, 0, 1, 0, 1, 0])):
        sums = offset_sums(logits, mask, 0, None if present is None else np.array(present))
        assert sums["offset_cells"][ZERO].tolist() == cells
        assert sums["offset_margins"].sum(0).tolist() == [cells[i] for i in (F, C, G, O, H)]

"""Dividing images: shares of strata, whole groups, and drawing rare classes more often."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

from segstudy.build import build_data
from segstudy.config.compose import compose_config
from segstudy.data.sampler import EpochSampler, repeat_factors
from segstudy.data.splits import folds, hold_out

ALONE = [""] * 60
STRATA = ["common"] * 40 + ["rare"] * 20


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.5, 0.8])
def test_each_stratum_gives_its_share(share: float) -> None:
    held = hold_out(STRATA, ALONE, share, seed=3, name="select")
    assert abs(held[:40].sum() - 40 * share) <= 1
    assert abs(held[40:].sum() - 20 * share) <= 1


def test_the_seed_and_the_name_decide() -> None:
    drawn = {
        (seed, name): tuple(hold_out(STRATA, ALONE, 0.2, seed, name)) for seed in range(3) for name in ("select", "val")
    }
    assert len(set(drawn.values())) == 6
    assert tuple(hold_out(STRATA, ALONE, 0.2, 1, "val")) == drawn[1, "val"]


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_two_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [f"drive {g}" for g in rng.integers(0, 12, 60)]
    held = hold_out(STRATA, groups, 0.25, seed, "select")
    assert not {g for g, h in zip(groups, held, strict=True) if h} & {
        g for g, h in zip(groups, held, strict=True) if not h
    }
    assert 5 <= held.sum() <= 25
    fold = folds(STRATA, groups, 4, seed)
    assert all(len({f for f, other in zip(fold, groups, strict=True) if other == g}) == 1 for g in set(groups))


def test_folds_are_even_and_stratified() -> None:
    fold = folds(STRATA, ALONE, 5, seed=0)
    assert np.bincount(fold).tolist() == [12] * 5
    assert np.bincount(fold[:40]).tolist() == [8] * 5


def test_repeat_factors_by_hand() -> None:
    # class 0 in all 4 images, class 1 in two, class 2 in one: shares 1, .5, .25; their median .5
    pixels = np.array([[9, 0, 0], [9, 3, 0], [9, 3, 0], [9, 0, 1]])
    np.testing.assert_allclose(repeat_factors(pixels), [1, 1, 1, 2**0.5])


def test_balanced_order_draws_in_proportion_and_keeps_the_epochs_length() -> None:
    repeats = np.array([1.0] * 6 + [4.0, 2.0])
    order = EpochSampler(8, seed=0, repeats=repeats)
    drawn: Counter[int] = Counter()
    for epoch in range(300):
        order.set_epoch(epoch)
        epochs = [position % 8 for _, position in order]
        assert len(epochs) == 8
        expected = 8 * repeats / repeats.sum()
        counts = np.bincount(epochs, minlength=8)
        assert (abs(counts - expected) < 1 + 1e-9).all()
        drawn.update(epochs)
    np.testing.assert_allclose([drawn[i] / 300 for i in range(8)], 8 * repeats / repeats.sum(), atol=0.1)


def test_balanced_order_is_the_seeds_and_the_epochs() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        order = EpochSampler(8, seed, repeats=np.arange(1.0, 9))
        order.set_epoch(number)
        return [position for _, position in order]

    assert epoch(0, 1) == epoch(0, 1)
    assert epoch(0, 1) != epoch(0, 2)
    assert epoch(0, 1) != epoch(1, 1)


@pytest.mark.parametrize("world", [1, 2])
def test_a_repeated_image_is_another_position_each_time(world: int) -> None:
    repeats = np.array([1.0] * 6 + [9.0, 1.0])
    for epoch in range(5):
        plain, orders = [], [EpochSampler(8, 0, rank, world, repeats) for rank in range(world)]
        for order in orders:
            order.set_epoch(epoch)
        positions = [p for turn in zip(*orders, strict=True) for _, p in turn]  # as one process draws them
        images = [p % 8 for p in positions]
        for p in positions:
            plain.append(p % 8)
            assert p // 8 == plain[:-1].count(p % 8)
        assert images.count(6) >= 4
        assert len(set(positions)) == 8


def test_a_repeated_image_is_augmented_in_another_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["data.size=16", "data.train_images=8", "data.val_images=2", "data.batch_size=2"]
    data = build_data(compose_config([*small, "data.augment.scale=[0.5,2]", "data.balanced=true"]))
    monkeypatch.setattr("segstudy.data.datamodule.repeat_factors", lambda pixels: np.array([1.0] * 6 + [9.0, 1.0]))
    seen = []
    for data.batch_size in (2, 4):
        batches = [data.on_after_batch_transfer(b, 0) for b in data.train_dataloader()]
        index = torch.cat([b["index"] for b in batches]).tolist()
        seen.append((index, torch.cat([b["image"] for b in batches])))
    (index, image), (again, same) = seen
    assert index == again
    assert torch.equal(image, same)
    sixth = [image[i] for i, n in enumerate(index) if n == 6]
    assert len(sixth) >= 4
    assert not any(torch.equal(a, b) for a, b in combinations(sixth, 2))
    alone = data.on_after_batch_transfer(data.train_dataloader().dataset.__getitems__([(0, i) for i in range(8)]), 0)
    for n in set(index):  # the first time, and so an image that is not repeated, as without repeating
        assert torch.equal(image[index.index(n)], alone["image"][n])

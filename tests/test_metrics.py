"""Metrics: the confusion matrix by hand, and independence of batches and processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, distributed
from torchmetrics.classification import MulticlassJaccardIndex

from segstudy.data.sampler import EpochSampler, EvaluationSampler
from segstudy.measures.stored_rows import confusion_per_image, sum_rows
from segstudy.metrics import Confusion, Hallucinated, class_iou, class_table, confusion, failure_modes, summary
from segstudy.study.analysis.metrics import by_name
from segstudy.study.results import from_masks

TRUTH = torch.tensor([[0, 0, 0, 1], [1, 1, 255, 255]])[None]
PREDICTED = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 2]])[None]
BY_HAND = torch.tensor([[2, 1, 0], [1, 2, 0], [0, 0, 0]])


def images(n: int = 16, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Labels and masks that agree more in some images than in others, with ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, classes, (n, 6, 7), generator=generator)
    noise = torch.randint(0, classes, masks.shape, generator=generator)
    share = torch.linspace(0, 1, n).view(n, 1, 1)
    labels = torch.where(torch.rand(masks.shape, generator=generator) < share, masks, noise)
    masks[torch.rand(masks.shape, generator=generator) < 0.15] = 255
    return labels, masks


def test_confusion_by_hand() -> None:
    metric = Confusion(3)
    metric.update(PREDICTED, TRUTH)
    assert torch.equal(metric.compute(), BY_HAND)
    assert metric.compute().dtype == torch.int64


def test_summary_by_hand() -> None:
    # Each class: 2 hits, 1 missed, 1 false: IoU 2/4. Class 2 has no truth.
    assert class_iou(BY_HAND)[:2].tolist() == [0.5, 0.5]
    assert summary(BY_HAND) == pytest.approx(
        {"miou": 1 / 2, "pixel_accuracy": 2 / 3, "mean_accuracy": 2 / 3, "fw_iou": 1 / 2, "mean_dice": 2 / 3}
    )


def test_summary_of_uneven_classes_by_hand() -> None:
    counts = torch.tensor([[8, 2], [0, 10]])  # IoU 8/10 and 10/12
    assert summary(counts) == pytest.approx(
        {
            "miou": (8 / 10 + 10 / 12) / 2,
            "pixel_accuracy": 18 / 20,
            "mean_accuracy": (8 / 10 + 1) / 2,
            "fw_iou": (10 * 8 / 10 + 10 * 10 / 12) / 20,
            "mean_dice": (16 / 18 + 20 / 22) / 2,
        }
    )


def test_mean_dice_and_frequency_weighting_are_those_of_the_counts() -> None:
    counts = torch.tensor([[60, 5, 5], [10, 15, 0], [0, 2, 3]]).double()
    named, truth, predicted = summary(counts), counts.sum(1), counts.sum(0)
    assert named["mean_dice"] == pytest.approx((2 * counts.diag() / (truth + predicted)).mean().item())
    assert named["fw_iou"] == pytest.approx((truth / 100 * class_iou(counts)).sum().item())
    assert 0 < named["fw_iou"] != pytest.approx(named["miou"])


def test_a_class_without_truth_is_nan_and_in_no_mean() -> None:
    counts = torch.tensor([[9, 0, 1], [0, 10, 0], [0, 0, 0]])  # one pixel predicted as a class that is never true
    assert math.isnan(class_iou(counts)[2])
    named = summary(counts)
    assert named["miou"] == pytest.approx((0.9 + 1) / 2)  # over three classes it would be .63
    assert named["mean_accuracy"] == pytest.approx((0.9 + 1) / 2)
    assert named["mean_dice"] == pytest.approx((18 / 19 + 1) / 2)


def test_a_class_never_true_counts_only_as_an_error_on_others() -> None:
    without, with_it = torch.tensor([[8, 2], [1, 9]]), torch.tensor([[8, 0, 2], [1, 9, 0], [0, 0, 0]])
    # The two wrong pixels of class 0 go to class 2 and no longer spoil class 1: 9/12 becomes 9/10.
    assert class_iou(without).tolist() == pytest.approx([8 / 11, 9 / 12])
    assert class_iou(with_it)[:2].tolist() == pytest.approx([8 / 11, 9 / 10])
    assert summary(with_it)["pixel_accuracy"] == summary(without)["pixel_accuracy"] == 17 / 20


def test_nothing_counted_is_nan() -> None:
    assert all(math.isnan(v) for v in summary(torch.zeros(3, 3)).values())


def test_class_table_by_hand() -> None:
    counts = torch.tensor([[6, 2, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    counts[0, 2] = 2  # "bird" is predicted but never true, "fish" is neither
    rows = class_table(counts, ["background", "cat", "bird", "fish"])
    assert [r["class"] for r in rows] == ["background", "cat", "bird"]
    assert rows[0] == pytest.approx(
        {"class": "background", "iou": 0.6, "recall": 0.6, "precision": 1, "share": 10 / 12}
    )
    assert rows[1] == pytest.approx({"class": "cat", "iou": 0.5, "recall": 1, "precision": 0.5, "share": 2 / 12})
    assert math.isnan(rows[2]["iou"])
    assert math.isnan(rows[2]["recall"])
    assert (rows[2]["precision"], rows[2]["share"]) == (0, 0)


def test_the_mean_of_the_table_is_the_summarys() -> None:
    counts = confusion(*images(), 5)
    rows = class_table(counts, list("abcde"))
    assert np.mean([r["iou"] for r in rows]) == pytest.approx(summary(counts)["miou"])
    assert np.mean([r["recall"] for r in rows]) == pytest.approx(summary(counts)["mean_accuracy"])


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_batch_size_changes_nothing(size: int) -> None:
    labels, masks = images()
    metric = Confusion(5)
    for i in range(0, 16, size):
        metric.update(labels[i : i + size], masks[i : i + size])
    assert torch.equal(metric.compute(), confusion(labels, masks, 5))
    assert metric.compute().sum() == (masks != 255).sum()


def test_all_ignored_adds_nothing() -> None:
    labels, masks = images()
    assert not confusion(labels, torch.full_like(masks, 255), 5).any()


def test_equals_torchmetrics_where_every_class_has_truth() -> None:
    labels, masks = images()
    theirs = MulticlassJaccardIndex(5, ignore_index=255, average=None)(labels, masks)
    assert class_iou(confusion(labels, masks, 5)).tolist() == pytest.approx(theirs.tolist(), rel=1e-5)
    mean = MulticlassJaccardIndex(5, ignore_index=255)(labels, masks)
    assert summary(confusion(labels, masks, 5))["miou"] == pytest.approx(mean.item(), rel=1e-5)


def random_labels(seed: int, classes: int) -> tuple[Tensor, Tensor]:
    """Labels and masks (4,9,11) of which each holds only some classes, and void; one mask is all void."""
    draw = torch.Generator().manual_seed(seed)
    labels, mask = torch.randint(0, classes, (2, 4, 9, 11), generator=draw)
    mask = torch.where(torch.rand(mask.shape, generator=draw) < 0.2, 255, mask.clamp(max=classes // 2))
    mask[3] = 255
    return labels, mask


@pytest.mark.parametrize(("classes", "background"), [(6, 0), (6, 2), (6, None), (2, 1), (2, None), (3, 0)])
def test_failure_modes_are_the_studys_figures(classes: int, background: int | None) -> None:
    counts, hallucinated = Confusion(classes), Hallucinated(background)
    pairs = []
    for seed in range(3):
        labels, mask = random_labels(seed, classes)
        counts.update(labels, mask)
        hallucinated.update(labels, mask)
        arrays = ((t.to(torch.uint8).numpy() for t in pair) for pair in zip(mask, labels, strict=True))
        pairs += [(f"{seed} {i}", *pair) for i, pair in enumerate(arrays)]
    tested = from_masks("v", pairs, [str(c) for c in range(classes)], background)
    there = failure_modes(counts.compute(), hallucinated.compute(), background)
    for name in ("missed", "spilled", "mislabelled", "hallucinated"):
        terms = by_name(name).of(tested)
        if terms is None:
            assert name not in there
        else:
            assert there[name] == pytest.approx(terms[0].sum() / terms[1].sum(), abs=1e-12)


def test_failure_modes_by_hand() -> None:
    # background 0; the second image holds only class 1, so class 2 is hallucinated there, in one pixel that counts
    mask = torch.tensor([[[0, 0, 1, 2]], [[0, 1, 1, 255]]])
    labels = torch.tensor([[[0, 1, 0, 1]], [[0, 1, 2, 2]]])
    counts, hallucinated = confusion(labels, mask, 3), Hallucinated(0)
    hallucinated.update(labels, mask)
    assert failure_modes(counts, hallucinated.compute(), 0) == pytest.approx(
        {"missed": 1 / 4, "spilled": 1 / 3, "mislabelled": 2 / 3, "hallucinated": 1 / 7}
    )


def test_of_nothing_found_no_share_is_mislabelled() -> None:
    counts = confusion(torch.zeros(1, 1, 3, dtype=torch.int64), torch.tensor([[[0, 1, 2]]]), 3)
    shares = failure_modes(counts, torch.tensor(0), 0)
    assert math.isnan(shares.pop("mislabelled"))
    assert shares == {"missed": 1, "spilled": 0, "hallucinated": 0}


def test_sparse_rows_agree_with_the_confusion_matrix() -> None:
    labels, masks = images()
    each = np.stack([confusion(x, y, 5).numpy() for x, y in zip(labels, masks, strict=True)])
    rows = np.array([[*at, each[tuple(at)]] for at in np.argwhere(each)])
    assert np.array_equal(confusion_per_image(rows, 5), each)
    assert np.array_equal(confusion_per_image(rows[::-1], 5, images=18)[:16], each)
    assert not confusion_per_image(rows, 5, images=18)[16:].any()
    assert np.array_equal(sum_rows(rows, (1, 2), (5, 5)), confusion(labels, masks, 5).numpy())


@pytest.mark.parametrize("length", [1, 2, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_image_is_evaluated_once(length: int, world: int) -> None:
    orders = [list(EvaluationSampler(np.full((length, 2), 8), 1, 64, rank, world)) for rank in range(world)]
    assert len({len(order) for order in orders}) == 1  # else the processes would wait for each other for ever
    assert sorted(i for order in orders for (i,) in order if i >= 0) == list(range(length))


def test_processes_train_on_different_images_and_equally_many() -> None:
    orders = [EpochSampler(7, 3, rank, 2) for rank in range(2)]
    first = [list(order) for order in orders]
    assert [len(f) for f in first] == [len(o) for o in orders] == [3, 3]
    assert len({*first[0], *first[1]}) == 6
    assert [list(order) for order in orders] == first
    for order in orders:
        order.set_epoch(1)
    assert [list(order) for order in orders] != first


def _evaluate(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    labels, masks = images(7)
    metric = Confusion(5)
    for (i,) in EvaluationSampler(np.full((7, 2), 8), 1, 64, rank, world):
        mask = masks[i] if i >= 0 else torch.full_like(masks[0], 255)  # what the loader gives for −1
        metric.update(labels[i][None], mask[None])
    own = metric.counts.clone()
    torch.save({"own": own, "counts": metric.compute()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_count_as_one(tmp_path: Path) -> None:
    # Forked, since a fresh process would spend most of a minute on importing torch and its libraries.
    mp.start_processes(_evaluate, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    expected = confusion(*images(7), 5)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert all(torch.equal(part["counts"], expected) for part in parts)
    assert all(0 < part["own"].sum() < expected.sum() for part in parts)

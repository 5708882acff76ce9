"""Runs whose images have different shapes: what their tests write, and what pictures show of them."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from test_crops import Painted
from torch import nn
from torch.utils.data import DataLoader

import segstudy
from segstudy.callbacks import per_image_confusion, pictures
from segstudy.callbacks.per_image_confusion import PerImageConfusion
from segstudy.callbacks.per_image_errors import PerImageErrors, measured_at, middle
from segstudy.callbacks.pictures import Pictures
from segstudy.callbacks.test_diagnostics import TestDiagnostics
from segstudy.drawing import WIDTH, image_grid, photo_of
from segstudy.errors import DamagedFile
from segstudy.inference.crf import CRFEvaluation
from segstudy.inference.tta import TTAEvaluation
from segstudy.labels import IGNORE, reduced_labels, reduced_logits, reduction
from segstudy.runs.image_arrays import Compressed, read_image_arrays, write_image_arrays

SHAPES = [(40, 60), (64, 32), (24, 24), (40, 60)]
CLASSES = ["background", "cat", "dog"]


def images(seed: int = 0) -> list[dict[str, Any]]:
    """An image of each of SHAPES, whose red is the label times 100, with a border of void."""
    rng = np.random.default_rng(seed)
    made = []
    for index, (height, width) in enumerate(SHAPES):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 1 + index % 2
        mask[:2] = IGNORE
        image = rng.integers(0, 50, (height, width, 3), dtype=np.uint8)
        image[..., 0] = np.where(mask == IGNORE, 0, mask) * 100
        made.append({"image": image, "mask": mask, "index": index})
    return made


class ByRed(nn.Module):
    """Logits that are highest for the label whose red an image has."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        red = image[:, :1] * 2.55
        return -((red - torch.arange(3.0).view(1, 3, 1, 1)) ** 2) * 9


def module() -> segstudy.SegmentationModule:
    return segstudy.SegmentationModule(ByRed(), nn.CrossEntropyLoss(ignore_index=IGNORE), CLASSES, background=0)


def batches() -> list[dict[str, torch.Tensor]]:
    """Each image in a batch of its own, the last first."""
    return [
        {
            "image": torch.from_numpy(one["image"]).permute(2, 0, 1)[None],
            "mask": torch.from_numpy(one["mask"]).long()[None],
            "index": torch.tensor([one["index"]]),
        }
        for one in reversed(images())
    ]


def measured(folder: Path, max_side: int) -> PerImageErrors:
    errors = PerImageErrors(max_side)
    run_test(folder, errors)
    assert errors.not_measured == {}
    return errors


def run_test(folder: Path, errors: PerImageErrors) -> None:
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[PerImageConfusion(), errors],
    )  # fmt: skip
    trainer.test(module(), dataloaders=DataLoader(batches(), batch_size=None), verbose=False)


def test_a_test_stores_images_of_different_shapes_by_index(tmp_path: Path) -> None:
    assert measured(tmp_path, 1024).entries == {"measured_at": "network size"}
    saved = read_image_arrays(tmp_path / "test" / "labels.npz")
    assert list(saved) == ["labels", "truth"]
    assert [a.shape for a in saved["truth"]] == SHAPES
    for one, truth, labels in zip(images(), saved["truth"], saved["labels"], strict=True):
        np.testing.assert_array_equal(truth, one["mask"])
        np.testing.assert_array_equal(labels, np.where(truth == IGNORE, 0, truth))
    with np.load(tmp_path / "test" / "measures.npz") as sums:
        assert sums["names"].tolist() == ["0", "1", "2", "3"]
        objects = [150, 128, 36, 150]
        pixels = [38 * 60, 62 * 32, 22 * 24, 38 * 60]
        assert sums["cells"][:, 1].tolist() == objects
        assert sums["cells"][:, 0].tolist() == [whole - found for whole, found in zip(pixels, objects, strict=True)]
        assert not sums["cells"][:, 2:].any()


def test_large_images_are_measured_at_a_power_of_two_of_their_size(tmp_path: Path) -> None:
    at = "share of network size: 1/1 for 1 image, 1/2 for 3 images"
    assert measured(tmp_path, max_side=32).entries == {"measured_at": at}
    saved = read_image_arrays(tmp_path / "test" / "labels.npz")
    assert [a.shape for a in saved["labels"]] == [(20, 30), (32, 16), (24, 24), (20, 30)]
    np.testing.assert_array_equal(saved["truth"][1], images()[1]["mask"][1::2, 1::2])
    with np.load(tmp_path / "test" / "measures.npz") as sums:
        assert sums["pixels_all"].tolist() == [19 * 30, 31 * 16, 22 * 24, 19 * 30]
        # the middle 32×32 at most, without an eighth at each side
        assert sums["shift_compared"].tolist() == [24 * 24, 24 * 24, 18 * 18, 24 * 24]


def test_an_image_too_small_for_shifts_is_left_out_of_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SHAPES", [(1, 1), *SHAPES[1:]])
    errors = PerImageErrors()
    run_test(tmp_path, errors)
    what = "shift_consistency of 1 image"
    assert errors.not_measured == {what: "DataError: a side below 3 pixels"}
    assert f"not measured: {what}: " in capsys.readouterr().out
    with np.load(tmp_path / "test" / "measures.npz") as sums:
        assert sums["shift_compared"].tolist() == [0, 56 * 24, 18 * 18, 30 * 50]
    monkeypatch.setattr(sys.modules[__name__], "SHAPES", [(1, 1), (2, 5)])
    errors = PerImageErrors()
    run_test(tmp_path, errors)
    assert errors.not_measured == {"shift_consistency": "DataError: a side below 3 pixels"}
    with np.load(tmp_path / "test" / "measures.npz") as sums:
        assert "shift_compared" not in sums


def test_words_for_the_size_of_measurement() -> None:
    assert measured_at([1, 1]) == "network size"
    assert measured_at([2, 1, 4, 4]) == "share of network size: 1/1 for 1 image, 1/2 for 1 image, 1/4 for 2 images"


@pytest.mark.parametrize(
    ("shape", "side", "factor"), [((8, 8), 8, 1), ((8, 9), 8, 2), ((17, 3), 8, 4), ((16, 3), 8, 2)]
)
def test_the_reduction_is_the_smallest_power_of_two(shape: tuple[int, int], side: int, factor: int) -> None:
    assert reduction(shape, side) == factor
    reduced = reduced_labels(np.zeros(shape, np.uint8), factor)
    assert reduction(shape, max(reduced.shape)) == factor  # so that it is known from the stored labels


def test_reduced_logits_are_of_the_mean_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 5 * torch.randn(3, 7, 10, generator=torch.Generator().manual_seed(0))
    expected = torch.empty(3, 4, 5)
    for y in range(4):
        for x in range(5):
            expected[:, y, x] = logits.softmax(0)[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
    torch.testing.assert_close(reduced_logits(logits, 2).softmax(0), expected)
    monkeypatch.setattr("segstudy.labels.VALUES", 1)  # in strips of a block
    torch.testing.assert_close(reduced_logits(logits, 2).softmax(0), expected)
    assert reduced_logits(logits, 1) is logits
    sure = torch.tensor([500.0, -500.0]).view(2, 1, 1).expand(2, 4, 4)
    assert reduced_logits(sure, 2).isfinite().all()


def test_reduced_labels_are_middle_pixels() -> None:
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert reduced_labels(labels, 2).tolist() == [[8, 10, 12, 13], [22, 24, 26, 27], [29, 31, 33, 34]]
    assert reduced_labels(torch.from_numpy(labels), 2).tolist() == reduced_labels(labels, 2).tolist()
    photo = np.repeat(labels[..., None], 3, 2)
    assert photo_of(photo, 2).shape == (3, 4, 3)
    assert photo_of(photo, 2)[0, 0, 0] == 4  # the mean of 0, 1, 7 and 8


def test_the_middle_of_an_image() -> None:
    image = torch.arange(35).view(1, 1, 5, 7)
    assert middle(image, (3, 2))[0, 0].tolist() == [[9, 10], [16, 17], [23, 24]]
    assert torch.equal(middle(image, (8, 7)), image)


def test_arrays_of_different_shapes_are_read_as_written(tmp_path: Path) -> None:
    arrays = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.zeros((1, 5, 3), np.uint8)] + [
        np.ones((1, 1), np.uint8)
    ] * 9
    file = tmp_path / "new.npz"
    with file.open("wb") as opened:
        write_image_arrays(opened, {"image": [Compressed.of(a) for a in arrays]}, names=np.array(["a", "b"]))
    read = read_image_arrays(file)
    assert read["names"].tolist() == ["a", "b"]  # type: ignore[attr-defined]
    for array, again in zip(arrays, read["image"], strict=True):
        np.testing.assert_array_equal(array, again)
    with np.load(file, allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["image/0"], arrays[0])
    np.savez_compressed(tmp_path / "old.npz", labels=np.stack([arrays[0]] * 2))
    assert read_image_arrays(tmp_path / "old.npz")["labels"][1].tolist() == arrays[0].tolist()


def test_a_damaged_file_of_images_is_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.npz"
    with file.open("wb") as opened:
        write_image_arrays(opened, {"labels": [np.random.default_rng(0).integers(0, 9, (50, 50), np.uint8)]})
    whole = file.read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    broken = whole[:200] + bytes(50) + whole[250:]
    for content in (whole[:-30], broken, b"", b"cut", (tmp_path / "array.npy").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(DamagedFile, match=r"labels\.npz is damaged"):
            read_image_arrays(file)


def test_a_test_of_whole_images(tmp_path: Path) -> None:
    """All that a run's test measures and draws, with data.fit=crop; the largest images are seen in tiles."""
    data = Painted(size=32, batch_size=3, fit="crop", tiles=16, cache_dir=str(tmp_path / "cache"), augment=None)
    network = nn.Conv2d(3, 4, 3, padding=1)
    model = segstudy.SegmentationModule(network, nn.CrossEntropyLoss(ignore_index=IGNORE), data.classes, background=0)
    diagnostics = [
        PerImageErrors(64), TestDiagnostics(), Pictures(count=4), TTAEvaluation(scales=[1, 1.5]), CRFEvaluation(1, 1),
    ]  # fmt: skip
    confusion = PerImageConfusion()
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[confusion, *diagnostics],
    )  # fmt: skip
    trainer.test(model, datamodule=data, verbose=False)
    record = per_image_confusion.test_record([confusion, *diagnostics], data.classes)
    assert record["not_measured"] == {}
    assert record["images_tested"] == 6
    assert record["measured_at"] == "share of network size: 1/2 for 5 images, 1/4 for 1 image"
    assert record["receptive_field"]["theoretical"] == 3
    assert record["metrics_fit"]["images"] == 6
    assert record["metrics"]["network"] == record["metrics"]["original"]
    assert {"metrics_tta", "metrics_crf"} <= record.keys()
    labels, samples = (read_image_arrays(tmp_path / "test" / f"{name}.npz") for name in ("labels", "samples"))
    assert [a.shape for a in labels["labels"]] == [(30, 40), (21, 49), (60, 17), (30, 40), (2, 38), (30, 40)]
    for name, truth, image in zip(samples["names"], samples["truth"], samples["image"], strict=True):
        assert truth.shape == Painted.shapes[int(str(name)[-1])]
        np.testing.assert_array_equal(image[..., 0], 10 * truth)


def test_samples_of_large_images_are_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SIDE", 40)
    data = Painted(size=32, batch_size=3, fit="crop", cache_dir=str(tmp_path), augment=None)
    data.setup()
    model = segstudy.SegmentationModule(nn.Conv2d(3, 4, 1), nn.CrossEntropyLoss(), data.classes)
    assert [a.shape for a in pictures._sample(model, data, data.roles["report"], 1)] == [
        (11, 25, 3),
        (11, 25),
        (11, 25),
    ]


def test_each_row_of_a_grid_is_as_high_as_its_pictures() -> None:
    rows = [[np.zeros((height, width, 3), np.uint8)] * 2 for height, width in ((50, 100), (100, 100), (400, 100))]
    images = image_grid(rows, ["image", "truth"], {}).axes[0].images
    left, right, bottom, top = np.array([images[2 * r].get_extent() for r in range(3)]).T
    assert (top - bottom) == pytest.approx(WIDTH * np.array([0.5, 1, 1.5]))
    assert (right - left) == pytest.approx(WIDTH * np.array([1, 1, 1.5 / 4]))  # the third is fitted in
    assert (bottom[:-1] > top[1:]).all()

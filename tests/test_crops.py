"""Windows of images at their own size: the right pixels, without aliasing, the same for the same seed."""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from segstudy.data.crops import TRIES, RandomWindows, around_class, is_filled, random_corner
from segstudy.data.datamodule import SegmentationData
from segstudy.data.fit import Fit
from segstudy.data.images import Sample
from segstudy.data.transforms.augment import Augment
from segstudy.errors import ConfigError, DataError
from segstudy.losses import CrossEntropy
from segstudy.module import SegmentationModule

PLAIN: dict[str, Any] = {"brightness": 0, "contrast": 0}


class Painted(SegmentationData):
    """Images of several shapes whose masks are known from their colours: red is 10 × the label."""

    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    labels = {255: 255}
    shapes = ((60, 80), (41, 97), (120, 33), (60, 80), (5, 150), (60, 80))
    images: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def samples(self, split: str) -> list[Sample]:
        return [Sample(f"{split}{i}") for i in range(len(self.shapes))]

    def image_shape(self, sample: Sample) -> tuple[int, int]:
        return self.shapes[int(sample.name[-1])]

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        if sample.name in self.images:
            return *self.images[sample.name], ""
        rng = np.random.default_rng(int(sample.name[-1]))
        shape = self.image_shape(sample)
        blocks = rng.integers(0, 4, (shape[0] // 10 + 1, shape[1] // 10 + 1))
        mask = np.kron(blocks, np.ones((10, 10), int))[: shape[0], : shape[1]].astype(np.uint8)
        image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        image[..., 0] = 10 * mask
        return image, mask, ""


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def made(kind: type[Painted] = Painted, **settings: Any) -> Painted:
        usual = {"size": 32, "batch_size": 3, "fit": "crop", "cache_dir": str(tmp_path), "max_class_share": 1}
        data = kind(**usual | settings)
        data.setup()
        return data

    return made


def holding(image: np.ndarray, mask: np.ndarray | None = None) -> type[Painted]:
    """A data set of three times this image."""
    mask = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
    names = {f"{split}{i}": (image, mask) for split in ("train", "val") for i in range(3)}
    return type("One", (Painted,), {"shapes": (image.shape[:2],) * 3, "images": names})


def named_shapes() -> list[tuple[str, tuple[int, int]]]:
    return [(f"{split}{i}", shape) for split in ("train", "val") for i, shape in enumerate(Painted.shapes)]


def batches(data: Painted, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def smooth(height: int, width: int) -> np.ndarray:
    """A picture with detail at several scales."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


# Which pixels


@pytest.mark.parametrize("flip", [0, 1])
def test_a_window_without_zoom_is_a_slice_of_the_image(make: Any, flip: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    mask = (np.arange(50)[:, None] // 9 + np.arange(70) // 11).astype(np.uint8) % 4
    data = make(holding(image, mask), size=(32, 24), augment=Augment(flip=flip, scale=(1, 1), **PLAIN))
    for epoch in range(3):
        (batch,) = batches(data, epoch)
        for pixels, labels in zip(batch["image"], batch["mask"], strict=True):
            found = (pixels.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
            found, labels = (found[:, ::-1], labels.numpy()[:, ::-1]) if flip else (found, labels.numpy())
            places = [(y, x) for y in range(19) for x in range(47) if (image[y : y + 32, x : x + 24] == found).all()]
            ((y, x),) = places
            np.testing.assert_array_equal(labels, mask[y : y + 32, x : x + 24])


def test_windows_are_anywhere_in_the_image() -> None:
    corners = np.array([random_corner(np.array([50, 20]), np.array([32.0, 24.0]), n) for n in np.random.rand(500, 2)])
    assert set(corners[:, 0]) == set(range(19))
    assert set(corners[:, 1]) == {-4, -3, -2, -1, 0}  # the image anywhere in the window


@pytest.mark.parametrize("zoom", [0.4, 0.6, 0.7, 0.9])
def test_shrinking_is_as_smooth_as_pillows_resize(make: Any, zoom: float) -> None:
    image = smooth(64, 64)
    side = round(64 * zoom)
    data = make(holding(image), size=side, augment=Augment(flip=0, scale=(side / 64, side / 64), **PLAIN))
    (batch,) = batches(data)
    expected = np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR), float)
    found = batch["image"][0].permute(1, 2, 0).numpy() * 255
    coarse = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (side, side), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0).numpy()  # fmt: skip
    assert abs(found - expected).mean() < 5
    if zoom < 0.8:
        assert abs(found - expected).mean() < abs(coarse - expected).mean()


def test_shrinking_has_no_aliasing(make: Any) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    data = make(holding(stripes), size=32, augment=Augment(flip=0, scale=(0.5, 0.5), **PLAIN))
    (batch,) = batches(data)
    torch.testing.assert_close(batch["image"], torch.full_like(batch["image"], 0.5), atol=0.01, rtol=0)


def test_an_image_smaller_than_the_window_is_padded(make: Any) -> None:
    image, mask = np.full((10, 20, 3), 200, np.uint8), np.ones((10, 20), np.uint8)
    data = make(holding(image, mask), size=32, augment=Augment(scale=(1, 1), **PLAIN))
    (batch,) = batches(data)
    for pixels, labels in zip(batch["image"], batch["mask"], strict=True):
        assert (labels == 1).sum() == 200
        assert (labels == 255).sum() == 32 * 32 - 200
        torch.testing.assert_close(pixels[:, labels == 255], torch.full_like(pixels[:, labels == 255], 0.45))
        torch.testing.assert_close(pixels[:, labels == 1], torch.full_like(pixels[:, labels == 1], 200 / 255))


@pytest.mark.parametrize("rotation", [0.0, 45.0])
def test_what_lies_beyond_an_image_does_not_darken_its_border(make: Any, rotation: float) -> None:
    white = {name: (np.full((*s, 3), 255, np.uint8), np.zeros(s, np.uint8)) for name, s in named_shapes()}
    kind = type("White", (Painted,), {"images": white})
    data = make(kind, augment=Augment(scale=(0.25, 0.6), rotation=rotation, **PLAIN))
    for batch in batches(data) + batches(data, 1):
        counted = batch["image"].permute(0, 2, 3, 1)[batch["mask"] != 255]
        torch.testing.assert_close(counted, torch.ones_like(counted))


@pytest.mark.parametrize(
    "settings", [{"rotation": 40.0}, {"scale": (0.4, 2.5)}, {"rotation": 180.0, "scale": (0.5, 2)}]
)
def test_labels_stay_on_their_pixels(make: Any, settings: dict[str, Any]) -> None:
    data = make(augment=Augment(**{"scale": (1, 1)} | settings, **PLAIN))
    for batch in batches(data) + batches(data, 1):
        counted = batch["mask"] != 255
        red = batch["image"][:, 0] * 255 / 10
        near = (red - batch["mask"]).abs() < 0.35  # between two labels the colour is interpolated, the label is not
        assert near[counted].float().mean() > 0.75
        assert counted.float().mean() > 0.1


def test_every_shape_gives_whole_batches(make: Any) -> None:
    data = make(size=(40, 24))
    found = batches(data)
    assert [tuple(b["image"].shape) for b in found] == [(3, 3, 40, 24)] * 2
    assert [tuple(b["mask"].shape) for b in found] == [(3, 40, 24)] * 2
    order = [position for _, position in data.train_dataloader().sampler]
    assert [i for b in found for i in b["index"].tolist()] == order  # not sorted by zoom: neighbours are mixed
    assert sorted(order) == list(range(6))


def test_a_window_depends_on_seed_epoch_and_index_alone(make: Any) -> None:
    def images(epoch: int = 0, **settings: Any) -> dict[int, torch.Tensor]:
        found = batches(make(**settings), epoch)
        return {int(i): image for b in found for i, image in zip(b["index"], b["image"], strict=True)}

    first = images()
    for same in (images(), images(batch_size=2), images(device_cache=True), images(cache=False)):
        assert all(torch.allclose(first[i], image, atol=2e-4) for i, image in same.items())
    for other in (images(1), images(seed=1)):
        assert not any(torch.equal(first[i], image) for i, image in other.items())


# Which windows


def test_a_window_filled_by_one_class_is_drawn_again() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 60:] = 1
    extent = np.array([20.0, 20.0])
    tries = np.random.default_rng(0).random((200, TRIES, 2))

    def share(windows: RandomWindows) -> float:
        corners = [windows.centre(mask, extent, t) - extent / 2 for t in tries]
        return float(np.mean([is_filled(mask, corner, extent, 0.75) for corner in corners]))

    assert share(RandomWindows(1)) > 0.8
    assert share(RandomWindows(0.75)) < 0.25
    assert not is_filled(np.full((9, 9), 255, np.uint8), np.zeros(2), np.array([9.0, 9.0]), 0.75)  # nothing is counted


def test_balanced_windows_hold_rare_classes() -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[300:306, 20:26] = 3
    extent = np.array([64.0, 64.0])
    numbers = np.random.default_rng(0).random((400, 2))

    def hits(corners: list[np.ndarray]) -> float:
        return float(np.mean([(mask[int(y) : int(y) + 64, int(x) : int(x) + 64] == 3).any() for y, x in corners]))

    assert hits([random_corner(np.array(mask.shape), extent, n) for n in numbers]) < 0.1
    assert hits([around_class(mask, extent, n) for n in numbers]) > 0.45
    corners = np.array([around_class(mask, extent, n) for n in numbers])
    assert corners.min() >= 0
    assert corners.max() <= 400 - 64
    assert len(np.unique(corners[:, 0])) > 100


def test_balanced_windows_reach_the_smallest_class() -> None:
    mask = np.zeros((1024, 1024), np.uint8)
    mask[401, 702] = 3  # between the pixels of the sample that is looked at
    extent = np.array([64.0, 64.0])
    for classes in (None, np.array([0, 3])):
        found = [around_class(mask, extent, n, classes) for n in np.random.default_rng(0).random((50, 2))]
        share = np.mean([mask[int(y) : int(y) + 64, int(x) : int(x) + 64].any() for y, x in found])
        assert share == pytest.approx(0.5, abs=0.2)


# The rule


@pytest.mark.parametrize(
    ("fit", "shapes"),
    [
        (Fit((30, 40)), {(100, 200): (30, 40)}),
        (Fit((30, 40), "crop"), {(100, 200): (100, 200), (1, 7): (1, 7)}),
        (Fit((30, 40), "crop", max_side=50), {(100, 200): (25, 50), (40, 20): (40, 20), (1000, 1): (50, 1)}),
        (Fit((30, 40), "keep"), {(100, 200): (20, 40), (300, 100): (30, 10), (15, 20): (30, 40)}),
        (Fit((30, 40), "keep", keep_side="short"), {(100, 200): (30, 60), (300, 100): (120, 40)}),
    ],
)
def test_the_shape_that_the_network_sees(fit: Fit, shapes: dict[tuple[int, int], tuple[int, int]]) -> None:
    assert {shape: fit.shape(*shape) for shape in shapes} == shapes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "croop"}, r"mode=croop\): must be squash, crop or keep; did you mean crop\?"),
        ({"max_side": 100}, r"data\.max_side=100 has no effect with data\.fit=squash"),
        ({"mode": "crop", "max_side": 0}, r"max_side=0\): must be a whole number from 1"),
        ({"mode": "crop", "keep_side": "short"}, r"data\.keep_side=short has no effect with data\.fit=crop"),
        ({"mode": "keep", "keep_side": "both"}, r"keep_side=both\): must be long or short"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Fit((32, 32), **settings)


# Evaluation


@pytest.mark.parametrize("fit", ["crop", "keep"])
def test_an_evaluation_sees_each_whole_image_once(make: Any, fit: str) -> None:
    data = make(fit=fit)
    seen = []
    for batch in data.test_dataloader():
        assert batch["image"].shape[:3] == batch["mask"].shape
        for i, image, mask in zip(batch["index"].tolist(), batch["image"], batch["mask"], strict=True):
            seen.append(i)
            height, width = data.fit.shape(*Painted.shapes[i])
            assert image.shape == (height, width, 3)
            expected = data.read(data.roles["report"].samples[i])
            if fit == "crop":
                np.testing.assert_array_equal(image, expected[0])
                np.testing.assert_array_equal(mask, expected[1])
            np.testing.assert_array_equal(data.original_mask("report", i), expected[1])
    assert sorted(seen) == list(range(6))
    assert len(data.test_dataloader()) == 4  # the three of 60×80 in one batch


def test_windows_of_any_size_share_a_cache(make: Any, tmp_path: Path) -> None:
    first, other = make(size=32), make(size=16)
    assert first.roles["fit"].key == other.roles["fit"].key
    assert len(list(tmp_path.glob("*/images.bin"))) == 2  # one for each split


def test_without_a_cache_nothing_but_figures_is_stored(make: Any, tmp_path: Path) -> None:
    stored, read = make(), make(cache=False)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*-index/*")) < 10_000
    assert read.describe() == stored.describe()
    for one, other in zip(stored.test_dataloader(), read.test_dataloader(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_overfit_batches_trains_and_validates_on_the_same_images(make: Any, tmp_path: Path, fit: str) -> None:
    data = make(fit=fit, augment=Augment(scale=(1, 1)))
    module = SegmentationModule(torch.nn.Conv2d(3, 4, 1), CrossEntropy(), data.classes)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, overfit_batches=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You requested to overfit")
        trainer.fit(module, data)
    assert trainer.global_step == 1
    assert trainer.callback_metrics["val/miou"] >= 0


def test_large_images_are_tested_in_tiles(make: Any, tmp_path: Path) -> None:
    figures = []
    for tiles in (None, 16):
        data = make(tiles=tiles)
        assert [data.tiles_for(shape) is not None for shape in ((32, 32), (33, 32))] == [False, tiles is not None]
        torch.manual_seed(0)
        module = SegmentationModule(torch.nn.Conv2d(3, 4, 1), CrossEntropy(), data.classes)
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
        figures += trainer.test(module, data, verbose=False)
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert figures[0]["test/loss"] > 0


def test_an_image_too_large_for_the_memory_is_named_before_training(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segstudy.data.datamodule.LARGEST_SCORES", 60 * 80 * 4 * 4 - 1)
    words = r"val0 has 80×60 pixels: scores for 4 classes take 0 GiB, at most 0 GiB are possible\n  → data\.max_side="
    with pytest.raises(DataError, match=words):
        make()
    assert make(fit="keep").size == (32, 32)

"""Generated scenes: the same for the same seed, and hard in the ways that the data set promises."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segstudy.data.datasets.scenes import FREQUENCY, SKY, SKY_COLOURS, Scenes, draw_scene

CLASSES = len(Scenes.classes)
BUTTERFLIES, MOTHS = (1, 3), (2, 4)


def make(tmp_path: Path, **changes: Any) -> Scenes:
    settings = {"train_images": 12, "val_images": 8, "size": 32, "batch_size": 4, "cache_dir": str(tmp_path)}
    return Scenes(**(settings | changes))


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """Pixels of each label, for 500 scenes: (500,256)."""
    masks = (draw_scene(np.random.default_rng([0, 0, i]), 32, 112)[1] for i in range(500))
    return np.stack([np.bincount(m.ravel(), minlength=256) for m in masks])


def test_a_scene_is_a_function_of_seed_split_index_and_size(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b", train_images=30, batch_size=8, seed=5)
    for i in (0, 7, 11):
        one, other = (data.read(data.samples("train")[i]) for data in (first, second))
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        assert one[0].shape == (32, 32, 3)
        assert one[0].dtype == one[1].dtype == np.uint8


def test_another_seed_split_index_or_size_is_another_scene(tmp_path: Path) -> None:
    data = make(tmp_path)
    image = data.read(data.samples("train")[3])[0]
    others = [data.read(data.samples("train")[4]), data.read(data.samples("val")[3])]
    others.append(make(tmp_path, scene_seed=1).read(data.samples("train")[3]))
    for other, _, _ in others:
        assert (image != other).mean() > 0.5
    assert make(tmp_path, size=(24, 40)).read(data.samples("train")[3])[1].shape == (24, 40)


def test_the_splits_are_built_and_share_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(tmp_path)
    data.setup()
    fit, report = data.roles["fit"], data.roles["report"]
    assert (len(fit), len(report), data.overlap()) == (12, 8, 0)
    distances = [abs(a.astype(int) - b).mean() for a in fit.cache.images for b in report.cache.images]
    assert min(distances) > 5
    expected = data.read(report.samples[5])
    np.testing.assert_array_equal(report.cache.images[5], expected[0])
    monkeypatch.setattr(data, "read", None)  # masks come from the cache
    np.testing.assert_array_equal(data.original_mask("report", 5).numpy(), expected[1])


def test_scene_seed_gives_another_cache(tmp_path: Path) -> None:
    keys = []
    for scene_seed in (0, 1, 0):
        data = make(tmp_path, scene_seed=scene_seed)
        data.setup()
        keys.append(data.roles["fit"].cache.key)
    assert keys[0] == keys[2] != keys[1]


def test_labels_are_the_classes_and_255(many: np.ndarray) -> None:
    used = set(np.flatnonzero(many.sum(0)).tolist())
    assert used == {*range(CLASSES), 255}
    assert len(Scenes.classes) == len(Scenes.palette) == CLASSES
    assert Scenes.classes[0] == "background"
    assert Scenes.background == 0


def test_objects_have_void_borders(many: np.ndarray) -> None:
    with_objects = many[:, 1:CLASSES].sum(1) > 30
    assert with_objects.mean() > 0.7
    assert (many[with_objects, 255] > 0).all()
    assert 0.01 < many[:, 255].sum() / many.sum() < 0.2  # a border, not an area


def test_classes_are_a_long_tail_in_the_stated_order(many: np.ndarray) -> None:
    share = (many[:, 1:CLASSES] > 0).mean(0)
    by_pattern = np.array([share[:2].sum(), share[2:4].sum(), share[4], share[5]])
    assert (np.diff(by_pattern) < 0).all()
    assert share.min() > 0.2  # 100 images hold at least 20 of each class, as verdicts need
    assert (np.diff(FREQUENCY) < 0).all()
    assert FREQUENCY.sum() == pytest.approx(1)


def test_sizes_run_from_small_to_a_quarter_of_the_scene(many: np.ndarray) -> None:
    beetles = many[:, 6][many[:, 6] > 0]
    assert np.percentile(beetles, 10) < 32
    assert many[:, 1:CLASSES].sum(1).max() > 32 * 112 / 4


class Light:
    """A generator like another one, except that the scene's light (the first whole number drawn) is given."""

    def __init__(self, seed: int, night: int):
        self.rng, self.night = np.random.default_rng(seed), [night]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rng, name)

    def integers(self, *args: Any) -> Any:
        drawn = self.rng.integers(*args)
        return self.night.pop() if self.night else drawn


@pytest.mark.parametrize("seed", range(8))
def test_only_the_sky_tells_butterflies_from_moths(seed: int) -> None:
    (day, by_day), (night, by_night) = (draw_scene(Light(seed, light), 32, 112) for light in (0, 1))  # type: ignore[arg-type]
    for butterfly, moth in zip(BUTTERFLIES, MOTHS, strict=True):
        by_day[by_day == butterfly] = moth
    np.testing.assert_array_equal(by_day, by_night)
    changed = np.flatnonzero((day != night).any((0, 2)))
    sky = 112 * SKY * 1.35
    assert len(changed) < sky
    assert changed.max() < sky or changed.min() > 111 - sky
    assert (by_night[:, changed] == 0).mean() > 0.97


def test_insects_are_far_from_the_sky(many: np.ndarray) -> None:
    """The median insect pixel is more than 50 pixels from the sky's edge."""
    distances: list[int] = []
    for seed in range(100):
        image, mask = draw_scene(np.random.default_rng(seed), 32, 112)
        ends = image[:, :12].mean((0, 1)) / 255, image[:, -12:].mean((0, 1)) / 255
        near = [min(abs(end - colour).max() for colour in SKY_COLOURS) for end in ends]
        columns = np.nonzero((mask > 0) & (mask < 255))[1]
        distances += [*((columns if near[0] < near[1] else 111 - columns) - round(112 * SKY))]
    assert np.median(distances) > 50


def test_a_tall_scene_has_its_sky_at_the_top_or_bottom() -> None:
    tall, wide = draw_scene(np.random.default_rng(3), 112, 32), draw_scene(np.random.default_rng(3), 32, 112)
    np.testing.assert_array_equal(tall[0], wide[0].transpose(1, 0, 2))
    np.testing.assert_array_equal(tall[1], wide[1].T)


def test_images_use_the_range_of_values() -> None:
    images = np.stack([draw_scene(np.random.default_rng(i), 32, 32)[0] for i in range(20)])
    assert images.min() < 40
    assert images.max() > 215
    assert images.std() > 20  # the ground is paler than the objects, and most of the picture


def test_data_has_the_name_that_it_is_given() -> None:
    assert Scenes().name == "Scenes"
    assert Scenes(name="toy scenes").name == "toy scenes"

"""Generated scenes: the same for the same seed, and hard in the ways that the data set promises."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segstudy.data.datasets import scenes
from segstudy.data.datasets.scenes import FREQUENCY, SHAPES, Scenes, draw_scene

CLASSES = len(SHAPES) + 1


def make(tmp_path: Path, **changes: Any) -> Scenes:
    settings = {"train_images": 12, "val_images": 8, "size": 32, "batch_size": 4, "cache_dir": str(tmp_path)}
    return Scenes(**(settings | changes))


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """Pixels of each label, for 500 scenes: (500,256)."""
    masks = (draw_scene(np.random.default_rng([0, 0, i]), 48, 48)[1] for i in range(500))
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


def test_the_splits_are_built_and_share_no_image(tmp_path: Path) -> None:
    data = make(tmp_path)
    data.setup()
    fit, report = data.roles["fit"], data.roles["report"]
    assert (len(fit), len(report), data.overlap()) == (12, 8, 0)
    distances = [abs(a.astype(int) - b).mean() for a in fit.cache.images for b in report.cache.images]
    assert min(distances) > 5
    expected = data.read(report.samples[5])
    np.testing.assert_array_equal(report.cache.images[5], expected[0])
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
    assert share.min() > 0.02  # even the rarest occurs
    assert np.corrcoef(share, FREQUENCY)[0, 1] > 0.95
    assert share[0] > 4 * share[-1]
    assert (np.diff(FREQUENCY) < 0).all()
    assert FREQUENCY.sum() == pytest.approx(1)


def test_sizes_run_from_small_to_larger_than_a_small_receptive_field(many: np.ndarray) -> None:
    """Discs cover from a dozen pixels to a third of the scene."""
    discs = many[:, 1][many[:, 1] > 0]
    assert np.percentile(discs, 10) < 48**2 * 0.02
    assert np.percentile(discs, 95) > 48**2 * 0.25


class Told:
    """A generator that tells which class is drawn next."""

    def __init__(self, seed: int, log: list[Any]):
        self.rng, self.log = np.random.default_rng(seed), log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rng, name)

    def choice(self, *args: Any, **kwargs: Any) -> Any:
        kind = self.rng.choice(*args, **kwargs)
        self.log.append(("class", int(kind) + 1))
        return kind


def test_textures_are_shared_between_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a texture alone tells no class: each is worn by three or four classes, and by the background."""
    draw, log = scenes._texture, []

    def telling(rng: Any, kind: int, *rest: Any) -> np.ndarray:
        log.append(("texture", int(kind)))
        return draw(rng, kind, *rest)

    monkeypatch.setattr(scenes, "_texture", telling)
    worn: dict[int, set[int]] = {texture: set() for texture in range(6)}
    for seed in range(300):
        log.clear()
        draw_scene(Told(seed, log), 8, 8)  # type: ignore[arg-type]
        wearer = 0  # the background's texture comes first
        for what, value in log:
            if what == "class":
                wearer = value
            else:
                worn[value].add(wearer)
    for classes in worn.values():
        assert 0 in classes
        assert len(classes - {0}) in (3, 4)
    for label in range(1, CLASSES):
        assert sum(label in classes for classes in worn.values()) == 3


def test_images_use_the_range_of_values() -> None:
    images = np.stack([draw_scene(np.random.default_rng(i), 32, 32)[0] for i in range(20)])
    assert images.min() < 40
    assert images.max() > 215
    assert images.std() > 20  # the ground is paler than the objects, and most of the picture


def test_data_has_the_name_that_it_is_given() -> None:
    assert Scenes().name == "Scenes"
    assert Scenes(name="toy scenes").name == "toy scenes"


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": [32]}, {"size": [32, -1]}, {"batch_size": 0}, {"workers": -1}], ids=str
)
def test_sides_and_batches_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    key, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=re.escape(f"{key}={value}")):
        Scenes(**wrong)

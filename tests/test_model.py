"""A run that is loaded to predict: the labels of its own test, any kind of photo, clear errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import evaluated, voc_run

import segstudy
from segstudy.errors import ConfigError, DataError
from segstudy.inference.model import as_image
from segstudy.inference.tta import TestTimeAugmentation


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VOC and a run on it."""
    home = tmp_path_factory.mktemp("home")
    voc_run(home)
    return home


def test_predicts_what_the_runs_test_did(home: Path, tmp_path: Path) -> None:
    evaluated([home / "a"], masks=tmp_path)
    model = segstudy.load(home / "a")
    saved = sorted(tmp_path.glob("*.png"))
    photos = home / "photos" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    found = model.predict([photos / f"{p.stem}.jpg" for p in saved])
    assert len(found) == 4
    for labels, path in zip(found, saved, strict=True):
        mask = np.array(Image.open(path))
        assert labels.shape == mask.shape == (40, 56)
        assert labels.dtype == np.uint8
        assert (labels == mask).mean() > 0.999  # a batch of another size may round otherwise


def test_kinds_of_photos_are_one(home: Path) -> None:
    model = segstudy.load(home / "a", "cpu")
    path = next((home / "photos").rglob("*.jpg"))
    picture = Image.open(path)
    values = np.array(picture)
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    expected = model.predict(path)
    assert len(np.unique(expected)) > 1
    for photo in (str(path), picture, values, tensor, tensor.float() / 255):
        np.testing.assert_array_equal(model.predict(photo), expected)


def test_probabilities_and_labels_agree(home: Path) -> None:
    model = segstudy.load(home / "a")
    photo = np.random.default_rng(0).integers(0, 255, (50, 30, 3), np.uint8)
    for views in (None, TestTimeAugmentation(flip=True)):
        chances = model.probabilities(photo, "64x32", views)
        assert chances.shape == (len(model.classes), 50, 30)
        np.testing.assert_allclose(chances.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(model.probabilities(photo, "original").argmax(0), model.predict(photo, "original"))


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for photo in (grey, grey[..., None], torch.from_numpy(grey)[None]):
        np.testing.assert_array_equal(as_image(photo), np.stack([grey] * 3, 2))


@pytest.mark.parametrize("photo", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.int32), np.full((2, 2), 7.5)])
def test_what_is_no_photo_is_said_to_be_none(photo: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"an array of shape .* is not a photo"):
        as_image(photo)


def test_a_photo_is_an_existing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*no\.jpg$"):
        as_image(tmp_path / "no.jpg")
    with pytest.raises(DataError, match=r"is a folder, not a photo$"):
        as_image(tmp_path)


def test_what_is_no_run_is_said_to_be_none(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run's folder"):
        segstudy.load(tmp_path)
    with pytest.raises(ConfigError, match="--size big"):
        segstudy.load(home / "a").predict(np.zeros((8, 8), np.uint8), "big")

"""ADE20K SceneParsing in its official layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_ade20k
from PIL import Image

from segstudy.data.datasets.ade20k import ADE20K
from segstudy.errors import DataError


def build(root: Path, **changes: Any) -> ADE20K:
    data = ADE20K(str(root), **{"size": (40, 56), "batch_size": 2, "cache_dir": str(root.parent / "arrays")} | changes)
    data.prepare_data()
    data.setup()
    return data


def test_0_is_ignored_and_the_classes_begin_at_0(tmp_path: Path) -> None:
    home = make_ade20k(tmp_path / "root")
    for root in (tmp_path / "root", home):
        data = build(root)
        assert (len(data.roles["fit"]), len(data.roles["report"])) == (4, 2)
        stored = np.array(Image.open(home / "annotations/validation/ADE_val_00000001.png")).astype(int)
        expected = np.where(stored == 0, 255, stored - 1)
        np.testing.assert_array_equal(data.roles["report"].__getitems__([0])["mask"][0].numpy(), expected)
        np.testing.assert_array_equal(data.original_mask("report", 0).numpy(), expected)
        assert (expected == 255).any()


def test_150_names_and_colours() -> None:
    assert len(ADE20K.classes) == len(ADE20K.palette) == len(set(ADE20K.classes)) == 150
    # spot checks against objectInfo150.txt, whose numbers begin at 1
    places = {1: "wall", 13: "person", 21: "car", 76: "swivel chair", 90: "television", 127: "animal", 150: "flag"}
    assert all(ADE20K.classes[number - 1] == name for number, name in places.items())
    assert (ADE20K.palette[0], ADE20K.palette[12], ADE20K.palette[149]) == ((120, 120, 120), (150, 5, 61), (92, 0, 255))
    assert ADE20K.background is None


def test_masks_that_are_mostly_unlabelled_are_not_asked_about(tmp_path: Path) -> None:
    home = make_ade20k(tmp_path / "root")
    for path in home.glob("annotations/*/*.png"):
        labels = np.zeros((40, 56), np.uint8)
        labels[:4] = 7
        Image.fromarray(labels).save(path)
    assert build(tmp_path / "root").roles["fit"].notes == []


def test_apple_double_files_are_no_images(tmp_path: Path) -> None:
    home = make_ade20k(tmp_path / "root")
    (home / "images/training/._ADE_train_00000001.jpg").write_bytes(b"\0\5\26\7")
    assert len(build(tmp_path / "root").roles["fit"]) == 4


@pytest.mark.parametrize("sign", ["index_ade20k.pkl", "images/ADE"])
def test_the_full_ade20k_is_recognised(tmp_path: Path, sign: str) -> None:
    (tmp_path / sign).mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"holds the full ADE20K(.|\n)*ADEChallengeData2016\.zip(.|\n)*data\.download=true"
    ):
        build(tmp_path)


def test_nothing_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        DataError,
        match=r"expected: .*ADEChallengeData2016/\{images/training,annotations/training\}(.|\n)*an empty folder",
    ):
        build(tmp_path / "photos")
    make_ade20k(tmp_path / "root")
    with pytest.raises(DataError, match=r"no images of the split 'train' in (.|\n)*found: training, validation"):
        build(tmp_path / "root", train="train")
    (tmp_path / "root/ADEChallengeData2016/annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(DataError, match=r"1 files of 'training' of ADE20K are missing"):
        build(tmp_path / "root")

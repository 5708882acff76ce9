"""VOC with SBD: trainaug made from both archives, or read ready; its length and its disjointness from VOC val."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_sbd, make_voc
from PIL import Image
from scipy.io import savemat

from segstudy.data.datasets.sbd import PUBLISHED, VOCSBD
from segstudy.errors import DataError

EXTRA = ["2008_000100", "2008_000101", "2008_000102"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOC train 6, val 4; SBD: 3 images of its own, 2 of VOC's train and 2 of its val."""
    home = make_voc(tmp_path / "photos", size=(40, 56))
    shutil.rmtree(home / "SegmentationClassAug")
    (home / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    make_sbd(
        tmp_path / "photos", home, ["2007_000000", "2007_000006", *EXTRA[:2]], ["2007_000001", "2007_000007", EXTRA[2]]
    )
    return tmp_path / "photos"


def build(root: Path, **changes: Any) -> VOCSBD:
    settings: dict[str, Any] = {
        "size": (40, 56),
        "batch_size": 2,
        "images": 9,
        "cache_dir": str(root.parent / "arrays"),
    }
    data = VOCSBD(str(root), **settings | changes)
    data.prepare_data()
    data.setup()
    return data


def test_trainaug_is_voc_train_and_sbd_without_voc_val(root: Path) -> None:
    data = build(root)
    names = [s.name for s in data.roles["fit"].samples]
    assert names == [f"2007_{i:06d}" for i in range(6)] + EXTRA
    assert data.overlap() == 0


def test_masks_are_vocs_own_where_there_are_any_and_sbds_elsewhere(root: Path) -> None:
    data = build(root)
    fit = data.roles["fit"]
    masks = fit.__getitems__(range(9))["mask"].numpy()
    own = np.array(Image.open(root / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png"))
    np.testing.assert_array_equal(masks[1], own)
    assert (masks[:6] == 255).any()
    assert not (masks[6:] == 255).any()  # SBD has no border
    np.testing.assert_array_equal(masks[6], data.original_mask("fit", 6).numpy())
    assert len(np.unique(masks[6])) > 1


def test_a_ready_trainaug_is_taken_as_it_is(tmp_path: Path) -> None:
    make_voc(tmp_path / "photos")
    data = build(tmp_path / "photos", images=6)
    assert {s.mask.parent.name for s in data.roles["fit"].samples if s.mask} == {"SegmentationClassAug"}


def test_the_published_length_is_asked_for(root: Path) -> None:
    assert PUBLISHED == 10_582
    with pytest.raises(
        DataError, match=r"trainaug has 9 images here, the published one has 10,582(.|\n)*data\.images=null"
    ):
        build(root, images=PUBLISHED)
    assert len(build(root, images=None).roles["fit"]) == 9


def test_a_ready_list_with_an_image_of_val_is_refused(tmp_path: Path) -> None:
    home = make_voc(tmp_path / "photos")
    with open(home / "ImageSets/Segmentation/trainaug.txt", "a") as file:
        file.write("2007_000006\n")
    shutil.copy(home / "SegmentationClass/2007_000006.png", home / "SegmentationClassAug")
    with pytest.raises(DataError, match=r"1 images of trainaug are also in VOC's val \(2007_000006"):
        build(tmp_path / "photos", images=None)


def test_without_sbd_both_ways_are_named(root: Path) -> None:
    shutil.rmtree(root / "benchmark_RELEASE")
    with pytest.raises(DataError) as caught:
        build(root)
    for part in ("SegmentationClassAug", "benchmark_RELEASE/dataset", "found:    VOCdevkit", "data.download=true"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["other field", "no mat"])
def test_a_damaged_mat_is_named(root: Path, kind: str) -> None:
    path = root / "benchmark_RELEASE" / "dataset" / "cls" / f"{EXTRA[0]}.mat"
    if kind == "no mat":
        path.write_bytes(b"MATLAB?")
    else:
        savemat(path, {"GTinst": 1})
    with pytest.raises(DataError, match=rf"{EXTRA[0]}\.mat cannot be read as a mask of SBD"):
        build(root)


def test_other_lists_are_vocs(root: Path) -> None:
    assert len(build(root, train="train").roles["fit"]) == 6

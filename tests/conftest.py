"""Small data in the official layouts, and a place for caches: nothing is read or written outside tmp_path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segstudy.data.scenes import draw_scene
from segstudy.data.voc import voc_palette

torch.set_num_threads(1)  # tests run side by side; threads that wait for each other cost more than they give


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTUDY_CACHE", str(tmp_path / "cache"))


def save_mask(labels: np.ndarray, path: Path) -> None:
    """An indexed PNG with the VOC palette, as the devkit's."""
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette([v for rgb in voc_palette(256) for v in rgb])
    picture.save(path)


def make_voc(root: Path, train: int = 6, val: int = 4, size: tuple[int, int] = (40, 56)) -> Path:
    """VOCdevkit/VOC2012 in `root` with generated photos: lists train, val, trainval and trainaug. Returns VOC2012."""
    home = root / "VOCdevkit" / "VOC2012"
    lists = home / "ImageSets" / "Segmentation"
    for folder in (home / "JPEGImages", home / "SegmentationClass", home / "SegmentationClassAug", lists):
        folder.mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(train + val)]
    for i, name in enumerate(names):
        image, mask = draw_scene(np.random.default_rng(i), *size)
        Image.fromarray(image).save(home / "JPEGImages" / f"{name}.jpg", quality=95)
        save_mask(mask, home / "SegmentationClass" / f"{name}.png")
        save_mask(np.where(mask == 255, 0, mask), home / "SegmentationClassAug" / f"{name}.png")
    splits = {"train": names[:train], "val": names[train:], "trainval": names, "trainaug": names[:train]}
    for split, members in splits.items():
        (lists / f"{split}.txt").write_text("\n".join(members) + "\n")
    return home


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """A folder that holds a small VOCdevkit."""
    make_voc(tmp_path / "photos")
    return tmp_path / "photos"

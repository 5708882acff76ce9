"""Small data in the official layouts, and a place for caches: nothing is read or written outside tmp_path."""

import functools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scipy.io import savemat

from segstudy.build import build_network
from segstudy.config import compose
from segstudy.config.compose import compose_config
from segstudy.config.paths import CONF
from segstudy.data.datasets.scenes import draw_scene
from segstudy.labels import voc_palette

torch.set_num_threads(1)  # tests run side by side; threads that wait for each other cost more than they give


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTUDY_CACHE", str(tmp_path / "cache"))


hydra_compose = compose.compose


@functools.cache
def pickled_config(overrides: tuple[str, ...]) -> bytes:
    return pickle.dumps(hydra_compose("config", list(overrides)))


@pytest.fixture(autouse=True, scope="session")
def _compose_each_config_once() -> Iterator[None]:
    """Hydra takes a quarter of a second for one, and the tests ask a thousand times for a few hundred configs."""

    def composed(name: str, overrides: list[str]) -> DictConfig:
        folders = [source.path for source in GlobalHydra.instance().config_loader().get_search_path().get_path()]
        if not any(str(folder).endswith(str(CONF)) for folder in folders):  # a test's own files
            return hydra_compose(name, overrides)
        return pickle.loads(pickled_config(tuple(overrides)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "compose", composed)
        yield


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


def photo(index: int, path: Path, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Save a generated scene as a JPEG; returns its mask."""
    image, mask = draw_scene(np.random.default_rng(index), *size)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)
    return mask


def make_sbd(root: Path, home: Path, train: list[str], val: list[str]) -> Path:
    """SBD beside a small VOC whose photos `home` holds: .mat masks and two lists. Returns its dataset folder."""
    folder = root / "benchmark_RELEASE" / "dataset"
    (folder / "cls").mkdir(parents=True)
    for i, name in enumerate([*train, *val]):
        mask = photo(1000 + i, home / "JPEGImages" / f"{name}.jpg")
        labels = np.where(mask == 255, 0, mask)
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels, "Boundaries": 0}})
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "val.txt").write_text("\n".join(val))
    return folder


def make_ade20k(root: Path, train: int = 4, val: int = 2) -> Path:
    """ADEChallengeData2016 in `root`: 0 is not labelled, classes from 1 on. Returns ADEChallengeData2016."""
    home = root / "ADEChallengeData2016"
    for split, short, count in (("training", "train", train), ("validation", "val", val)):
        (home / "annotations" / split).mkdir(parents=True)
        for i in range(count):
            name = f"ADE_{short}_{i + 1:08d}"
            mask = photo(i, home / "images" / split / f"{name}.jpg")
            labels = np.where(mask == 255, 0, mask.astype(int) * 20 + 1).astype(np.uint8)
            Image.fromarray(labels).save(home / "annotations" / split / f"{name}.png")
    return home


def make_pet(root: Path, breeds: dict[str, int], test: int = 2) -> Path:
    """oxford-iiit-pet in `root`: of each breed so many photos in trainval and `test` more. Returns oxford-iiit-pet."""
    home = root / "oxford-iiit-pet"
    (home / "annotations" / "trimaps").mkdir(parents=True)
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for b, (breed, count) in enumerate(breeds.items()):
        for i in range(count + test):
            name = f"{breed}_{i + 1}"
            mask = photo(100 * b + i, home / "images" / f"{name}.jpg")
            trimap = np.select([mask == 255, mask == 0], [3, 2], 1).astype(np.uint8)
            Image.fromarray(trimap).save(home / "annotations" / "trimaps" / f"{name}.png")
            lists["trainval" if i < count else "test"].append(f"{name} {b + 1} {1 + b % 2} 1")
    for name, lines in lists.items():
        (home / "annotations" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return home


def make_run(folder: Path, *overrides: str, classes: int = 3) -> Path:
    """A finished run's folder, of a network that was not trained."""
    cfg = compose_config(["data.size=32", "encoder.widths=[4,4,4]", "decoder.widths=[4,4]", *overrides])
    network, _ = build_network(cfg, classes, load_weights=False)
    generator = torch.Generator().manual_seed(0)
    for name, values in network.state_dict().items():  # as if trained: statistics and biases unlike 0 and 1
        if name.endswith(("running_mean", "bias")):
            values.uniform_(-0.5, 0.5, generator=generator)
    (folder / "checkpoints").mkdir(parents=True)
    state = {f"network.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / "last.ckpt")
    OmegaConf.save(cfg, folder / "config.yaml")
    record = {
        "status": "done", "changes": ["model=v1", "data.root=/somewhere/photos"], "git": "0123456789ab",
        "class_names": ["ground", "cat", "dog", *(f"c{i}" for i in range(3, classes))][:classes],
        "palette": [[0, 0, 0], [128, 0, 0], [0, 128, 0], *([9, 9, 9] for _ in range(3, classes))][:classes],
        "data": {"name": "Scenes", "background": 0}, "checkpoint": "last",
        "normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]},
    }  # fmt: skip
    save_record(folder, record)
    return folder


def save_record(folder: Path, values: dict[str, Any]) -> None:
    """A run's record with other values than the run wrote, as an older version did: without checksums."""
    (folder / "record.json").write_text(json.dumps({k: v for k, v in values.items() if k not in ("checksum", "files")}))

"""PASCAL VOC in its official layout, and through it what all data sets share: roles, loaders, batches."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_voc, save_mask
from PIL import Image

from segstudy.data.crops import TrainingImages
from segstudy.data.datasets.voc import CLASSES, VOC
from segstudy.data.sampler import EpochSampler
from segstudy.data.transforms.augment import Augment
from segstudy.errors import ConfigError, DataError
from segstudy.labels import voc_palette


@pytest.fixture
def cache_dir(tmp_path: Path) -> str:
    return str(tmp_path / "arrays")


@pytest.fixture
def make(voc_root: Path, cache_dir: str) -> Any:
    """VOC on the small folder, set up; keywords change its settings."""

    def build(**changes: Any) -> VOC:
        settings = {"root": str(voc_root), "size": (24, 32), "batch_size": 2, "cache_dir": cache_dir} | changes
        data = VOC(**settings)
        data.prepare_data()
        data.setup()
        return data

    return build


def home_of(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012"


def lists_of(root: Path) -> Path:
    return home_of(root) / "ImageSets" / "Segmentation"


def names(data: VOC, role: str) -> list[str]:
    return [s.name for s in data.roles[role].samples]


def indices(data: VOC, epoch: int = 0) -> list[int]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return [i for batch in loader for i in batch["index"].tolist()]


def transfer(data: VOC, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return data.on_after_batch_transfer(batch, 0)


# Classes


def test_palette_is_the_devkits() -> None:
    known = {
        "background": (0, 0, 0), "aeroplane": (128, 0, 0), "bicycle": (0, 128, 0), "bird": (128, 128, 0),
        "boat": (0, 0, 128), "cat": (64, 0, 0), "person": (192, 128, 128), "tvmonitor": (0, 64, 128),
    }  # fmt: skip
    colours = dict(zip(VOC.classes, VOC.palette, strict=True))
    assert {name: colours[name] for name in known} == known
    assert voc_palette(256)[255] == (224, 224, 192)
    assert len(set(voc_palette(256))) == 256


def test_classes_are_numbered_as_the_devkits() -> None:
    assert len(CLASSES) == 21
    assert [CLASSES[i] for i in (0, 1, 8, 15, 20)] == ["background", "aeroplane", "cat", "person", "tvmonitor"]


# Layout


@pytest.mark.parametrize("train", ["train", "trainval", "trainaug"])
def test_lists_of_the_official_layout(make: Any, voc_root: Path, train: str) -> None:
    data = make(train=train)
    assert names(data, "fit") == (lists_of(voc_root) / f"{train}.txt").read_text().split()
    assert names(data, "report") == [f"2007_{i:06d}" for i in range(6, 10)]
    folder = "SegmentationClassAug" if train == "trainaug" else "SegmentationClass"
    for i, sample in enumerate(data.roles["fit"].samples):
        mask = Image.open(home_of(voc_root) / folder / f"{sample.name}.png").resize((32, 24), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(data.roles["fit"].cache.masks[i], np.asarray(mask))


def test_trainaug_masks_are_other_masks_and_val_keeps_its_own(make: Any) -> None:
    plain, more = make(train="train"), make(train="trainaug")
    assert (plain.roles["fit"].cache.masks == 255).any()
    assert not (more.roles["fit"].cache.masks == 255).any()  # the generated SegmentationClassAug has no border
    assert (more.roles["report"].cache.masks == 255).any()


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_root_is_found_from_three_places(make: Any, voc_root: Path, below: str) -> None:
    assert len(make(root=str(voc_root / below)).roles["fit"]) == 6


def test_missing_root_says_what_was_looked_for_and_found(make: Any, tmp_path: Path) -> None:
    (tmp_path / "other" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        make(root=str(tmp_path / "other"))
    message = str(caught.value)
    assert f"no VOC2012 under data.root='{tmp_path / 'other'}'" in message
    assert "VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}" in message
    assert "found:    JPEGImages\n" in message
    assert "data.download=true" in message
    with pytest.raises(DataError, match="found:    no such folder"):
        make(root=str(tmp_path / "nowhere"))


def test_missing_list_names_those_that_are_there(make: Any) -> None:
    with pytest.raises(DataError) as caught:
        make(train="trian")
    message = str(caught.value)
    assert "no list 'trian': no file " in message
    assert "found the lists: train, trainaug, trainval, val" in message
    assert "data.train" in message


def test_missing_listed_files_are_named(make: Any, voc_root: Path) -> None:
    image = home_of(voc_root) / "JPEGImages" / "2007_000002.jpg"
    mask = home_of(voc_root) / "SegmentationClass" / "2007_000004.png"
    image.unlink()
    mask.unlink()
    with pytest.raises(DataError) as caught:
        make()
    message = str(caught.value)
    assert message.startswith("2 files of the list")
    assert str(image) in message
    assert str(mask) in message
    assert "2007_000003" not in message
    shutil.rmtree(home_of(voc_root) / "SegmentationClass")
    (home_of(voc_root) / "SegmentationClass").mkdir()
    with pytest.raises(DataError, match=r"7 files of the list(.|\n)*… and 2 more"):
        make()


def test_empty_list_is_named(make: Any, voc_root: Path) -> None:
    (lists_of(voc_root) / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"the list .*val\.txt is empty(.|\n)*data\.val"):
        make()


@pytest.mark.parametrize("changes", [{"batch_size": 7}, {"limit_train": 3, "batch_size": 4}])
def test_fewer_images_than_a_batch(make: Any, changes: dict[str, int]) -> None:
    count = changes.get("limit_train", 6)
    with pytest.raises(
        DataError, match=rf"{count} training images .*'train'.*batch of (.|\n)*data\.batch_size={count} "
    ):
        make(**changes)


def test_labels_of_another_numbering(make: Any, voc_root: Path) -> None:
    """Masks of 0 and 255 ask what 255 is; each answer is taken."""
    for path in (home_of(voc_root) / "SegmentationClass").iterdir():
        labels = np.zeros((40, 56))
        labels[:20] = 255
        save_mask(labels, path)
    with pytest.raises(DataError, match="is 255 the object"):
        make()
    assert make(labels={255: 1}).pixels()[:2].tolist() == [6 * 12 * 32, 6 * 12 * 32]
    void = make(labels={255: 255})
    assert void.pixels()[:2].tolist() == [6 * 12 * 32, 0]
    assert void.roles["fit"].notes == []


# Roles


def test_overlap_counts_reported_images_that_are_trained_on(make: Any) -> None:
    assert make().overlap() == 0
    assert make(train="trainval").overlap() == 4
    assert make(train="trainval", val="train").overlap() == 6
    assert make(train="trainval", select_fraction=0.3).overlap() == 4  # held out for selection is not unseen


def test_describe_names_roles_sizes_and_fingerprints(make: Any, voc_root: Path) -> None:
    told = make().describe()
    assert (told["name"], told["size"]) == ("VOC", [24, 32])
    assert {r: v and (v["split"], v["images"]) for r, v in told["roles"].items()} == {
        "fit": ("train", 6), "report": ("val", 4), "select": None,
    }  # fmt: skip
    assert make().describe() == told
    smaller = make(limit_train=4).describe()["roles"]["fit"]
    assert smaller["images"] == 4
    assert smaller["fingerprint"] != told["roles"]["fit"]["fingerprint"]
    save_mask(np.zeros((40, 56)), home_of(voc_root) / "SegmentationClass" / "2007_000000.png")
    changed = make().describe()["roles"]
    assert changed["fit"]["fingerprint"] != told["roles"]["fit"]["fingerprint"]
    assert changed["report"] == told["roles"]["report"]


def test_pixels_counts_the_labels_of_fit(make: Any) -> None:
    data = make(limit_train=4)
    masks = data.roles["fit"].__getitems__(range(4))["mask"]
    assert data.pixels().tolist() == [(masks == c).sum().item() for c in range(21)]


def test_limit_train_draws_the_same_images_for_the_same_seed(make: Any) -> None:
    chosen = {seed: names(make(limit_train=3, seed=seed), "fit") for seed in range(5)}
    assert all(len(c) == 3 and c == sorted(c) for c in chosen.values())
    assert names(make(limit_train=3, seed=1), "fit") == chosen[1]
    assert len({tuple(c) for c in chosen.values()}) > 1
    assert len(make(limit_train=100).roles["fit"]) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit_train": 0}, r"limit_train=0\): must be a whole number, 1 or more"),
        ({"select_fraction": 1.0}, r"select_fraction=1\.0\): must be a number from 0 to below 1"),
        ({"select_fraction": -0.1}, r"select_fraction=-0\.1\): must be a number from 0"),
        ({"select_fraction": 0.05}, r"data\.select_fraction=0\.05 of 6 training images is none(.|\n)*=0\.167"),
    ],
)
def test_impossible_shares_are_refused(make: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**change)


@pytest.fixture
def strata(tmp_path: Path, make: Any) -> Any:
    """20 images with class 1 and 10 with class 2, which is the rarer."""
    home = make_voc(tmp_path / "strata", train=30, val=1, size=(16, 16))
    for i in range(30):
        labels = np.zeros((16, 16))
        labels[4:12, 4:12] = 1 if i < 20 else 2
        save_mask(labels, home / "SegmentationClass" / f"2007_{i:06d}.png")
    return lambda **changes: make(root=str(tmp_path / "strata"), size=16, **changes)


@pytest.mark.parametrize(("fraction", "counts"), [(0.2, (4, 2)), (0.3, (6, 3)), (0.7, (14, 7)), (0.1, (2, 1))])
def test_selection_is_held_out_of_each_stratum(strata: Any, fraction: float, counts: tuple[int, int]) -> None:
    data = strata(select_fraction=fraction)
    fit, select = set(names(data, "fit")), set(names(data, "select"))
    assert not fit & select
    assert len(fit | select) == 30
    held = (data.roles["select"].pixels > 0).sum(0)
    assert (held[1], held[2]) == counts
    assert data.val_dataloader().dataset is data.roles["select"]
    assert data.test_dataloader().dataset is data.roles["report"]


def test_selection_is_the_seeds(strata: Any) -> None:
    chosen = {seed: tuple(names(strata(select_fraction=0.2, seed=seed), "select")) for seed in range(4)}
    assert tuple(names(strata(select_fraction=0.2, seed=2, batch_size=4), "select")) == chosen[2]
    assert len(set(chosen.values())) > 1


def test_parts_of_a_split_keep_their_own_pictures(strata: Any) -> None:
    data = strata(select_fraction=0.3, limit_train=9)
    for role in ("fit", "select"):
        images = data.roles[role]
        for i in (0, len(images) - 1):
            batch = images.__getitems__([i])
            truth = data.original_mask(role, i)
            assert images.samples[i].name == names(data, role)[i]
            assert torch.equal(batch["mask"][0].long(), truth)
            assert set(truth.unique().tolist()) == {0, 1 if int(images.samples[i].name[-2:]) < 20 else 2}


# Masks and batches


def test_original_mask_is_the_files_with_mapping_and_rotation(make: Any, voc_root: Path) -> None:
    stored = np.zeros((40, 56), np.uint8)
    stored[:10, :20], stored[0, 0] = 7, 255
    save_mask(stored, home_of(voc_root) / "SegmentationClass" / "2007_000006.png")
    photo = home_of(voc_root) / "JPEGImages" / "2007_000006.jpg"
    tags = Image.Exif()
    tags[274] = 6
    Image.open(photo).copy().save(photo, exif=tags)
    mask = make(labels={7: 9}).original_mask("report", 0)
    assert mask.dtype == torch.int64
    expected = np.where(stored == 7, 9, stored)
    np.testing.assert_array_equal(mask.numpy(), np.rot90(expected, -1))


@pytest.mark.parametrize("device_cache", [False, True])
def test_index_minus_1_fills_a_batch_and_counts_nowhere(make: Any, device_cache: bool) -> None:
    data = make(device_cache=device_cache)
    images = data.test_dataloader().dataset
    batch = images.__getitems__([1, -1])
    alone = images.__getitems__([1])
    assert (batch["mask"][1] == 255).all()
    assert torch.equal(batch["mask"][0], alone["mask"][0])
    assert batch["index"].tolist() == [1, -1]
    images.__getitems__([0, -1])
    assert torch.equal(images.__getitems__([0, 1])["mask"][1], alone["mask"][0])  # the store itself is untouched


def test_device_cache_gives_the_same_batches(make: Any) -> None:
    plain, held = make(select_fraction=0.4), make(select_fraction=0.4, device_cache=True)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        pairs = list(zip(getattr(plain, loader)(), getattr(held, loader)(), strict=True))
        assert pairs
        for one, other in pairs:
            trained = {"params", "size"} if loader == "train_dataloader" else set()
            assert one.keys() == other.keys() == {"image", "mask", "index", *trained}
            assert all(torch.equal(one[k], other[k]) for k in one if k != "size")


def test_workers_give_the_same_batches(make: Any) -> None:
    plain, worked = make(), make(workers=1)
    for one, other in zip(plain.train_dataloader(), worked.train_dataloader(), strict=True):
        assert one.pop("size") == other.pop("size")
        assert all(torch.equal(one[k], other[k]) for k in one)


def test_batches_are_whole_and_of_the_stated_types(make: Any) -> None:
    data = make(batch_size=4)
    (batch,) = list(data.train_dataloader())  # the remaining two images make no batch
    assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (4, 24, 32, 3))
    assert (batch["mask"].dtype, batch["mask"].shape) == (torch.uint8, (4, 24, 32))
    evaluated = [i for b in make(batch_size=3).test_dataloader() for i in b["index"].tolist()]
    assert evaluated == [0, 1, 2, 3]  # evaluation leaves none out


def test_batch_on_the_device_is_in_0_to_1(make: Any) -> None:
    data = make()
    raw = next(iter(data.test_dataloader()))
    batch = transfer(data, dict(raw))
    assert batch.keys() == {"image", "mask", "index"}
    np.testing.assert_allclose(batch["image"].permute(0, 2, 3, 1).numpy(), raw["image"].numpy() / 255, atol=1e-7)
    assert batch["image"].dtype == torch.float32
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["mask"].dtype == torch.int64
    assert torch.equal(batch["mask"], raw["mask"].long())


def test_only_training_batches_are_augmented_and_by_epoch_and_index(make: Any) -> None:
    data = make(augment=Augment(scale=(0.5, 2.0)), seed=3)
    raw = next(iter(data.test_dataloader()))
    plain = transfer(data, dict(raw))
    assert torch.equal(plain["mask"], raw["mask"].long())
    images = TrainingImages(data.roles["report"], data.size, data.seed, data.augment)

    def trained(epoch: int) -> dict[str, torch.Tensor]:
        return transfer(data, images.__getitems__([(epoch, i) for i in raw["index"].tolist()]))

    first = trained(0)
    assert first.keys() == plain.keys()
    assert not torch.equal(first["mask"], plain["mask"])
    assert torch.equal(trained(0)["image"], first["image"])
    assert not torch.equal(trained(1)["image"], first["image"])
    assert data.augment is not None
    expected = data.augment(
        raw["image"].permute(0, 3, 1, 2).float() / 255, raw["mask"].long(), data.augment.make_params(3, 0, raw["index"])
    )
    assert torch.equal(first["mask"], expected[1])


def test_a_batch_comes_out_in_the_size_drawn_for_it(make: Any) -> None:
    data = make(augment=Augment(sizes=(2.0, 3.0)), size=32, batch_size=2)
    loader = data.train_dataloader()
    sizes = set()
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        batch = transfer(data, next(iter(loader)))
        sizes.add(tuple(batch["mask"].shape))
    assert sizes == {(2, 64, 64), (2, 96, 96)}
    assert batch["image"].shape[2:] == batch["mask"].shape[1:]
    evaluated = transfer(data, next(iter(data.test_dataloader())))
    assert evaluated["mask"].shape == (2, 32, 32)  # evaluation has one size


# Order


def test_training_order_differs_by_epoch_and_is_the_seeds(make: Any) -> None:
    data = make(train="trainval")
    epochs = [indices(data, epoch) for epoch in range(4)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4
    assert indices(make(train="trainval"), 2) == epochs[2]
    assert indices(make(train="trainval", seed=1), 2) != epochs[2]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch(world: int) -> None:
    parts = [list(EpochSampler(10, 0, rank, world)) for rank in range(world)]
    assert {len(p) for p in parts} == {10 // world}
    assert {epoch for p in parts for epoch, _ in p} == {0}
    together = [i for p in parts for _, i in p]
    assert len(set(together)) == len(together)

"""Every file of conf/experiment: it composes, states what its system stated, and trains on data in the real layout."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_ade20k, make_pet, make_voc, photo
from omegaconf import OmegaConf
from PIL import Image

from segstudy.build import build_network
from segstudy.callbacks.history import draw_curves
from segstudy.callbacks.pictures import animate
from segstudy.config.check import check
from segstudy.config.compose import apply_overrides, compose_config
from segstudy.config.overrides import check_overrides
from segstudy.config.paths import CONF
from segstudy.config.run_folder import claim_folder
from segstudy.errors import ConfigError
from segstudy.runs.history import read_history, write_history
from segstudy.train_and_test import run

EXPERIMENTS = sorted(
    str(p.relative_to(CONF / "experiment").with_suffix("")) for p in (CONF / "experiment").rglob("*.yaml")
)
FAST = [
    "trainer.accelerator=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1",
    "+trainer.limit_test_batches=1", "data.size=32", "data.batch_size=2", "callbacks.pictures.count=1",
]  # fmt: skip
NO_PICTURES = "++callbacks.pictures.enabled=false"
THIN = {
    "double_conv": ["encoder.widths=[8,8,8,8,8]"],
    "preact": ["encoder.widths=[8,8,8,8,8]", "decoder.widths=[8,8,8,8]"],
}


def sweep(name: str) -> dict[str, str]:
    """The sweep's parameters of an experiment, with those of the file it builds on."""
    node = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
    below = [d for d in node.get("defaults", []) if isinstance(d, str) and d != "_self_"]
    inherited = sweep(below[0]) if below else {}
    return inherited | dict(OmegaConf.select(node, "hydra.sweeper.params") or {})


def make_data(root: Path, name: str) -> None:
    if name in ("VOC", "VOCSBD"):
        make_voc(root, train=8, val=4, size=(32, 40))
    elif name == "ADE20K":
        make_ade20k(root, train=24, val=2)
    elif name == "Folder":
        for i in range(6):
            mask = photo(i, root / "images" / f"{i}.jpg")
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        (root / "dataset.yaml").write_text("classes: [a, b, c, d, e, f, g]\nignore: [255]\n")  # f is small here
    elif name == "Pet":
        make_pet(root, {"Abyssinian": 12, "Bengal": 12}, test=2)


def first_of(name: str) -> list[str]:
    return [f"experiment={name}", *(f"{key}={value.split(',')[0]}" for key, value in sweep(name).items())]


def train(folder: Path, *overrides: str) -> dict[str, Any]:
    cfg = compose_config(list(overrides))
    apply_overrides(cfg, overrides)
    check(cfg)
    record = claim_folder(folder, cfg)
    run(cfg, folder, record)
    return record.values


def small(name: str, photos: Path) -> tuple[list[str], list[str]]:
    """The overrides of an experiment on a few pictures made in its data set's layout, and those that make it fast."""
    given = first_of(name)
    data = compose_config(given).data._target_.rpartition(".")[2]
    given += ["data.train_images=4"] if data == "Scenes" else [f"data.root={photos}"]
    cfg = compose_config(given)
    make_data(photos, data)
    extras = ["encoder.weights=null", *FAST]
    if "name" in cfg.encoder:
        extras += ["encoder.name=tu-mobilenetv3_small_050"]  # of half a million weights
        extras += ["+decoder.decoder_channels=16"] if cfg.decoder.get("name") == "upernet" else []
    else:
        extras += THIN["preact" if "Preact" in cfg.encoder._target_ else "double_conv"]
        extras += ["decoder.widths=[8,8,8,8]"] if "widths" in cfg.decoder else []
    if "images" in cfg.data:
        extras += ["data.images=null"]
    return given, extras


def notebook(given: list[str]) -> list[str]:
    """The overrides of the run that voc_finetune begins with."""
    return [o.replace("voc_finetune", "voc_notebook") for o in given]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_trains_a_batch_in_the_real_layout(name: str, tmp_path: Path) -> None:
    given, extras = small(name, tmp_path / "photos")
    if name == "voc_finetune":
        before = train(tmp_path / "start", *notebook(given), *extras)
        record = train(
            tmp_path / "run", *given, f"start_from={tmp_path / 'start'}", "data.select_fraction=0.3", *extras
        )
        assert record["metrics_before"] == before["metrics"]
        assert record["started_from"]["file"].endswith("start/checkpoints/last.ckpt")
    else:
        record = train(tmp_path / "run", *given, *extras)
    assert record["status"] == "done"
    assert record["reproduce"] is None
    assert not record["selected_on_reported"]


# What their authors did: (tested checkpoint, what makes one the best, reported split, whether it also selected)
PUBLISHED = {
    "journey": ("best", "val/loss", "val", True),
    "voc_notebook": ("last", None, "val", False),
    "voc_finetune": ("last", None, "val", False),
    "resnet_unet": ("best", "val/miou", "val", True),
    "ade_unet": ("best", "val/miou", "validation", True),
    "pet_benchmark": ("best", "val/loss", "last", True),
}


def test_only_what_was_published_can_be_reproduced() -> None:
    has = [n for n in EXPERIMENTS if compose_config(first_of(n)).as_published is not None]
    assert sorted(has) == sorted(PUBLISHED)
    with pytest.raises(ConfigError) as error:
        check_overrides(["experiment=pet_factorial", "data.root=x", "reproduce=as_published"])
    assert all(name in str(error.value) for name in PUBLISHED)
    for contradicted in ("data.select_fraction=0.2", "checkpoint=last", "callbacks.best.monitor=val/loss"):
        with pytest.raises(ConfigError, match=f"{contradicted}: reproduce=as_published sets"):
            check_overrides(["experiment=resnet_unet", "data.root=x", "reproduce=as_published", contradicted])
    check_overrides(["experiment=resnet_unet", "data.root=x", "reproduce=as_published", "checkpoint=best", "seed=1"])
    with pytest.raises(ConfigError, match=r"sets data\.split, which this config does not have"):
        check_overrides(["experiment=pet_benchmark", "data=scenes", "reproduce=as_published"])
    with pytest.raises(ConfigError, match="did you mean as_published"):
        check_overrides(["experiment=journey", "data.root=x", "reproduce=as_publishd"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published_selects_and_reports_as_its_author_did(name: str, tmp_path: Path) -> None:
    given, extras = small(name, tmp_path / "photos")
    if name == "voc_finetune":
        network, _ = build_network(compose_config([*notebook(given), *extras]), 21, load_weights=False)
        torch.save(network.state_dict(), tmp_path / "start.pth")
        given.append(f"start_from={tmp_path / 'start.pth'}")
    record = train(tmp_path / "run", *given, *extras, NO_PICTURES, "reproduce=as_published")
    cfg = OmegaConf.load(tmp_path / "run" / "config.yaml")
    checkpoint, monitor, report, selected = PUBLISHED[name]
    assert (record["status"], record["reproduce"], record["checkpoint"]) == ("done", "as_published", checkpoint)
    assert record["data"]["roles"]["report"]["split"] == report
    assert record["data"]["roles"]["select"] is None
    assert record["selected_on_reported"] is selected
    assert monitor in (None, cfg.callbacks.best.monitor)
    assert (name == "pet_benchmark") is ("split=alphabetical" in record["data"]["protocol"])
    stopping = cfg.callbacks.early_stopping
    assert (name == "journey") is stopping.enabled
    assert (stopping.monitor, stopping.mode, stopping.min_delta) == ("val/loss", "min", 0.01)
    assert "as_published" not in cfg  # the folder keeps what was run


def parameters(*overrides: str, classes: int = 21) -> int:
    network, _ = build_network(compose_config(list(overrides)), classes, load_weights=False)
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts_of_the_systems() -> None:
    pets = [parameters(f"model=pet_{i}", classes=2) for i in (1, 2, 3, 4)]
    assert pets == [31_043_521, 31_043_521, 34_177_921, 37_659_521]
    # one 3×3 convolution of 512 for the bridge, 256-128-64-32 with transposed upsampling: the reading that gives 26.7 M
    assert parameters("model=resnet_unet") == 26_703_701


def test_the_factorial_changes_each_switch_alone() -> None:
    factorial = sweep("pet_factorial")
    assert {k: len(v.split(",")) for k, v in factorial.items()} == {
        "model": 1, "encoder.down": 2, "decoder.up": 2, "loss": 2,
    }  # fmt: skip
    for number in (1, 2, 3, 4):
        one = compose_config([f"model=pet_{number}"])
        assert one.encoder.down in factorial["encoder.down"].split(",")
        assert one.decoder.up in factorial["decoder.up"].split(",")


def test_faithful_settings() -> None:
    journey = compose_config([*first_of("journey"), "data.root=x"])
    assert (journey.data.size, journey.data.batch_size, journey.trainer.max_epochs) == (256, 16, 50)
    assert (journey.optim.lr, journey.schedule.every, journey.schedule.gamma) == (1e-3, 15, 0.1)
    resnet = compose_config([*first_of("resnet_unet"), "data.root=x"])
    assert (resnet.data.batch_size, resnet.optim.lr, resnet.optim.optimizer.weight_decay) == (8, 1e-4, 1e-5)
    ade = compose_config([*first_of("ade_unet"), "data.root=x"])
    assert (ade.trainer.max_epochs, ade.optim.lr, ade.data.augment) == (30, 1e-3, None)
    pet = compose_config([*first_of("pet_benchmark"), "data.root=x"])
    assert (pet.data.size, pet.data.batch_size, pet.trainer.max_epochs, pet.loss.pos_weight) == (128, 32, 15, 3.0)


# What a run can begin with


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGSTUDY_CACHE", str(folder / "cache"))
        train(folder / "run", *SCENES, "callbacks.state_dict.enabled=true", "callbacks.training_metrics.enabled=true")
    return folder / "run"


SCENES = [
    "data=scenes", "data.train_images=8", "data.val_images=4", "model=v1", *THIN["preact"], "trainer.max_epochs=2",
    *(o for o in FAST if "max_epochs" not in o),
]  # fmt: skip


@pytest.mark.parametrize("what", ["", "checkpoints/last.ckpt", "checkpoints/network.pth"])
def test_start_from_a_run_a_checkpoint_or_a_state_dict(started: Path, what: str, tmp_path: Path) -> None:
    record = train(tmp_path / "run", *SCENES, f"start_from={started / what}")
    before = json.loads((started / "record.json").read_text())["metrics"]
    assert record["metrics_before"]["network"] == pytest.approx(before["network"], nan_ok=True)
    assert len(record["started_from"]["sha256"]) == 64
    assert (tmp_path / "run" / "before" / "test" / "counts.npz").is_file()


def test_start_from_what_is_not_there_or_does_not_fit(started: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in (
        ("gone.ckpt", "no file"),
        ("", "is not a run's folder"),
        ("text.pth", "is not a file of weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tmp_path / f"run of {name}", *SCENES, f"start_from={tmp_path / name}")
    with pytest.raises(ConfigError, match=r"does not fit this network(.|\n)*other shape: "):
        train(tmp_path / "other", *SCENES, "encoder.widths=[8,8,8,8,16]", f"start_from={started}")


def test_the_state_dict_is_the_plain_networks(started: Path) -> None:
    state = torch.load(started / "checkpoints" / "network.pth", weights_only=True)
    network, _ = build_network(compose_config(SCENES), 7, load_weights=False)
    network.load_state_dict(state)


# Curves and animation


def test_the_history_has_a_row_an_epoch(started: Path) -> None:
    rows = read_history(started / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"train/loss", "val/loss", "val/miou", "train/miou", "train/pixel_accuracy"} <= rows[0].keys()
    assert 0 <= rows[1]["train/pixel_accuracy"] <= 1
    assert (started / "pictures" / "curves.png").is_file()


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "val/loss": 0.5}, {"epoch": 2, "val/loss": 0.25, "val/miou": 1.0}]
    write_history(rows, tmp_path / "history.csv")
    assert read_history(tmp_path / "history.csv") == rows
    with (tmp_path / "history.csv").open() as file:
        assert next(csv.reader(file)) == ["epoch", "val/loss", "val/miou"]
    lines = [line for axes in draw_curves(rows).axes for line in axes.lines]
    assert sorted(len(line.get_xdata()) for line in lines) == [1, 2]


def test_the_animation_has_a_frame_a_picture(tmp_path: Path) -> None:
    for i, name in enumerate(("epoch_000", "epoch_005", "final")):
        Image.fromarray(np.full((40 + 10 * i, 60, 3), 80 * i, np.uint8)).save(tmp_path / f"{name}.png")
    with Image.open(animate(tmp_path)) as gif:
        assert gif.n_frames == 3  # type: ignore[attr-defined]
        assert gif.size == (42, 42)

"""segstudy from Python: public names, a module with plain loaders, a test in memory, no global state."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import make_run, photo, save_record
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import segstudy
from segstudy.callbacks.finite_loss import FiniteLoss
from segstudy.callbacks.pictures import Pictures
from segstudy.callbacks.throughput import Throughput
from segstudy.errors import ConfigError, DataError, SegstudyError
from segstudy.inference.export import export
from segstudy.inference.loading import load_run
from segstudy.losses import CrossEntropy
from segstudy.module import SegmentationModule, check_range, checked_batch
from segstudy.networks.normalize import Normalize, normalize_of
from segstudy.runs.checkpoints import start_from

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip
THIN = ("encoder.widths=[4,4]", "decoder.widths=[4]")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Normalize(), nn.Conv2d(3, 3, 3, padding=1))


def pairs(dtype: torch.dtype, masks: torch.dtype, images: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(images):
        image = torch.randint(0, 256, (3, 24, 32), generator=generator, dtype=torch.uint8)
        mask = torch.randint(0, 3, (24, 32), generator=generator)
        mask[:2] = 255
        found.append((image if dtype == torch.uint8 else image.float() / 255, mask.to(masks)))
    return found


def test_every_public_name_is_there_and_importing_is_light() -> None:
    assert all(getattr(segstudy, name) is not None for name in segstudy.__all__)
    assert set(segstudy.__all__) == set(segstudy.HOMES)
    assert set(segstudy.__all__) <= set(dir(segstudy))
    assert segstudy.losses.Dice is not None
    with pytest.raises(AttributeError, match="no attribute 'Dize'"):
        _ = segstudy.Dize
    code = "import sys, segstudy; print([m for m in ('torch', 'numpy', 'matplotlib', 'hydra') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_importing_and_loading_leave_global_state_alone(tmp_path: Path) -> None:
    """A backend of matplotlib that is chosen stays, and none is chosen where none was."""
    make_run(tmp_path / "run")
    code = f"""
import os, sys
import matplotlib, PIL.Image, torch, lightning
backend = lambda: matplotlib.get_backend(auto_select=False)
state = lambda: (backend(), list(sys.path), PIL.Image.MAX_IMAGE_PIXELS, dict(os.environ))
before = state()
import segstudy
names = [getattr(segstudy, name) for name in segstudy.__all__]
import segstudy.drawing, segstudy.inspection.diagram, segstudy.callbacks.history
import segstudy.inference.model, segstudy.inference.card
assert state() == before, (before, state())
matplotlib.use("svg")
before = state()
segstudy.load({str(tmp_path / "run")!r}, "cpu")
assert state() == before, (before, state())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_hydra_application_may_build_a_model() -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        segstudy.build_model("v1", *THIN, classes=["a", "b"], background=0)
        assert compose("config", ["seed=3"]).seed == 3
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.filterwarnings("ignore")
def test_loaders_of_tuples_train_as_dictionaries_do() -> None:
    weights = []
    for dtype, masks in ((torch.uint8, torch.uint8), (torch.float32, torch.int64)):
        given: Any = pairs(dtype, masks)
        if masks == torch.int64:
            given = [{"image": image, "mask": mask} for image, mask in given]
        module = SegmentationModule(small(), CrossEntropy(), ["a", "b", "c"])
        loader = DataLoader(given, batch_size=2)
        callbacks = [Throughput(warmup=0), FiniteLoss()]
        L.Trainer(max_epochs=2, callbacks=callbacks, **QUIET).fit(module, loader, loader)
        assert type(module.configure_optimizers()["optimizer"]) is torch.optim.Adam
        weights.append(module.network[1].weight.detach())  # type: ignore[index]
        assert "val/miou" in module.trainer.callback_metrics
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_callbacks_that_need_segstudys_data_say_so(tmp_path: Path) -> None:
    module = SegmentationModule(small(), CrossEntropy(), ["a", "b", "c"])
    trainer = L.Trainer(max_epochs=1, callbacks=[Pictures()], default_root_dir=tmp_path, **QUIET)
    with pytest.raises(ConfigError, match="needs a data module of segstudy"):
        trainer.fit(module, DataLoader(pairs(torch.uint8, torch.int64), batch_size=2))


def test_batches_that_cannot_be_are_named() -> None:
    image, mask = torch.zeros(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.int64)
    assert checked_batch((image, mask[:, None]), 2)["mask"].shape == mask.shape
    assert checked_batch([image, mask + 255], 2)["mask"].eq(255).all()
    for batch, words in {
        (image, mask + 7): r"labels 7 are neither one of the 2 classes nor 255",
        (image, mask - 1): r"labels -1 ",
        (image, mask.float()): r"divides by 255",
        (image, mask[:, :2]): r"do not match",
        (image,): r"a batch must be \(image, mask\)",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=words):
            checked_batch(batch, 2)


@pytest.mark.filterwarnings("ignore")
def test_a_loader_or_a_network_that_does_not_fit_is_named_at_the_first_batch() -> None:
    for scale, wide, words in (
        (255, 3, r"floats in 0…1, not torch.float32 with values from 0 to 255\n  → .*divide by 255"),
        (1, 5, r"the network gives 5 channels, there are 3 classes"),
        (1, 1, r"the network gives 1 channel, there are 3 classes"),
    ):
        network = nn.Sequential(Normalize(), nn.Conv2d(3, wide, 1))
        module = SegmentationModule(network, CrossEntropy(), ["a", "b", "c"])
        loader = DataLoader([(i * scale, m) for i, m in pairs(torch.float32, torch.int64)], batch_size=2)  # type: ignore[arg-type]
        with pytest.raises(SegstudyError, match=words):
            L.Trainer(max_epochs=1, **QUIET).fit(module, loader)
    check_range(torch.tensor([-2.1, 2.6]))  # normalised by the user
    with pytest.raises(DataError, match=r"torch\.int64"):
        check_range(torch.tensor([0, 1]))


def test_arguments_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the loss is a class: pass an instance, such as Dice\(\)"):
        SegmentationModule(small(), segstudy.losses.Dice, ["a", "b", "c"])  # type: ignore[arg-type]
    for classes in (3, "abc"):
        with pytest.raises(ConfigError, match=r"give the names of the classes"):
            segstudy.build_model("v1", classes=classes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Folder\(size=64\): must be a whole number"):
        segstudy.Folder(str(tmp_path), size="64")
    with pytest.raises(TypeError, match=r"^Folder has no argument 'batchsize'; did you mean batch_size"):
        segstudy.Folder(str(tmp_path), batchsize=4)


@pytest.fixture
def scenes(tmp_path: Path) -> segstudy.Scenes:
    return segstudy.Scenes(size=48, train_images=4, val_images=24, batch_size=4, cache_dir=str(tmp_path / "cache"))


@pytest.mark.filterwarnings("ignore", "error:You have overridden")
def test_a_loader_gives_the_result_of_the_data_module(scenes: segstudy.Scenes) -> None:
    module = segstudy.build_model("v1", *THIN, classes=scenes.classes, background=0)
    first = segstudy.test(module, scenes, name="v1", device="cpu")
    batches = [(batch["image"].permute(0, 3, 1, 2), batch["mask"]) for batch in scenes.test_dataloader()]
    other = segstudy.test(module, DataLoader(batches, batch_size=None), device="cpu")  # type: ignore[arg-type]
    assert (first.variant, other.variant) == ("v1", "Network")
    assert first.classes == other.classes == list(scenes.classes)
    assert first.record["metrics"] == other.record["metrics"]
    assert (first.names[1], other.names[1]) == ("val_00001", "1")
    assert first.background == other.background == 0
    miou = first.record["metrics"]["network"]["miou"]
    assert str(first) == f"TestResult(v1, seed 0, {len(scenes.classes)} classes, 24 images, mIoU {miou:.3f})"
    shown = f"Scenes({len(scenes.classes)} classes, 48×48, fit: 4 images, report: 24 images)"
    assert (str(scenes), repr(scenes)) == (shown, shown)
    assert repr(segstudy.Folder("photos")) == "Folder(256×256, not set up yet)"
    for name in ("truth", "predicted"):
        np.testing.assert_array_equal(getattr(first.counts, name), getattr(other.counts, name))
    assert first.sums.keys() == other.sums.keys()
    for name, values in first.sums.items():
        np.testing.assert_array_equal(values, other.sums[name])
    assert first.folder is None
    second = segstudy.test(
        segstudy.build_model("v1", *THIN, classes=scenes.classes, background=0, seed=1), scenes, device="cpu"
    )
    assert "mIoU" in str(segstudy.compare(first, second))


def test_models_are_built_by_name() -> None:
    module = segstudy.build_model("v2", *THIN, "optim.lr=0.5", classes=["a", "b", "c"], background=0)
    assert (module.lr, module.background, module.classes) == (0.5, 0, ["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"no such model.*v1"):
        segstudy.build_model("v11", classes=["a", "b"])
    with pytest.raises(ConfigError, match=r"no setting 'lss'"):
        segstudy.build_model("v1", "lss=dice", classes=["a", "b"])
    with pytest.raises(ConfigError, match="balanced counts the pixels of the training images"):
        segstudy.build_model("v1", *THIN, "loss.class_weights=balanced", classes=["a", "b"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("v1",), r"loss\.background_weight=0\.1 would weigh class 0 \('sky'\) by 0\.1(.|\n)*background_weight=1"),
        (("v2",), r"loss\.terms\.dice\.include_background=false would leave out class 0 \('sky'\)(.|\n)*=true"),
        (("v1", "loss=dice_foreground"), r"loss\.include_background=false"),
    ],
)
def test_a_loss_that_needs_a_background_refuses_data_without(settings: tuple[str, ...], said: str) -> None:
    for background, found in ((None, "none"), (1, r"class 1 \('building'\)")):
        with pytest.raises(ConfigError, match=said) as raised:
            segstudy.build_model(*settings, *THIN, classes=["sky", "building"], background=background)
        raised.match(f"background of the data: {found}")
    segstudy.build_model(*settings, *THIN, classes=["sky", "building"], background=0)
    segstudy.build_model("v1", *THIN, "loss.background_weight=1", classes=["sky", "building"])


def test_a_folder_knows_its_classes_before_setup(tmp_path: Path) -> None:
    for i in range(3):
        mask = photo(i, tmp_path / "images" / f"{i}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.where(mask > 1, 1, mask).astype(np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    data = segstudy.Folder(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert data.background is None  # the masks hold numbers without names
    assert (len(data.classes), len(data.palette)) == (2, 2)
    assert not hasattr(data, "nothing")


# Networks that normalise, and runs from before


def test_the_normalisation_in_float32() -> None:
    layer = Normalize([0.1, 0.2, 0.3], [0.5, 0.25, 2.0])
    image = torch.rand(2, 3, 4, 6)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.25, 2.0]))
    expected = (image - mean) / std
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(image), expected)
    assert layer.values() == {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]}
    assert layer.to(memory_format=torch.channels_last).mean.stride() == (1, 1, 1)


def without_normalisation(file: Path) -> None:
    """Make a checkpoint one from before networks normalised."""
    kept = torch.load(file, weights_only=True)
    kept["state_dict"] = {k: v for k, v in kept["state_dict"].items() if ".normalize." not in k}
    torch.save(kept, file)


def test_a_run_from_before_takes_its_normalisation_from_the_record(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    now, _ = load_run(run)
    without_normalisation(run / "checkpoints" / "last.ckpt")
    before, _ = load_run(run)
    assert re.fullmatch(r"Model\(.+, 3 classes.*\)", repr(segstudy.load(run, "cpu")))
    assert before.normalize.values() == {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]}
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(before(image), now(image))
    state = {k.removeprefix("network."): v for k, v in torch.load(run / "checkpoints/last.ckpt")["state_dict"].items()}
    before.load_state_dict(state)  # as Lightning does where a run goes on


class Plain(nn.Conv2d):
    """A network that does not normalise."""

    def __init__(self, num_classes: int):
        super().__init__(3, num_classes, 1)


def test_a_plain_network_from_before_still_gets_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGSTUDY_TRUST", "test_python")
    run = make_run(tmp_path / "run")
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.network = {"_target_": "test_python.Plain"}
    OmegaConf.save(cfg, run / "config.yaml")
    plain = Plain(3)
    torch.save(
        {"state_dict": {f"network.{k}": v for k, v in plain.state_dict().items()}}, run / "checkpoints/last.ckpt"
    )
    image = torch.rand(1, 3, 8, 8)
    network, _ = load_run(run)
    torch.testing.assert_close(network(image), plain(Normalize([0.5, 0.4, 0.3], [0.25, 0.2, 0.3])(image)))
    assert network.state_dict().keys() == plain.state_dict().keys()
    network.load_state_dict(plain.state_dict())
    export(segstudy.load(run, "cpu"), "hub", tmp_path / "hub")
    export(segstudy.load(run, "cpu"), "onnx", tmp_path / "net.onnx")
    torch.testing.assert_close(load_run(tmp_path / "hub")[0](image), network(image))
    with pytest.raises(ConfigError, match="this network must normalise them, and does not"):
        start_from(Plain(3), run)
    record = json.loads((run / "record.json").read_text()) | {"normalisation": None}  # as runs of now have it
    save_record(run, record)
    network, _ = load_run(run)
    assert normalize_of(network) is None
    start_from(partial(Plain, 3)(), run)

"""Networks for other programs: what is written does what PyTorch does, at any size, or is not kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import make_run
from safetensors import safe_open
from torch import Tensor, nn
from typer.testing import CliRunner

import segstudy
from segstudy.cli.main import app
from segstudy.cli.use import images_of, tell_int8
from segstudy.errors import ConfigError, ExportError
from segstudy.inference import export as exports
from segstudy.inference.agreement import TOLERANCE, Row, compare, shapes
from segstudy.inference.export import FREE, SIDES, export, place_of, portable
from segstudy.inference.int8 import measure, shrink
from segstudy.inference.loading import load_runs
from segstudy.inference.model import Model, load
from segstudy.metrics import confusion, summary

SCENES = ["data.train_images=4", "data.val_images=3", "data.batch_size=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on scenes, whose eight classes its record names."""
    home = tmp_path_factory.mktemp("home")
    make_run(home / "run", *SCENES, f"data.cache_dir={home / 'cache'}", classes=8)
    record = json.loads((home / "run" / "record.json").read_text())
    from segstudy.data.datasets.scenes import Scenes

    (home / "run" / "record.json").write_text(json.dumps(record | {"class_names": list(Scenes.classes)}))
    return home


@pytest.fixture(scope="module")
def written(home: Path) -> Path:
    """The run as ONNX, by the command, with what it says."""
    (home / "said.txt").write_text(command(home / "run", "--out", home / "net.onnx", "--json", home / "net.json"))
    return home / "net.onnx"


def command(*words: Any) -> str:
    done = CliRunner().invoke(app, ["export", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0
    return " ".join(done.output.split())


def photo(batch: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((batch, 3, height, width), np.float32))


@torch.no_grad()
def agree(run: Path, found: Any, batch: int, height: int, width: int) -> None:
    image = photo(batch, height, width)
    torch.testing.assert_close(found(image), load(run, "cpu").network(image), rtol=0, atol=1e-4)


def test_onnx_takes_any_size_and_needs_no_constants(home: Path, written: Path) -> None:
    session = onnxruntime.InferenceSession(str(written))
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 8, "height", "width"]
    for size in ((1, 32, 32), (2, 17, 41), (3, 40, 23), (1, 5, 64)):
        agree(home / "run", lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), *size)


def test_the_file_says_what_it_is(home: Path, written: Path) -> None:
    told = {p.key: p.value for p in onnx.load(written).metadata_props}
    assert json.loads(told["classes"])[0] == "background"
    assert json.loads(told["palette"])[1] == [128, 0, 0]
    assert (told["background"], told["commit"], told["segstudy"]) == ("0", "0123456789ab", segstudy.__version__)
    preprocessing = json.loads(told["preprocessing"])
    assert preprocessing["mean"] == [0.5, 0.4, 0.3]
    assert (preprocessing["trained_at"], preprocessing["normalisation"]) == ([32, 32], "inside the network")
    report = json.loads((home / "net.json").read_text())
    assert len(report["results"]) == 5
    assert all(row["difference"] < TOLERANCE and row["agreement"] == 1 for row in report["results"])
    assert report["free"] == list(SIDES)
    assert "batch×3×height×width" in (home / "said.txt").read_text()
    assert sorted(p.name for p in home.iterdir()) == ["net.json", "net.onnx", "run", "said.txt"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")  # as PyTorch says of the format
def test_torchscript_and_torch_export(home: Path, tmp_path: Path) -> None:
    model = load(home / "run", "cpu")
    export(model, "torchscript", tmp_path / "net.pt")
    export(model, "torch.export", tmp_path / "net.pt2")
    for kind in ("torchscript", "torch.export"):
        extra = {"segstudy.json": ""}
        if kind == "torchscript":
            found = torch.jit.load(str(tmp_path / "net.pt"), _extra_files=extra)
        else:
            found = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
        agree(home / "run", found, 3, 27, 45)
        agree(home / "run", found, 1, 64, 32)
        assert json.loads(extra["segstudy.json"])["input_shape"] == ["batch", 3, "height", "width"]


def test_weights_alone(home: Path, tmp_path: Path) -> None:
    model = load(home / "run", "cpu")
    export(model, "state_dict", tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        state, told = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    model.plain.load_state_dict(state)
    assert json.loads(told["preprocessing"])["normalisation"] == "(image - mean) / std, before the network"
    assert json.loads(told["classes"]) == model.classes


def test_a_hubs_folder_is_loaded_as_a_run(home: Path, tmp_path: Path) -> None:
    run, hub = home / "run", tmp_path / "hub"
    command(run, "--format", "hub", "--out", hub)
    (hub / "mine.txt").write_text("stays")
    command(run, "--format", "hub", "--out", hub)
    names = ["README.md", "config.json", "config.yaml", "mine.txt", "model.safetensors", "record.json"]
    assert sorted(p.name for p in hub.iterdir()) == names
    image = np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)
    np.testing.assert_array_equal(segstudy.load(hub).predict(image), segstudy.load(run).predict(image))
    assert json.loads((hub / "config.json").read_text())["network"]["encoder"]["widths"] == [4, 4, 4]
    for file in hub.iterdir():
        assert str(home).encode() not in file.read_bytes()  # no path of this machine
    with pytest.raises(ConfigError, match="is there, and no exported run"):
        command(run, "--format", "hub", "--out", run)


class Turned(nn.Module):
    """A network that does something else at each second call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.sign = nn.Conv2d(3, 8, 1), 1

    def forward(self, image: Tensor) -> Tensor:
        self.sign = -self.sign
        return self.sign * self.conv(image)


def test_what_disagrees_is_not_kept(home: Path, tmp_path: Path) -> None:
    model = load(home / "run", "cpu")
    model.network.network = Turned()
    (tmp_path / "net.pt").write_text("earlier")
    with pytest.raises(ExportError, match=r"none was kept(.|\n)*differs from PyTorch by .*; allowed is 0\.0001 of"):
        export(model, "torchscript", tmp_path / "net.pt")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("net.pt", "earlier")]


class OneSize(nn.Module):
    """A network that adds a map of its own, of 32×32: as one with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(8, 32, 32))

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image) + self.places


def test_what_cannot_be_free_is_fixed_and_said(home: Path, tmp_path: Path) -> None:
    model = load(home / "run", "cpu")
    model.network.network = OneSize()
    done = export(model, "torchscript", tmp_path / "net.pt")
    assert done.free == ("batch",)
    assert done.about["input_shape"] == ["batch", 3, 32, 32]
    assert len(done.why) == 2
    assert [(row.batch, row.height, row.width) for row in done.rows] == [(1, 32, 32), (2, 32, 32), (3, 32, 32)]


def test_what_is_compared() -> None:
    assert len(shapes((64, 96), SIDES)) == 5
    assert any(h % 2 and w % 2 and (h, w) != (67, 131) for _, h, w in shapes((64, 96), SIDES))
    assert shapes((64, 96), ()) == [(1, 64, 96)]
    assert {b for b, *_ in shapes((64, 96), FREE[1])} == {1}
    assert Row(1, 8, 8, difference=1e-3, largest=20.0, agreement=1).agrees
    assert not Row(1, 8, 8, difference=1e-3, largest=2.0, agreement=1).agrees
    double = compare(nn.Identity(), lambda image: image * 2, [(1, 8, 8)])[0][0]
    assert double.difference == double.largest
    assert double.agreement == 1  # another scale is the same mask: it is the logits that are held equal
    lost = compare(nn.Identity(), lambda image: image * torch.nan, [(1, 8, 8)])[0][0]
    assert not lost.agrees


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_int8_is_smaller_and_its_loss_is_measured(kind: str, home: Path, written: Path, tmp_path: Path) -> None:
    members, file = load_runs([home / "run"]), Path(shutil.copy(written, tmp_path / "int8.onnx"))
    data, _ = images_of(members, [f"data.cache_dir={home / 'cache'}"], kind)
    int8 = shrink(file, kind, Model(members[0], "cpu"), SIDES, data, 2)
    loss, before = int8["loss"], onnx.load(written)
    assert int8["bytes"] == {"float": written.stat().st_size, "int8": file.stat().st_size}
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]
    assert (loss["images"], loss["split"]) == (2, "val")
    assert loss["miou_difference"] == loss["miou"]["int8"] - loss["miou"]["float"]
    model = onnx.load(file)
    assert {t.data_type for t in model.graph.initializer} & {onnx.TensorProto.UINT8, onnx.TensorProto.INT8}
    told = {p.key: p.value for p in model.metadata_props}
    assert told == {p.key: p.value for p in before.metadata_props} | {"quantised": f"int8, {kind}"}


def test_the_loss_is_that_of_the_masks(home: Path, written: Path) -> None:
    members = load_runs([home / "run"])
    data, _ = images_of(members, [], "static")
    loss = measure(written, written, data.roles["report"], 8, 100)
    batch = data.roles["report"].__getitems__([0, 1, 2])
    labels = Model(members[0], "cpu").network(batch["image"].permute(0, 3, 1, 2).float() / 255).argmax(1)
    expected = summary(confusion(labels, batch["mask"].long(), 8))["miou"]
    assert loss["images"] == 3
    assert loss["miou"] == pytest.approx({"float": expected, "int8": expected})


def test_without_images_the_loss_is_said_to_be_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "data=voc", f"data.root={tmp_path}")
    data, missing = images_of(load_runs([run]), [], "dynamic")
    assert data is None
    lines: list[str] = []
    int8 = {"kind": "dynamic", "bytes": {"float": 2, "int8": 1}, "difference": 0.1, "agreement": 0.9, "loss": None}
    tell_int8(int8, missing, lines.append)
    assert "the loss in mIoU was not measured" in lines[1]
    assert "data.root=FOLDER" in lines[2]
    with pytest.raises(ConfigError, match="--quantise static finds the ranges"):
        command(run, "--quantise", "static", "--out", tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "hub", "--quantise", "static"], "for --format onnx, not hub"),
        (["data.root=x"], "no images are read without --quantise"),
        (["--out", "net.pt"], r"ends in \.onnx"),
        (["{run}"], "one at a time"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        command(home / "run", *(w.format(run=home / "run") for w in words))


def test_a_missing_package_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(ConfigError, match=r'onnxscript not installed\n  → pip install "segstudy\[export\]"'):
        command(home / "run", "--out", tmp_path / "net.onnx")


def test_names_and_places(tmp_path: Path) -> None:
    assert place_of(None, "v4 data=voc seed=1", "onnx") == Path("v4-data=voc-seed=1.onnx")
    assert place_of(tmp_path, "v4", "state_dict") == tmp_path / "v4.safetensors"
    assert place_of(None, "v4", "hub") == Path("v4-hub")
    value = {"a": ["data.root=/home/me/photos", "lr=1", "/home/me/w.pth"], "b": 1, "c": "mean / std"}
    assert portable(value) == {"a": ["data.root=photos", "lr=1", "w.pth"], "b": 1, "c": "mean / std"}

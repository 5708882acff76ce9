"""Networks for other programs: what is written does what PyTorch does, at any size, or is not kept."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import make_run, save_record
from safetensors import safe_open
from torch import Tensor, nn
from typer.testing import CliRunner

import segstudy
from segstudy.cli.export import print_export
from segstudy.cli.main import app
from segstudy.errors import ConfigError, ExportError
from segstudy.inference import export as exports
from segstudy.inference.export import (
    DYNAMIC_AXES,
    TOLERANCE,
    Comparison,
    compare_outputs,
    comparison_shapes,
    export,
    output_path,
    without_local_paths,
)
from segstudy.inference.model import load

SCENES = ["data.train_images=4", "data.val_images=3", "data.batch_size=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on scenes, whose seven classes its record names."""
    home = tmp_path_factory.mktemp("home")
    make_run(home / "run", *SCENES, f"data.cache_dir={home / 'cache'}", classes=7)
    record = json.loads((home / "run" / "record.json").read_text())
    from segstudy.data.datasets.scenes import Scenes

    save_record(home / "run", record | {"class_names": list(Scenes.classes)})
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
    assert session.get_outputs()[0].shape == ["batch", 7, "height", "width"]
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
    assert report["dynamic"] == list(DYNAMIC_AXES[0])
    assert "batch×3×height×width" in (home / "said.txt").read_text()
    assert sorted(p.name for p in home.iterdir()) == ["net.json", "net.onnx", "run", "said.txt"]


def test_an_earlier_export_is_replaced_and_this_is_said(home: Path, tmp_path: Path) -> None:
    words = home / "run", "--out", tmp_path / "net.safetensors", "--format", "state_dict"
    assert "an earlier export" not in command(*words)
    assert "an earlier export of this name was replaced" in command(*words)


def test_the_channels_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {
        "input_shape": ["batch", 5, "height", "width"],
        "preprocessing": {"channels": "5 channels", "resize": "seen at its own size"},
    }
    row = SimpleNamespace(batch=2, height=64, width=32, difference=0.0, largest=1.0, agreement=1.0)
    (tmp_path / "net.onnx").touch()
    print_export(
        SimpleNamespace(comparisons=[row], metadata=about, refused=[], dynamic=(0, 2, 3), path=tmp_path / "net.onnx"),
        "onnx",
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "2×5×64×32" in said
    assert "image batch×5×height×width, float32, 5 channels in 0…1; a photo" in said


def test_torch_export(home: Path, tmp_path: Path) -> None:
    export(load(home / "run", "cpu"), "torch.export", tmp_path / "net.pt2")
    extra = {"segstudy.json": ""}
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
    assert json.loads(told["preprocessing"])["normalisation"] == "inside the network"
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
    with pytest.raises(ConfigError, match="exists and is no exported run"):
        command(run, "--format", "hub", "--out", run)


class Turned(nn.Module):
    """A network that does something else when it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, image: Tensor) -> Tensor:
        return -self.conv(image) if torch.compiler.is_exporting() else self.conv(image)


def test_what_disagrees_is_not_kept(home: Path, tmp_path: Path) -> None:
    model = load(home / "run", "cpu")
    model.network.network = Turned()
    (tmp_path / "net.pt2").write_text("earlier")
    with pytest.raises(ExportError, match=r"none was kept(.|\n)*differs from PyTorch by .*; allowed is 0\.0001 of"):
        export(model, "torch.export", tmp_path / "net.pt2")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("net.pt2", "earlier")]


class OneSize(nn.Module):
    """A network that adds a map of its own, of 32×32: as one with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(8, 32, 32))

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image) + self.places


def test_an_axis_that_cannot_be_dynamic_is_fixed_and_said(home: Path, tmp_path: Path) -> None:
    model = load(home / "run", "cpu")
    model.network.network = OneSize()
    done = export(model, "torch.export", tmp_path / "net.pt2")
    assert done.dynamic == ("batch",)
    assert done.metadata["input_shape"] == ["batch", 3, 32, 32]
    assert len(done.why_not_more) == 2
    assert [(row.batch, row.height, row.width) for row in done.comparisons] == [(1, 32, 32), (2, 32, 32), (3, 32, 32)]


def test_what_is_compared() -> None:
    assert len(comparison_shapes((64, 96), DYNAMIC_AXES[0])) == 5
    assert any(h % 2 and w % 2 and (h, w) != (67, 131) for _, h, w in comparison_shapes((64, 96), DYNAMIC_AXES[0]))
    assert comparison_shapes((64, 96), ()) == [(1, 64, 96)]
    assert {b for b, *_ in comparison_shapes((64, 96), DYNAMIC_AXES[1])} == {1}
    assert Comparison(1, 8, 8, difference=1e-3, largest=20.0, agreement=1).agrees
    assert not Comparison(1, 8, 8, difference=1e-3, largest=2.0, agreement=1).agrees
    double = compare_outputs(nn.Identity(), lambda image: image * 2, [(1, 8, 8)])[0][0]
    assert double.difference == double.largest
    assert double.agreement == 1  # another scale is the same mask: it is the logits that are held equal
    lost = compare_outputs(nn.Identity(), lambda image: image * torch.nan, [(1, 8, 8)])[0][0]
    assert not lost.agrees


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "net.pt"], r"end in \.onnx"),
        (["--out", "net.onnx", "--format", "torch.export"], r"end in \.pt2"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        command(home / "run", *words)


def test_a_missing_package_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(ConfigError, match=r'onnxscript not installed\n  → pip install "segstudy\[export\]"'):
        command(home / "run", "--out", tmp_path / "net.onnx")


def test_runs_of_a_study_are_exported_to_files_of_their_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short name of a single run leaves out single settings; its folder's name does not."""
    written: list[str] = []

    def stop(model: Any, kind: str, place: Path) -> None:
        written.append(place.name)
        raise OSError("enough")

    monkeypatch.setattr(exports, "export", stop)
    for name in ("v1_fit=crop", "v1_fit=squash"):
        shutil.copytree(home / "run", tmp_path / name)
        with pytest.raises(ConfigError, match="enough"):
            command(tmp_path / name, "--out", tmp_path)
    assert written == ["v1_fit=crop.onnx", "v1_fit=squash.onnx"]


def test_names_and_places(tmp_path: Path) -> None:
    assert output_path(None, "v4 data=voc seed=1", "onnx") == Path("v4-data=voc-seed=1.onnx")
    assert output_path(tmp_path, "v4", "state_dict") == tmp_path / "v4.safetensors"
    assert output_path(None, "v4", "hub") == Path("v4-hub")
    value = {"a": ["data.root=/home/me/photos", "lr=1", "/home/me/w.pth"], "b": 1, "c": "mean / std"}
    assert without_local_paths(value) == {"a": ["data.root=photos", "lr=1", "w.pth"], "b": 1, "c": "mean / std"}

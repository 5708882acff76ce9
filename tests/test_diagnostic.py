"""A run that is trained is done: what is measured or drawn beside its test may fail, and is told."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from test_evaluate import train
from torch import nn

from segstudy.callbacks import history, per_image_errors, pictures, test_diagnostics
from segstudy.callbacks.pictures import predict
from segstudy.callbacks.throughput import Throughput
from segstudy.inference.crf import CRFEvaluation
from segstudy.inference.evaluate import retest

SCENES = ["data.size=32", "data.train_images=3", "data.val_images=2"]


class Square(nn.Module):
    """A network that takes images of 32×32 alone, as a transformer with a table of positions does."""

    def __init__(self, num_classes: int, **_: Any):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 5, padding=2)
        self.position = nn.Parameter(torch.zeros(1, num_classes, 32, 32))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[2:] == (32, 32), f"input size {tuple(image.shape[2:])} is not (32, 32)"
        return self.conv(image) + self.position


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("it broke\nat length")


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def test_a_network_of_one_size_is_measured_at_that(tmp_path: Path) -> None:
    record = record_of(train(tmp_path / "run", *SCENES, f"network._target_={__name__}.Square"))
    assert record["status"] == "done"
    assert record["not_measured"] == {}
    assert record["receptive_field"]["theoretical"] == 5
    # 2 FLOP for each of 5·5·3 weights, 7 classes and 32·32 places
    assert record["gflop"] == pytest.approx(2 * 75 * 7 * 32 * 32 / 1e9)


BREAKS: dict[str, tuple[Any, str, set[str]]] = {
    "receptive_field": (test_diagnostics, "receptive_fields", set()),
    "metrics_fit": (test_diagnostics, "metrics_on_training_images", set()),
    "measures": (per_image_errors, "near_edges", {"measures.npz", "labels.npz"}),
    "shift_consistency": (per_image_errors, "shift_consistency", set()),
    "pictures": (pictures, "error_picture", {"samples.npz"}),
    "curves": (history, "draw_curves", set()),
    "crf": (CRFEvaluation, "probabilities", set()),
    "EventFiles": (TensorBoardLogger, "log_hyperparams", set()),
}
"""What cannot be measured, what is broken for that, and the files of test/ that are then not there."""
ALL = [*SCENES, "callbacks.crf.enabled=true", "callbacks.crf.radius=1", "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole") / "run", *ALL)


@pytest.mark.parametrize("broken", [["measures"], [w for w in BREAKS if w != "measures"]], ids=["measures", "others"])
def test_what_fails_beside_the_test_is_noted(
    broken: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _break_after_training(monkeypatch, [BREAKS[what][:2] for what in broken])
    folder = train(tmp_path / "run", *ALL)
    record, expected = record_of(folder), record_of(whole)
    assert record["status"] == "done"
    assert record["not_measured"] == dict.fromkeys(broken, "RuntimeError: it broke")
    assert record["metrics"] == expected["metrics"]
    said = capsys.readouterr().out
    assert [said.count(f"not measured: {what}: RuntimeError: it broke\n") for what in broken] == [1] * len(broken)
    lost = {*broken, *(f"metrics_{what}" for what in broken), *(["measured_at"] if "measures" in broken else [])}
    assert expected.keys() - record.keys() == lost & expected.keys()
    kept, made = ({file.name for file in (run / "test").iterdir()} for run in (folder, whole))
    assert made - kept == set().union(*(BREAKS[what][2] for what in broken))


def _break_after_training(monkeypatch: pytest.MonkeyPatch, targets: list[tuple[Any, str]]) -> None:
    """Break something once training has ended, as a full disk or a lost connection does."""
    on_train_end: Callable[..., None] = Throughput.on_train_end

    def breaks(self: Throughput, *arguments: Any) -> None:
        on_train_end(self, *arguments)
        for owner, name in targets:
            monkeypatch.setattr(owner, name, fails)

    monkeypatch.setattr(Throughput, "on_train_end", breaks)


def test_an_earlier_tests_measures_do_not_stay(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(tmp_path / "run", *SCENES)
    monkeypatch.setattr(per_image_errors, "near_edges", fails)
    retest(folder)
    assert record_of(folder)["not_measured"] == {"measures": "RuntimeError: it broke"}
    assert {f.name for f in (folder / "test").iterdir()} == {"counts.npz", "samples.npz"}


def test_a_picture_leaves_each_parts_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is drawn within an epoch, too, where a frozen encoder's normalisation is in evaluation mode."""

    class Data:
        def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], _: int) -> dict[str, torch.Tensor]:
            return batch

    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    module.device = torch.device("cpu")  # type: ignore[assignment]
    module[1].eval()
    predict(module, Data(), {"image": torch.zeros(1, 3, 4, 4)})  # type: ignore[arg-type]
    assert [m.training for m in module.modules()] == [True, True, False]


def test_null_seconds_mean_no_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(pictures.Pictures, "_draw", lambda *arguments: drawn.append(arguments[-1]))
    trainer: Any = SimpleNamespace(is_global_zero=True, ckpt_path=None)
    callback = pictures.Pictures(first_seconds=None)
    callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
    callback.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
    assert drawn == ["epoch_000"]


def test_the_first_picture_is_not_counted_as_waiting_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    speed, callback = Throughput(warmup=0), pictures.Pictures(first_seconds=0)
    monkeypatch.setattr(pictures.Pictures, "_draw", lambda *_: time.sleep(0.2))
    trainer: Any = SimpleNamespace(callbacks=[speed, callback], world_size=1, default_root_dir="run")
    callback.began = 0.0
    batch = {"image": torch.zeros(1)}
    for _ in range(2):
        speed.on_train_batch_start()
        speed.on_train_batch_end(trainer, SimpleNamespace(device=torch.device("cpu")), None, batch, 0)  # type: ignore[arg-type]
        callback.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
    assert speed.waited < 0.1

"""Epochs and seconds until 90 % of the best, on histories made by hand; and the seconds that a run writes."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segstudy.callbacks import history
from segstudy.callbacks.history import History
from segstudy.config.compose import compose_config
from segstudy.config.run_folder import claim_folder
from segstudy.runs.history import read_history, write_history
from segstudy.runs.record import Record
from segstudy.study.analysis.findings import Group, Variant
from segstudy.study.analysis.time_to_accuracy import final_miou, target_miou, time_to_target, times_to_accuracy
from segstudy.study.report.tables import explanations
from segstudy.study.statistics.interval import Estimate
from segstudy.train_and_test import run


def rows(*miou: float, seconds: float | None = 10.0) -> list[dict[str, float]]:
    """A history with these values, an epoch each, every epoch so many seconds long."""
    timed = [{} if seconds is None else {"seconds": seconds * (i + 1)} for i in range(len(miou))]
    return [{"epoch": i + 1, "val/miou": value} | t for i, (value, t) in enumerate(zip(miou, timed, strict=True))]


def same(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))


def test_the_first_epoch_at_90_percent_of_the_best_final() -> None:
    histories = {
        "pretrained": rows(0.30, 0.46, 0.50, seconds=20),
        "random": rows(0.10, 0.20, 0.40, 0.45, seconds=15),  # exactly .9 × .50
        "never": rows(0.10, 0.44),
        "fell back": rows(0.60, 0.20),  # its peak is no final value, but it was there
    }
    goal = target_miou(histories.values())
    assert goal == pytest.approx(0.45)
    found = {name: time_to_target(values, goal) for name, values in histories.items()}
    assert same(found["pretrained"], (2, 40))
    assert same(found["random"], (4, 60))
    assert same(found["never"], (math.nan, math.nan))
    assert same(found["fell back"], (1, 10))
    assert math.isnan(target_miou([]))
    assert math.isnan(target_miou([rows(0.0, 0.0), [{"epoch": 1, "val/loss": 1.0}]]))


def test_epochs_without_validation_and_without_seconds() -> None:
    gaps = [{"epoch": 1.0, "seconds": 5.0}, {"epoch": 2.0, "val/miou": 0.4, "seconds": 9.0}, {"epoch": 3.0}]
    assert final_miou(gaps) == 0.4
    assert same(time_to_target(gaps, 0.3), (2, 9))
    assert same(time_to_target(rows(0.1, 0.5, seconds=None), 0.3), (2, math.nan))
    assert same(time_to_target([{"epoch": 1, "val/miou": math.nan}], 0.3), (math.nan, math.nan))


def test_a_study_says_how_soon_each_variant_was_there() -> None:
    histories = {"v1": [rows(0.1, 0.2, 0.3, seconds=7)], "v4": [rows(0.3, 0.5, seconds=9), rows(0.45, seconds=5)]}
    goal = target_miou(h for each in histories.values() for h in each)
    nan = Estimate(math.nan, math.nan, math.nan)
    variants = [
        Variant(
            n, n, [{"encoder_weights": origin}], [0], nan, nan, nan, np.zeros(2), times_to_accuracy(histories[n], goal)
        )
        for n, origin in (("v1", "random"), ("v4", "weights/imagenet.pth"))
    ]
    none = np.zeros(2)
    group = Group("made", ["a", "b"], [], 0, 4, 4, none, none, variants, [], target=goal)
    shown = explanations(group)
    assert list(shown.head[-2:]) == ["epochs to 90 %", "seconds to 90 %"]
    assert [[row[0], *row[-2:]] for row in shown.rows] == [["v1", "n/a", "n/a"], ["v4", "1.5", "12"]]
    assert explanations(replace(group, target=math.nan)).rows == []


# The seconds that are written


def epochs(callback: History, folder: Path, first: int, last: int, clock: list[float], length: float) -> None:
    """Epochs first…last of a run in `folder`, each `length` seconds long."""
    trainer: Any = SimpleNamespace(
        default_root_dir=str(folder),
        is_global_zero=True,
        callback_metrics={"val/miou": 0.5},
        current_epoch=0,
        loggers=[],
    )
    callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
    clock[0] += 100  # Lightning sets up, and restores a checkpoint
    trainer.current_epoch = first - 1
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    for epoch in range(first, last + 1):
        trainer.current_epoch = epoch - 1
        clock[0] += length
        callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]


def test_seconds_continue_where_the_checkpoint_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    epochs(History(), tmp_path, 1, 3, clock, 10)
    assert [row["seconds"] for row in read_history(tmp_path / "history.csv")] == [10, 20, 30]
    # killed after epoch 3's row, before its checkpoint: it goes on from epoch 2's, on a faster machine
    clock[0] = 5.0
    epochs(History(), tmp_path, 3, 4, clock, 4)
    assert [row["seconds"] for row in read_history(tmp_path / "history.csv")] == [10, 20, 24, 28]


def test_a_history_without_seconds_goes_on_without(tmp_path: Path) -> None:
    write_history([{"epoch": 1, "val/miou": 0.1}], tmp_path / "history.csv")
    epochs(History(), tmp_path, 2, 2, [0.0], 1)
    assert [sorted(row) for row in read_history(tmp_path / "history.csv")] == [["epoch", "val/miou"]] * 2


def test_a_run_writes_seconds_and_goes_on_from_them(tmp_path: Path) -> None:
    cfg = compose_config([
        "data.size=32", "data.train_images=16", "data.val_images=2", "trainer=cpu", "trainer.max_epochs=3",
        "encoder.widths=[4,4,4,4,4]", "decoder.widths=[4,4,4,4]", "++callbacks.pictures.enabled=false",
    ])  # fmt: skip
    folder = tmp_path / "run"
    run(cfg, folder, claim_folder(folder, cfg))
    first = [row["seconds"] for row in read_history(folder / "history.csv")]
    assert 0 < first[0] < first[1] < first[2]
    (folder / "history.csv").unlink()  # its rows are in the checkpoint too
    cfg.trainer.max_epochs = 4
    run(cfg, folder, Record(folder))
    last = [row["seconds"] for row in read_history(folder / "history.csv")]
    assert last[:3] == pytest.approx(first, abs=0.01)
    assert first[2] < last[3] < first[2] + 100

"""Epochs and seconds until 90 % of the best, on histories made by hand; and the seconds that a run writes."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from segstudy.callbacks import history
from segstudy.callbacks.history import History, read_history, write_history
from segstudy.cli import app
from segstudy.config import compose_config
from segstudy.record import Record, claim
from segstudy.study.pace import Reached, final, pace, print_pace, reached, study_paces
from segstudy.train import run


def rows(*miou: float, seconds: float | None = 10.0) -> list[dict[str, float]]:
    """A history with these values, an epoch each, every epoch so many seconds long."""
    timed = [{} if seconds is None else {"seconds": seconds * (i + 1)} for i in range(len(miou))]
    return [{"epoch": i + 1, "val/miou": value} | t for i, (value, t) in enumerate(zip(miou, timed, strict=True))]


def same(a: Reached, b: tuple[float, float | None]) -> bool:
    return all(x == y or (x is not None and y is not None and math.isnan(x) and math.isnan(y))
               for x, y in zip((a.epochs, a.seconds), b, strict=True))  # fmt: skip


def test_the_first_epoch_at_90_percent_of_the_best_final() -> None:
    found = pace(
        {
            "pretrained": rows(0.30, 0.46, 0.50, seconds=20),
            "random": rows(0.10, 0.20, 0.40, 0.45, seconds=15),  # exactly .9 × .50
            "never": rows(0.10, 0.44),
            "fell back": rows(0.60, 0.20),  # its peak is no final value, but it was there
        },
        finished=["pretrained", "random", "never", "fell back"],
    )
    assert found is not None
    assert (found.best, found.leader, found.target) == (0.5, "pretrained", pytest.approx(0.45))
    assert same(found.runs["pretrained"], (2, 40))
    assert same(found.runs["random"], (4, 60))
    assert same(found.runs["never"], (math.nan, math.nan))
    assert same(found.runs["fell back"], (1, 10))


def test_only_a_finished_run_can_be_the_best() -> None:
    histories = {"a": rows(0.2, 0.3), "still training": rows(0.5, 0.9)}
    found = pace(histories, finished=["a"])
    assert found is not None
    assert (found.leader, found.best) == ("a", 0.3)
    assert same(found.runs["still training"], (1, 10))
    assert pace(histories, finished=[]) is None
    assert pace({"a": rows(0.0, 0.0), "b": [{"epoch": 1, "val/loss": 1.0}]}, finished=["a", "b"]) is None


def test_epochs_without_validation_and_without_seconds() -> None:
    gaps = [{"epoch": 1.0, "seconds": 5.0}, {"epoch": 2.0, "val/miou": 0.4, "seconds": 9.0}, {"epoch": 3.0}]
    assert final(gaps) == 0.4
    assert same(reached(gaps, 0.3), (2, 9))
    assert same(reached(rows(0.1, 0.5, seconds=None), 0.3), (2, None))
    assert same(reached([{"epoch": 1, "val/miou": math.nan}], 0.3), (math.nan, math.nan))


def make_study(folder: Path, runs: dict[str, tuple[list[dict[str, float]], dict[str, Any]]]) -> None:
    for name, (values, changes) in runs.items():
        (folder / name).mkdir(parents=True)
        roles = {"fit": {"split": "train", "images": 8}, "report": {"split": "val", "images": 4}, "select": None}
        record = {
            "status": "done", "changes": [f"model={name}"], "encoder_weights": "random", "class_names": ["a", "b"],
            "data": {"name": "Scenes", "size": [32, 32], "protocol": "", "roles": roles},
        } | changes  # fmt: skip
        (folder / name / "record.json").write_text(json.dumps(record))
        if values:
            write_history(values, folder / name / "history.csv")


def test_the_report_shows_it_where_histories_are(tmp_path: Path) -> None:
    make_study(
        tmp_path,
        {
            "v1": (rows(0.1, 0.2, 0.3, seconds=7), {}),
            "v4": (rows(0.3, 0.5, seconds=9), {"encoder_weights": "imagenet"}),
            "old": ([], {}),
        },
    )
    done = CliRunner().invoke(app, ["report", str(tmp_path)], catch_exceptions=False, env={"COLUMNS": "140"})
    assert done.exit_code == 0
    text = done.output[done.output.index("how soon") :]
    assert "val mIoU of 0.450, 90 % of the best final one (0.500, of v4)" in text
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert cells == [["v1", "random", "n/a", "n/a"], ["v4", "imagenet", "2", "18.0"]]


def test_no_table_without_histories(tmp_path: Path) -> None:
    make_study(tmp_path, {"v1": ([], {}), "failed": ([], {"status": "failed", "data": None})})
    console = Console(record=True)
    print_pace(tmp_path, console)
    assert console.export_text() == ""


def test_runs_validated_on_other_images_have_targets_of_their_own(tmp_path: Path) -> None:
    roles = {"fit": {}, "report": {"images": 4}, "select": {"images": 3}}
    other = {"data": {"name": "Scenes", "size": [32, 32], "protocol": "", "roles": roles}}
    make_study(tmp_path, {"v1": (rows(0.2), {}), "v2": (rows(0.8), other)})
    found = study_paces(tmp_path)
    assert [(p.leader, list(p.runs)) for _, p in found] == [("v1", ["v1"]), ("v2", ["v2"])]


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
        "encoder.widths=[4,4,4,4,4]", "decoder.widths=[4,4,4,4]", "callbacks.pictures.count=1",
    ])  # fmt: skip
    folder = tmp_path / "run"
    run(cfg, folder, claim(folder, cfg))
    first = [row["seconds"] for row in read_history(folder / "history.csv")]
    assert 0 < first[0] < first[1] < first[2]
    # as if it had been much slower and stopped after its last epoch but before the test
    slow = [row | {"seconds": row["seconds"] + 1000} for row in read_history(folder / "history.csv")]
    write_history(slow, folder / "history.csv")
    cfg.trainer.max_epochs = 4
    run(cfg, folder, Record(folder))
    last = [row["seconds"] for row in read_history(folder / "history.csv")]
    assert last[:3] == pytest.approx([s + 1000 for s in first], abs=0.01)
    assert 1000 + first[2] < last[3] < 1100

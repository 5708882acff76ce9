"""A run's record and history: what is read of a damaged or an earlier file, and one clear line for the rest."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from segstudy.errors import ConfigError, DamagedFile
from segstudy.runs.history import read_history, write_history
from segstudy.runs.record import Record, read_entries, read_record, read_study_records, run_order, sealed


def save(folder: Path, record: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return folder


def test_what_is_noted_is_read_and_unknown_entries_are_kept(tmp_path: Path) -> None:
    Record(tmp_path).note(status="running", of_tomorrow={"a": [1, None]}, metrics={"network": {"miou": float("nan")}})
    Record(tmp_path).note(status="done", seed=3)
    values = read_entries(tmp_path)
    assert list(values) == ["status", "of_tomorrow", "metrics", "seed"]
    assert values["of_tomorrow"] == {"a": [1, None]}
    assert (values["status"], values["seed"]) == ("done", 3)


def test_an_early_record_without_most_entries_is_read(tmp_path: Path) -> None:
    early = {"status": "done", "class_names": ["ground"], "error": None, "seconds": 3}
    assert read_record(save(tmp_path, early)) == early


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "record.json is damaged: Expecting"),
        ("[" * 100_000, "record.json is damaged: maximum recursion"),
        ("[1]", "has no named entries"),
        ('{"status": "fine"}', "status: .* found 'fine'"),
        ('{"class_names": []}', r"class_names: .* found \[\]"),
        ('{"class_names": "ab"}', "class_names: .* found 'ab'"),
        ('{"seed": 1.5}', "seed: .* found 1.5"),
        ('{"seed": true}', "seed: .* found True"),
        ('{"changes": null}', "changes: .* found None"),
        ('{"normalisation": {"mean": [1, "x"], "std": [1, 1]}}', "normalisation.mean.1: "),
        ('{"seconds": -1}', "seconds: .* found -1"),
        ('{"epochs": "many"}', "epochs: .* found 'many'"),
        ('{"metrics": {"network": {"miou": 7}}}', "miou: .*must be from 0 to 1, found 7"),
        ('{"seed": 3, "checksum": "00000000"}', "its checksum is wrong"),
    ],
)
def test_a_damaged_record_is_one_clear_line(tmp_path: Path, text: str, told: str) -> None:
    save(tmp_path, text)
    for read in (read_entries, read_record):
        with pytest.raises(DamagedFile, match=told) as error:
            read(tmp_path)
        assert len(str(error.value).splitlines()) == 1
    again = Record(tmp_path)  # of the command that trains the run
    assert again.values == {}
    assert again.damage == str(error.value)


def test_a_folder_without_a_record(tmp_path: Path) -> None:
    assert read_entries(tmp_path) == {}
    assert Record(tmp_path).values == {}
    with pytest.raises(ConfigError, match=r"is not a run's folder: no file .*record\.json"):
        read_record(tmp_path)
    with pytest.raises(ConfigError, match="no class_names"):
        read_record(save(tmp_path, {"status": "running"}))
    (tmp_path / "study").mkdir()
    (tmp_path / "record.json").rename(tmp_path / "study" / "record.json")
    with pytest.raises(ConfigError, match=rf"it holds runs: choose one\n  → {tmp_path / 'study'}$"):
        read_record(tmp_path)


def test_json_without_nan_and_metrics_with_it(tmp_path: Path) -> None:
    Record(tmp_path).note(metrics={"network": {"miou": 0.5, "pixel_accuracy": float("nan")}})
    assert "NaN" not in (tmp_path / "record.json").read_text()
    metrics = read_entries(tmp_path)["metrics"]["network"]
    assert metrics["miou"] == 0.5
    assert math.isnan(metrics["pixel_accuracy"])


def test_files_that_changed_after_the_end_of_a_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for name in ("config.yaml", "history.csv", "test/counts.npz"):
        (tmp_path / name).write_text("whole")
    record = Record(tmp_path)
    record.seal(status="done")
    assert sealed(tmp_path, "history.csv", record.values).read_text() == "whole"
    (tmp_path / "test" / "counts.npz").write_text("whole?")
    with pytest.raises(DamagedFile, match=r"counts\.npz is damaged: .*checksum.*\n  → .*--retest$"):
        sealed(tmp_path, "test/counts.npz", record.values)
    record.seal(["test/*.npz"])
    sealed(tmp_path, "test/counts.npz", record.values)
    (tmp_path / "history.csv").unlink()
    with pytest.raises(DamagedFile, match=r"history\.csv is missing"):
        sealed(tmp_path, "history.csv", record.values)
    assert sealed(tmp_path, "history.csv", {}) == tmp_path / "history.csv"  # of an older version


def test_the_records_of_a_study(tmp_path: Path) -> None:
    save(tmp_path / "b", {"status": "done"})
    save(tmp_path / "a", "{")
    (tmp_path / "empty").mkdir()
    found, damaged = read_study_records(tmp_path)
    assert found == {"b": {"status": "done"}}
    assert list(damaged) == ["a"]
    assert "record.json is damaged" in damaged["a"]


def test_runs_are_in_the_order_of_variants_and_seeds() -> None:
    names = ["v4_seed=10", "v4_lite_seed=0", "v3", "v4_lr=1_seed=0", "v4_seed=2"]
    assert sorted(names, key=run_order) == ["v3", "v4_seed=2", "v4_seed=10", "v4_lite_seed=0", "v4_lr=1_seed=0"]


def test_the_history(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    assert read_history(path) == []
    rows = [{"epoch": 1.0, "val/miou": 0.25}, {"epoch": 2.0, "train/loss": 0.5}]
    write_history(rows, path)
    assert read_history(path) == rows
    path.write_text("epoch,val/miou\n1,x\n")
    with pytest.raises(ConfigError, match=r"history\.csv is damaged: could not convert"):
        read_history(path)

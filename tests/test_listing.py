"""The table of all runs: hand-made folders, statuses, locks, damaged records."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from segstudy.cli.main import app
from segstudy.errors import ConfigError, DataError
from segstudy.runs.listing import Run, list_runs, print_runs, size, with_status

CONFIG = "seed: 0\nstart_from: {start}\ntrainer:\n  _target_: lightning.Trainer\n  max_epochs: 5\ncallbacks: {{}}\n"


def make(folder: Path, record: Any, checkpoints: tuple[str, ...] = (), epochs: int = 0, start: str = "null") -> Path:
    """A run's folder; record: None for none, a text as it is."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(start=start))
    (folder / ".lock").touch()
    if record is not None:
        (folder / "record.json").write_text(record if isinstance(record, str) else json.dumps(record))
    for name in checkpoints:
        (folder / "checkpoints" / name).write_bytes(b"x" * 1000)
    if epochs:
        (folder / "history.csv").write_text("epoch,val/miou\n" + "".join(f"{e + 1},0.5\n" for e in range(epochs)))
    return folder


def done(*changes: str, **more: Any) -> dict[str, Any]:
    figures = {"metrics": {"network": {"miou": 0.5}, "original": {"miou": 0.25}}}
    told = {"status": "done", "changes": ["model=v1", "study=s", *changes], "epochs": 5, "seconds": 61.0}
    return told | figures | {"checkpoint": "last", "started": "2026-01-02T03:04:05+00:00"} | more


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Runs of every status in two studies."""
    home = tmp_path / "runs"
    both = ("best.ckpt", "last.ckpt", "network.pth")
    make(home / "s" / "a", done("seed=0"), both, 5)
    make(home / "s" / "b", done("seed=1", checkpoint="best", selected_on_reported=True), both, 5)
    make(home / "s" / "broken", '{"status": ')
    make(home / "s" / "claimed", None)
    make(home / "t" / "died", {"status": "running", "changes": ["model=v2"]}, ("last.ckpt",), 3)
    make(home / "t" / "early", {"status": "failed", "error": "ConfigError: [no] VOC", "changes": ["model=v3"]})
    make(home / "t" / "late", {"status": "failed", "error": "E: full", "changes": ["model=v4"]}, ("last.ckpt",), 2)
    return home


def test_a_run_is_named_after_its_own_loss(tmp_path: Path) -> None:
    make(tmp_path / "s" / "v1_loss=mine.Loss", done("trainer=cpu", "data.size=32", "loss._target_=mine.Loss"))
    assert [run.name for run in list_runs(tmp_path)] == ["v1 loss=mine.Loss"]


def named(folder: Path) -> dict[str, Run]:
    return {run.folder.name: run for run in list_runs(folder)}


def command(*words: Any) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segstudy.cli.runs.console", Console(width=200))
        ended = CliRunner().invoke(app, ["runs", *map(str, words)])
    if isinstance(ended.exception, Exception) and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.exit_code, ended.output


# The table


def test_every_run_has_its_status_and_figures(home: Path) -> None:
    found = named(home)
    assert {name: run.status for name, run in found.items()} == {
        "a": "done", "b": "done", "broken": "unreadable", "claimed": "interrupted",
        "died": "interrupted", "early": "failed", "late": "failed",
    }  # fmt: skip
    assert [found[n].study for n in ("a", "died")] == ["s", "t"]
    assert [found[n].name for n in ("a", "b", "died", "broken")] == ["v1 seed=0", "v1 seed=1", "v2", "broken"]
    assert (found["died"].epochs, found["died"].planned) == (3, 5)
    assert found["a"].figure("metrics", "original", "miou") == 0.25
    assert found["a"].bytes == size(home / "s" / "a") >= 3000


def test_a_run_whose_lock_is_held_is_running(home: Path) -> None:
    with open(home / "t" / "died" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert named(home)["died"].status == "running"
    assert named(home)["died"].status == "interrupted"


@pytest.mark.parametrize(
    "text",
    ["[]", "3", '{"status": 3}', '{"status": "fine"}', '{"changes": 5}', '{"changes": []}', '{"changes": [1]}',
     '{"metrics": []}', "\x00", "[" * 100_000, '{"changes": null}'],
)  # fmt: skip
def test_a_damaged_record_is_a_row_and_no_traceback(tmp_path: Path, text: str) -> None:
    make(tmp_path / "s" / "good", done())
    make(tmp_path / "s" / "bad", text)
    found = named(tmp_path)
    assert (found["bad"].status, found["good"].status) == ("unreadable", "done")
    assert "record.json" in (found["bad"].error or "")
    print_runs(list(found.values()), Console(quiet=True))


@pytest.mark.parametrize(
    "odd", [{"metrics": {"network": 3}}, {"metrics": {"original": {"miou": "high"}}}, {"epochs": "many"}], ids=str
)
def test_figures_of_another_kind_make_a_record_unreadable(tmp_path: Path, odd: dict[str, Any]) -> None:
    make(tmp_path / "s" / "odd", done(**odd, started="yesterday"))
    code, text = command(tmp_path, "--json")
    row = json.loads(text)[0]
    assert code == 0
    assert (row["miou"], row["miou_original"], row["status"]) == (None, None, "unreadable")
    assert next(iter(odd)) in row["error"]
    assert command(tmp_path)[0] == 0


def test_the_table_names_studies_and_failures(home: Path) -> None:
    _, text = command(home)
    assert "s (4 runs" in text
    assert "v3: ConfigError: [no] VOC" in text
    assert "7 runs: 2 done, 2 failed, 2 interrupted, 1 unreadable" in text
    assert "* selected on the reported split" in text
    assert "3 of 5" in text
    assert "1:01" in text


def test_json_paths_and_statuses(home: Path) -> None:
    rows = json.loads(command(home, "--json", "--status", "failed")[1])
    assert [(row["folder"], row["error"], row["max_epochs"]) for row in rows] == [
        (str(home / "t" / "early"), "ConfigError: [no] VOC", 5), (str(home / "t" / "late"), "E: full", 5)
    ]  # fmt: skip
    assert command(home, "--paths", "--status", "done")[1].split() == [str(home / "s" / n) for n in "ab"]
    with pytest.raises(ConfigError, match="--status dne: no such status; did you mean done"):
        with_status([], ["dne"])


def test_one_study_and_one_run_are_listed_as_such(home: Path) -> None:
    assert {run.study for run in list_runs(home / "s")} == {"s"}
    assert [run.folder.name for run in list_runs(home / "t" / "late")] == ["late"]


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for words in ([tmp_path], [tmp_path / "nothing"]):
        with pytest.raises(DataError, match="no runs in"):
            command(*words)


def test_links_are_not_followed(home: Path, tmp_path: Path) -> None:
    outside = make(tmp_path / "elsewhere" / "s" / "x", done(), ("best.ckpt", "last.ckpt"))
    (home / "linked").symlink_to(outside.parent)
    (home / "s" / "c").symlink_to(outside)
    assert not {"x", "c"} & set(named(home))


def test_listing_needs_no_torch() -> None:
    code = "import sys; from segstudy.cli import main; from segstudy.runs import listing; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "False"


def test_five_hundred_runs_take_no_time(tmp_path: Path) -> None:
    for i in range(500):
        make(tmp_path / f"s{i % 5}" / f"r{i}", done(f"seed={i}"), ("last.ckpt",), 2)
    began = time.process_time()
    assert len(list_runs(tmp_path)) == 500
    assert time.process_time() - began < 2


def test_pipes_and_links_in_place_of_files_are_not_waited_for(home: Path, tmp_path: Path) -> None:
    kinds = {"record": "record.json", "config": "config.yaml", "history": "history.csv", "lock": ".lock"}
    for name, kind in (kinds | {"linked": ".lock"}).items():
        file = make(home / "s" / name, done(f"seed={name}")) / kind
        file.unlink(missing_ok=True)
        os.mkfifo(file) if name != "linked" else file.symlink_to(tmp_path / "mine")
    runs = named(home)
    assert runs["record"].status == "unreadable"
    assert {runs[n].status for n in ("config", "history", "lock", "linked")} == {"done"}
    assert "config.yaml is damaged: not a regular file" in (runs["config"].error or "")
    assert not (tmp_path / "mine").exists()

"""How commands end: what an interruption leaves, and the exit codes of what fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from typer.main import get_command

from segstudy import sweep, train
from segstudy.build import build_data, build_module, build_network, build_trainer
from segstudy.cli import main
from segstudy.config.compose import compose_config
from segstudy.config.run_folder import claimed_folder
from segstudy.errors import ConfigError
from segstudy.runs.history import read_history
from segstudy.runs.record import Record
from segstudy.study.report import write

ROOT = Path(__file__).parents[1]
TINY = [
    "data.size=32", "data.train_images=8", "data.val_images=4", "data.batch_size=4", "trainer.max_epochs=1",
    "encoder.widths=[4,4]", "decoder.widths=[4]", "++callbacks.pictures.enabled=false",
]  # fmt: skip
CPU = ["trainer=cpu", *TINY]
STOP = """
import os, signal
import lightning as L

class Stop(L.Callback):
    def on_test_batch_start(self, trainer, *_):
        os.kill(os.getpid(), int(os.environ["STOP"]))
"""


def command(cwd: Path, *line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), **environment}
    done = subprocess.Popen(
        [sys.executable, *line], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    out, err = done.communicate(timeout=300)
    return subprocess.CompletedProcess(line, done.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_libraries_are_imported(number: int, tmp_path: Path) -> None:
    for library in ("torch", "hydra", "typer"):  # one of them comes first
        (tmp_path / f"{library}.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\n")
    libraries = f"{tmp_path}{os.pathsep}{ROOT / 'src'}"
    for line in ([str(ROOT / "train.py")], ["-m", "segstudy", "runs"]):
        done = command(tmp_path, *line, PYTHONPATH=libraries)
        assert done.returncode == 128 + number
        assert done.stderr == "\ninterrupted; the same command continues where it stopped\n"


def test_a_signal_in_a_runs_test_ends_the_sweep_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stop.py").write_text(STOP)
    stop = ["+callbacks.stop._target_=stop.Stop", "study=s", "hydra.sweep.subdir=${hydra:job.num}"]
    line = [str(ROOT / "train.py"), "-m", "seed=0,1", *CPU, *stop]
    done = command(tmp_path, *line, STOP="15")
    assert done.returncode == 143
    assert done.stderr.splitlines() == ["", f"interrupted; the same command continues {tmp_path / 'runs' / 's'}"]
    study = tmp_path / "runs" / "s"
    assert [f.name for f in study.iterdir() if f.is_dir()] == ["0"]
    assert json.loads((study / "0" / "record.json").read_text())["status"] == "running"
    kept = torch.load(study / "0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2
    monkeypatch.setenv("STOP", "0")  # which is no signal
    monkeypatch.syspath_prepend(tmp_path)
    cfg = compose_config(["seed=0", *CPU, *stop[:2]])
    with claimed_folder(study / "0", cfg) as record:
        train.run(cfg, study / "0", record)
    assert json.loads((study / "0" / "record.json").read_text())["status"] == "done"
    assert json.loads((study / "0" / "record.json").read_text())["steps"] == 2


@pytest.mark.parametrize("error", [ConfigError("no such figure"), ZeroDivisionError("a fault of ours")])
def test_a_report_that_fails_is_told_and_the_exit_code_is_1(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> list[str]:
        raise error

    monkeypatch.setattr(write, "report_study", failing)
    monkeypatch.setattr(sweep, "FAILED", ["v2"])
    with pytest.raises(SystemExit) as ended:  # Hydra makes a warning of an Exception, and goes on to exit code 0
        sweep.Study().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert str(error) in err
    assert ("Traceback" in err) is isinstance(error, ZeroDivisionError)
    assert "failed: v2" in out


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (["start_from=runs/a/v1,runs/b/v1"], "v1_start_from-v1: start_from=runs/a/v1 and start_from=runs/b/v1"),
        (["data.root=a,b", "seed=0,1"], "v1_seed-0: data.root=a and data.root=b"),
        (["seed=0,0", "loss=ce,dice"], ""),
    ],
)
def test_runs_that_would_share_a_folder_are_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: list[str], text: str
) -> None:
    hydra = {
        "sweep": {"dir": str(tmp_path), "subdir": "${run_name:a}"}, "sweeper": {"params": None},
        "runtime": {"choices": {"model": "v1"}}, "overrides": {"task": task},
    }  # fmt: skip
    with pytest.raises(SystemExit) if text else contextlib.nullcontext():
        sweep.Study().on_multirun_start(OmegaConf.create({"hydra": hydra, "report": {}}))
    assert text in capsys.readouterr().err


def test_a_side_that_no_run_will_be_is_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"pairs": [["v1", "v2"], ["v2", "v9"], ["v1", "loss=dice"]]}
    hydra = {
        "sweep": {"dir": str(tmp_path)}, "sweeper": {"params": None}, "runtime": {"choices": {"model": "v1"}},
        "overrides": {"task": ["model=v1,v2", "loss=ce,dice", "seed=0,1"]},
    }  # fmt: skip
    sweep.Study().on_multirun_start(OmegaConf.create({"hydra": hydra, "report": told}))
    assert (
        capsys.readouterr().out
        == "report: 'v9' matches no run of this study (v1 loss=ce, v1 loss=dice, v2 loss=ce, v2 loss=dice)\n"
    )


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("trainer.strategy=fsdp", "trainer: The strategy `fsdp` requires a GPU"),
        ("trainer.precision=abc", "trainer: Precision 'abc' is invalid"),
        ("trainer.max_time=abc", "trainer: .*not a valid duration"),
        ("callbacks.best.save_top_k=-2", "callbacks.best: "),
        ("logger.mine._target_=segstudy.errors.did_you_mean", "logger.mine: "),
    ],
)
def test_what_lightning_refuses_is_a_mistake_with_its_words(setting: str, told: str, tmp_path: Path) -> None:
    cfg = compose_config([*CPU, f"++{setting}"])
    with pytest.raises(ConfigError, match=told):
        build_trainer(cfg, tmp_path)


def test_settings_that_the_optimizer_refuses(tmp_path: Path) -> None:
    cfg = compose_config([*CPU, "optim.optimizer.weight_decay=-1"])
    data = build_data(cfg)
    with pytest.raises(ConfigError, match="optim or schedule: Invalid weight_decay"):
        build_module(cfg, build_network(cfg, 8)[0], data)


def test_processes_of_torchrun_that_the_trainer_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun started 2 processes"):
        build_trainer(compose_config(CPU), tmp_path)


def test_a_logger_of_the_users_own_gets_curves_settings_and_final_figures(tmp_path: Path) -> None:
    cfg = compose_config([*CPU, "logger=many_loggers"])
    record = Record(tmp_path)
    train.run(cfg, tmp_path, record)
    (curves,) = tmp_path.glob("csv/version_0/metrics.csv")
    rows = [dict(zip(curves.read_text().splitlines()[0].split(","), line.split(","), strict=True))
            for line in curves.read_text().splitlines()[1:]]  # fmt: skip
    final = [float(row["final/miou"]) for row in rows if row["final/miou"]]
    assert final == [pytest.approx(record.values["metrics"]["network"]["miou"])]
    assert any(row["val/loss"] for row in rows)
    assert "lr: 0.001" in (curves.parent / "hparams.yaml").read_text()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_run_without_loggers(tmp_path: Path) -> None:
    cfg = compose_config([*CPU, "logger=none"])
    train.run(cfg, tmp_path, record := Record(tmp_path))
    assert record.status == "done"
    assert not (tmp_path / "tensorboard").exists()


SEARCH = [
    "hparams_search=optuna", "study=search", "hydra.sweeper.n_trials=3",
    "hydra.sweeper.params={optim.lr: 'tag(log, interval(1e-4, 1e-2))'}",
]  # fmt: skip


def test_a_search_maximises_the_metric_of_the_select_role(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = command(tmp_path, str(ROOT / "train.py"), *CPU, *SEARCH, "data.select_fraction=.5", "data.train_images=16")
    assert done.returncode == 0, done.stderr
    study = tmp_path / "runs" / "search"
    scores = {folder.name: read_history(folder / "history.csv")[-1]["val/miou"] for folder in study.glob("v1_lr-*")}
    assert len(scores) == 3
    best = OmegaConf.load(study / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(scores.values()))  # type: ignore[union-attr]
    assert "best: " in done.stdout
    assert not (study / "report.html").exists()


def test_a_search_without_a_select_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    hydra = {"sweeper": {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}}
    for data in ({"select_fraction": 0}, {"val": "val", "test": None}):
        with pytest.raises(SystemExit) as ended:
            sweep.Study().on_multirun_start(OmegaConf.create({"hydra": hydra, "data": data}))
        assert ended.value.code == 2
        assert "data.select_fraction=0.1" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["launcher", "sweeper"])
def test_a_budget_with_another_launcher_or_a_search_is_refused(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    hydra = {"launcher": {"_target_": "hydra_plugins.segstudy_launcher.SegstudyLauncher"}}
    hydra |= {part: {"_target_": "hydra_plugins.of_others.Other"}}
    with pytest.raises(SystemExit) as ended:
        sweep.Study().on_multirun_start(OmegaConf.create({"hydra": hydra, "budget": "8min"}))
    assert ended.value.code == 2
    assert "with hydra/launcher=segstudy" in capsys.readouterr().err


def test_each_option_that_writes_is_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Every command: no file below another file. An export checks its own name, which follows from its format."""
    (tmp_path / "file").touch()
    found = []

    def walk(command: Any, words: list[str]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*words, name])
        for option in command.params:
            writes = {"--out", "--json", "--save-masks"} & {*option.opts}
            if not writes or option.is_flag or (words == ["export"] and "--out" in writes):
                continue
            arguments = [tmp_path for p in command.params if p.param_type_name == "argument" and p.required]
            found.append([*words, *writes])
            monkeypatch.setattr(sys, "argv", ["segstudy", *map(str, [*found[-1], tmp_path / "file/x.png", *arguments])])
            with pytest.raises(SystemExit) as end:
                main.main()
            assert end.value.code == 2
            assert "file is not a folder" in capsys.readouterr().err, found[-1]

    walk(get_command(main.app), [])
    assert len(found) >= 11

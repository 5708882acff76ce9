"""Several runs of a study at once: the same results, and how failed, killed and interrupted ones end."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from test_train import NO_PICTURES, ROOT, SMALL, THIN, command, train

from segstudy import display, side_by_side
from segstudy.config.compose import compose_config
from segstudy.display import Display
from segstudy.errors import ConfigError
from segstudy.launch import Sweep
from segstudy.side_by_side import GIB, Job, Outcome, choose_number, train_side_by_side

AT_ONCE = ["-m", "hydra.launcher.n_jobs=2", "study=s", *SMALL, *THIN, NO_PICTURES]
LOSSES = """
import os, signal
import torch

class Good(torch.nn.Module):
    def forward(self, logits, mask):
        return logits.float().mean() ** 2

class Bad(Good):
    def forward(self, logits, mask):
        return super().forward(logits, mask) * (float("nan") if logits.shape[-1] > 8 else 1)

class Kill(Good):
    def forward(self, logits, mask):
        if logits.shape[-1] > 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(logits, mask)
"""


def status_of(study: Path) -> dict[str, str]:
    records = {p.parent.name: json.loads(p.read_text()) for p in study.glob("*/record.json")}
    return {name.split("losses_of_a_study.")[-1].split("_")[0]: record["status"] for name, record in records.items()}


def test_a_failed_and_a_killed_run_stop_no_other_and_the_others_weights_are_those_of_a_single_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "losses_of_a_study.py").write_text(LOSSES)
    done = command(
        tmp_path,
        *AT_ONCE,
        "loss._target_=losses_of_a_study.Bad,losses_of_a_study.Kill,losses_of_a_study.Good",
        OMP_NUM_THREADS="2",
    )
    assert done.returncode == 1
    assert "2 runs at once, 1 thread each" in done.stdout
    assert status_of(tmp_path / "runs" / "s") == {"Bad": "failed", "Kill": "running", "Good": "done"}
    lines = done.stdout.splitlines()
    assert sum(line.endswith(": started") for line in lines) == 3
    assert any("losses_of_a_study.Bad: TrainingError: the loss became nan at step 1" in line for line in lines)
    assert any("losses_of_a_study.Kill: its process was killed by signal 9" in line for line in lines)
    last = next(line for line in lines if line.startswith("failed or unfinished"))
    assert "Bad" in last
    assert "Kill" in last
    assert "Good" not in last
    assert "train loss" not in done.stdout  # in each run's log
    (good,) = (tmp_path / "runs" / "s").glob("*Good*")
    assert (good / "log.txt").read_text().count("train loss") == 2
    monkeypatch.syspath_prepend(tmp_path)
    alone = train(tmp_path / "alone", *THIN, NO_PICTURES, "study=s", "loss._target_=losses_of_a_study.Good")
    weights = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
               for folder in (good, tmp_path / "alone")]  # fmt: skip
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert json.loads((good / "record.json").read_text())["threads"] == alone["threads"] == 1


def test_a_killed_run_of_another_launcher_leaves_the_others_and_the_studys_end(tmp_path: Path) -> None:
    (tmp_path / "losses_of_a_study.py").write_text(LOSSES)
    runs = "loss._target_=losses_of_a_study.Good,losses_of_a_study.Kill"
    # joblib ends all runs when one is killed, so they are begun one after another, in a process that is not this one
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.pre_dispatch=1"]
    done = command(tmp_path, "-m", "study=s", *SMALL, *THIN, NO_PICTURES, runs, *launcher)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "the launcher stopped: TerminatedWorkerError: " in done.stdout
    assert status_of(tmp_path / "runs" / "s") == {"Good": "done", "Kill": "running"}
    last = next(line for line in done.stdout.splitlines() if line.startswith("failed or unfinished"))
    assert [name in last for name in ("Good", "Kill")] == [False, True]
    assert (tmp_path / "runs" / "s" / "report.html").is_file()


def wait_until(happened: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.1)
    return happened()


def session_lives(process: int) -> bool:
    try:
        os.killpg(process, 0)
        return True
    except ProcessLookupError:
        return False


def test_ctrl_c_ends_all_runs_and_leaves_what_the_same_command_continues(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120", "OMP_NUM_THREADS": "2"}
    line = [sys.executable, str(ROOT / "train.py"), *AT_ONCE, "seed=0,1,2", "trainer.max_epochs=1000"]
    with subprocess.Popen(
        line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        study = tmp_path / "runs" / "s"
        trains = wait_until(lambda: len(list(study.glob("*/checkpoints/last.ckpt"))) == 2, 300)
        os.killpg(process.pid, signal.SIGINT if trains else signal.SIGKILL)  # to all processes, as a terminal does
        _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert err == f"\ninterrupted; the same command continues {study}\n"
    assert [json.loads(p.read_text())["status"] for p in study.glob("*/record.json")] == ["running", "running"]
    assert wait_until(lambda: not session_lives(process.pid), 10)


class ShortProcess(SimpleNamespace):
    """A process that tells of its run and ends."""

    def start(self) -> None:
        self.args[2].send(("began", "folder"))

    def terminate(self) -> None:
        pass

    kill = terminate


def test_an_interrupted_study_does_not_wait_for_runs_that_have_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(side_by_side, "_context", lambda: SimpleNamespace(Pipe=Pipe, Process=ShortProcess))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_side_by_side([Job(compose_config([]), None, None)] * 3, 1, 1, interrupted)  # type: ignore[arg-type]
    assert time.monotonic() - began < side_by_side.PATIENCE / 2


def test_as_many_runs_at_once_as_there_are_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (compose_config(["trainer=cpu", *more]) for more in ([], ["data.size=256", "data.batch_size=32"]))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(side_by_side, "available_memory", lambda: 20 * GIB)
    assert choose_number("auto", [small], 12) == (8, 1)
    assert choose_number("auto", [small], 3) == (3, 2)
    assert choose_number("auto", [small, large], 12) == (1, 8)  # 1 GiB + 32·256²·8 KiB = 17 GiB
    assert choose_number(2, [large], 12) == (2, 4)
    several = compose_config(["trainer=cpu", "trainer.devices=2"])
    assert choose_number("auto", [several], 12) == (1, 8)
    with pytest.raises(ConfigError, match="several devices"):
        choose_number(2, [several], 12)
    for wrong in (0, True, "many"):
        with pytest.raises(ConfigError, match=f"n_jobs={wrong}: must be auto, or the number"):
            choose_number(wrong, [small], 12)


def test_bars_show_any_name_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(force_terminal=True, width=30, file=io.StringIO())
    monkeypatch.setattr(display, "console", terminal)
    with Display(["v1 a=[/x]"]) as show:
        show(0, "began", "folder")
        show(0, "step", 3, 20)
        show(0, "exited", Outcome(3, 1, -9))
    assert "v1 a=[/x]: its process was killed by signal 9" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_what_a_process_needs_can_be_pickled_by_other_launchers_too() -> None:
    import pickle

    from segstudy import train

    assert pickle.loads(pickle.dumps(train.task)) is train.task
    job: Any = Sweep(compose_config([]), None, train.task)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(job)) == job

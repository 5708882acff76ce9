"""A study's budget: one number of steps for all its runs, and training that ends at a number of steps."""

import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from conftest import save_record
from omegaconf import open_dict
from test_train import NO_PICTURES, THIN, train

from segstudy import launch
from segstudy.budget import (
    LEAST,
    VariantTimes,
    apply_budget,
    choose_steps,
    describe,
    fitting_steps,
    read_budget,
    total_seconds,
    write_budget,
)  # fmt: skip
from segstudy.config.check import check
from segstudy.config.compose import compose_config
from segstudy.config.run_names import differences, run_name
from segstudy.errors import ConfigError
from segstudy.formatting import parse_duration
from segstudy.launch import Sweep, set_budget, short_names, variants_of
from segstudy.runs.history import read_history
from segstudy.side_by_side import Job, Outcome

FAST = VariantTimes(step=0.1, validation=1.0, rest=5.0, epoch=10, every=1, most=1000)
SLOW = VariantTimes(step=0.4, validation=1.0, rest=5.0, epoch=10, every=1, most=1000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("8min", 480), ("2h", 7200), ("1h30min", 5400), ("1.5h", 5400), ("1h2min3s", 3723)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "8 minutes", "min", "0s", "8min1h", "1.2.3s", "-8min", "1h30"])
def test_what_is_no_time(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["budget=8"], "budget=8: must be a time such as 90s, 8min, 2h or 1h30min"),
        (["budget=soon"], "budget=soon: must be a time"),
        (["budget=8min", "trainer.max_time='00:00:08:00'"], "leave out one of the two"),
    ],
)
def test_a_mistaken_budget_is_an_error(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(compose_config(overrides))


def test_the_budget_is_neither_in_a_runs_name_nor_another_config() -> None:
    assert run_name("v1", ["budget=8min", "seed=1"]) == "v1_seed-1"
    assert differences(compose_config(["budget=8min"]), compose_config([])) == []
    old = compose_config([])
    del old.trainer.max_steps  # a run's folder of an older version
    assert differences(old, compose_config([])) == []
    assert differences(old, compose_config(["trainer.max_steps=9"])) == ["trainer.max_steps: -1 → 9"]


def test_seconds_of_a_study_are_those_of_runs_at_once() -> None:
    assert FAST.run(25) == 5 + 2.5 + 3  # the third epoch is cut, and validated
    assert total_seconds([FAST, FAST, SLOW], 20, 1) == pytest.approx(9 + 9 + 15)
    assert total_seconds([FAST, SLOW, FAST], 20, 2) == pytest.approx(9 + 9)


def test_the_largest_number_of_steps_that_fits() -> None:
    for seconds in (20.0, 60.0, 600.0):
        steps = fitting_steps([FAST, SLOW], 1, seconds)
        assert total_seconds([FAST, SLOW], steps, 1) <= seconds < total_seconds([FAST, SLOW], steps + 1, 1)
    assert fitting_steps([FAST, SLOW], 1, 10) == 0
    assert fitting_steps([FAST, SLOW], 1, 1e6) == 1000  # the config asks for no more


def test_a_budget_too_small_names_one_that_is_enough() -> None:
    times, runs = {"v1": FAST, "v2": SLOW}, ["v1", "v1", "v2", "v2"]
    with pytest.raises(ConfigError, match=f"at least {LEAST} are needed\n  → budget=1min or more"):
        choose_steps("30s", 1, times, runs, 1)
    chosen = choose_steps("1min", 1, times, runs, 1)
    assert chosen["steps"] >= LEAST
    assert chosen["expected_seconds"] <= 54
    assert f"{chosen['steps']} steps for each run (seconds per step: v1 0.10, v2 0.40)" in describe(chosen, 4)
    assert "as the config asks for" in describe(choose_steps("9h", 1, times, runs, 1), 4)


def test_a_study_trains_at_least_min_steps_even_if_they_take_longer() -> None:
    wanted = dataclasses.replace(SLOW, least=80)
    chosen = choose_steps("30s", 1, {"v3": wanted}, ["v3", "v3"], 1)
    assert (chosen["steps"], chosen["expected_seconds"]) == (80, 1 + 2 * (5 + 32 + 8))
    assert f"80 steps for each run, as trainer.min_steps asks for, though only {chosen['fitting']} fit" in describe(
        chosen, 2
    )
    assert chosen["fitting"] < 20
    assert choose_steps("1h", 1, {"v3": wanted}, ["v3", "v3"], 1)["steps"] == 1000
    few = dataclasses.replace(wanted, most=30)
    assert choose_steps("30s", 1, {"v3": few}, ["v3", "v3"], 1)["steps"] == 30


def test_a_run_that_ends_within_its_first_epoch_is_validated(tmp_path: Path) -> None:
    short = ("data.batch_size=4", "budget=9s", "trainer.min_steps=2", "trainer.max_steps=2")
    record = train(tmp_path / "v1", "data=scenes", *THIN, NO_PICTURES, *short)
    assert record["steps"] == 2
    assert "val/miou" in read_history(tmp_path / "v1" / "history.csv")[-1]


def test_a_study_keeps_its_number_and_its_runs_use_it(tmp_path: Path) -> None:
    cfg = compose_config(["budget=8min"])
    with pytest.raises(ConfigError, match=r"time of a whole study.*\n.*trainer.max_time"):
        apply_budget(cfg, tmp_path)
    write_budget(tmp_path, choose_steps("8min", 1, {"v1": FAST}, ["v1"], 1))
    apply_budget(cfg, tmp_path)
    assert cfg.trainer.max_steps == 1000
    with pytest.raises(ConfigError, match=r"1000 steps each, for budget=8min\n.*another study"):
        read_budget(tmp_path, "9min")
    for damaged in ("{", "[]", '{"budget": "8min", "steps": 0}', '{"budget": "8min", "steps": null}'):
        (tmp_path / "budget.json").write_text(damaged)
        with pytest.raises(ConfigError, match=r"budget\.json is damaged"):
            read_budget(tmp_path, "8min")


def test_one_command_at_a_time_chooses_a_studys_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".trial-killed" / "0").mkdir(parents=True)  # of a killed command
    cfg = compose_config(["budget=8min", "trainer.max_epochs=null", "trainer.max_steps=30"])
    with open_dict(cfg):
        cfg.hydra = {"sweep": {"dir": str(tmp_path), "subdir": "v1"}}
    trials: list[list[str]] = []
    ready: list[bool] = []

    def tried(jobs: list[Job], *_: Any) -> list[Outcome]:
        place = Path(jobs[0].config.hydra.sweep.dir) / "0"
        place.mkdir()
        (place / "times.json").write_text('{"step": 0.1, "validation": 1, "test": 1, "timed": 2, "steps_per_epoch": 3}')
        with pytest.raises(BlockingIOError):
            fcntl.flock(os.open(tmp_path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert ready  # else the trial's time would hold the server's start
        trials.append([p.name for p in tmp_path.glob(".trial-*")])
        return [Outcome(9, 1, 0, {"ended": (0.5,)})]

    monkeypatch.setattr(launch, "train_side_by_side", tried)
    monkeypatch.setattr(launch, "wait_for_server", lambda: ready.append(True))
    for _ in range(2):
        set_budget(Sweep(cfg, None, None), {"v1": cfg}, [["model=v1"]], 1, 1)  # type: ignore[arg-type]
    assert len(trials) == 1
    assert ".trial-killed" not in trials[0]
    assert [p.name for p in tmp_path.iterdir()] == ["budget.json"]
    assert "30 steps for each run, as the config asks for" in capsys.readouterr().out


def test_variants_are_runs_without_their_seeds() -> None:
    runs = [["model=v1", "loss=ce", "seed=0"], ["model=v1", "loss=ce", "seed=1"], ["model=v2", "loss=ce", "seed=0"]]
    assert short_names(runs) == ["v1 seed=0", "v1 seed=1", "v2 seed=0"]
    assert variants_of(runs) == {"v1": runs[0], "v2": runs[2]}
    assert short_names([["seed=0", "model=v1"], ["seed=1", "model=v1"]]) == ["v1 seed=0", "v1 seed=1"]
    assert short_names([["model=v1", "data.size=32"]]) == ["v1"]


def test_training_ends_at_a_step_within_an_epoch_with_a_validation_and_a_rate_of_0(tmp_path: Path) -> None:
    rates = "+callbacks.rates._target_=test_budget.Rates"
    record = train(tmp_path / "run", *THIN, NO_PICTURES, "trainer.max_steps=5", "trainer.max_epochs=50", rates)
    assert (record["steps"], record["epochs"]) == (5, 2)
    rows = read_history(tmp_path / "run" / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1]["val/miou"] == pytest.approx(record["metrics"]["network"]["miou"], abs=1e-5)
    assert len(Rates.used) == 5
    assert Rates.used[-1] > 0
    assert Rates.last == pytest.approx(0, abs=1e-12)


def test_a_run_killed_in_its_test_after_a_cut_epoch_is_tested_again_not_trained(tmp_path: Path) -> None:
    rates = "+callbacks.rates._target_=test_budget.Rates"
    settings = [*THIN, NO_PICTURES, "trainer.max_steps=5", "trainer.max_epochs=50", rates]
    once = train(tmp_path / "run", *settings)
    save_record(tmp_path / "run", once | {"status": "running"})
    again = train(tmp_path / "run", *settings)
    assert Rates.used == []
    for key in ("metrics", "steps", "epochs", "threads"):
        assert again[key] == once[key], key


@pytest.mark.parametrize(("step", "fit"), [(4, "squash"), (7, "crop")])
def test_a_run_killed_in_training_continues_to_the_same_steps_and_weights(
    step: int, fit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = "+callbacks.kill._target_=test_budget.Kill"
    settings = [*THIN, NO_PICTURES, f"data.fit={fit}", "trainer.max_steps=8", "trainer.max_epochs=50", kill]
    whole = train(tmp_path / "whole", *settings)
    monkeypatch.setattr(Kill, "step", step)
    with pytest.raises(SystemError):
        train(tmp_path / "run", *settings)
    monkeypatch.setattr(Kill, "step", -1)
    again = train(tmp_path / "run", *settings)
    for key in ("metrics", "steps", "epochs"):
        assert again[key] == whole[key], key
    rows = [read_history(tmp_path / run / "history.csv") for run in ("run", "whole")]
    for a, b in zip(*rows, strict=True):
        timed = ("seconds", "speed/images_per_second", "speed/data_wait")
        assert {k: v for k, v in a.items() if k not in timed} == {k: v for k, v in b.items() if k not in timed}
    a, b = (torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("run", "whole"))
    assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())


class Kill(L.Callback):
    """Ends a run at a step, without a further checkpoint."""

    step: ClassVar[int] = -1

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise SystemError


def test_a_trial_ends_early_and_notes_what_each_stage_takes(tmp_path: Path) -> None:
    trial = [
        "+callbacks.stage_times._target_=segstudy.callbacks.stage_times.StageTimes", "+callbacks.stage_times.steps=2",
        "+trainer.limit_test_batches=1", "data.val_images=24",
    ]  # fmt: skip
    record = train(tmp_path / "run", *THIN, NO_PICTURES, "trainer.max_epochs=50", *trial)
    assert record["steps"] == 4  # the first two are not timed
    assert record["epochs"] == 2
    times = json.loads((tmp_path / "run" / "times.json").read_text())
    assert times["steps_per_epoch"] == 3
    assert min(times["step"], times["validation"], times["test"]) > 0
    assert times["timed"] < record["seconds"]


class Rates(L.Callback):
    """Learning rates: of each step, and after the last."""

    used: ClassVar[list[float]] = []
    last: ClassVar[float] = 1.0

    def on_fit_start(self, *_: Any) -> None:
        Rates.used = []

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        Rates.used.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        Rates.last = trainer.optimizers[0].param_groups[0]["lr"]

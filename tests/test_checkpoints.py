"""What checkpoints hold: the validated network, and all that a continued run needs to end as an unbroken one."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from test_train import THIN, train

from segstudy.callbacks import pictures
from segstudy.inference.loading import load_run
from segstudy.runs.history import read_history

QUICK = [*THIN, "data.train_images=16", "+callbacks.pictures.enabled=false"]  # two steps an epoch
EMA = ["callbacks.ema.enabled=true", "callbacks.ema.decay=0.7", "optim.lr=0.03", "data.scene_seed=1"]


class Killed(Exception):
    """The process ends here."""


class Kill(L.Callback):
    """Ends the process at step `step`, at the end of training, or at the start of the test; not if it continues."""

    def __init__(self, at: str, step: int = -1):
        self.at, self.step = at, step

    def _kill(self, trainer: L.Trainer, at: str) -> None:
        if at == self.at and not (Path(trainer.default_root_dir) / "killed").exists():
            (Path(trainer.default_root_dir) / "killed").touch()
            raise Killed

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self._kill(trainer, "step")

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._kill(trainer, "train_end")

    def on_test_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._kill(trainer, "test")


def whole_and_continued(folder: Path, at: str, *overrides: str, step: int = -1) -> tuple[dict[str, Any], ...]:
    """The records of a run, and of one that was killed and continued."""
    whole = train(folder / "whole", *QUICK, *overrides)
    kill = [
        "+callbacks.kill._target_=test_checkpoints.Kill",
        f"+callbacks.kill.at={at}",
        f"+callbacks.kill.step={step}",
    ]
    with pytest.raises(Killed):
        train(folder / "killed", *QUICK, *overrides, *kill)
    return whole, train(folder / "killed", *QUICK, *overrides, *kill)


def held(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Nested values, tensors bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_an_averaged_network_is_tested_and_kept_as_it_was_validated(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    predict = pictures.predict

    def spied(module: Any, *rest: Any) -> Any:
        weights = {k: v.clone() for k, v in module.network.state_dict().items()}
        if not drawn or not same(weights, drawn[-1]):  # called once for each image of a picture
            drawn.append(weights)
        return predict(module, *rest)

    monkeypatch.setattr(pictures, "predict", spied)
    more = ["callbacks.pictures.enabled=true", "callbacks.pictures.every=1", "callbacks.state_dict.enabled=true"]
    record = train(tmp_path / "run", *QUICK, *EMA, *more, f"checkpoint={checkpoint}")
    validated = [row["val/miou"] for row in read_history(tmp_path / "run" / "history.csv")]
    assert len({round(v, 4) for v in validated}) == 2
    chosen = max(validated) if checkpoint == "best" else validated[-1]
    assert record["metrics"]["network"]["miou"] == pytest.approx(chosen, rel=1e-5)
    loaded = load_run(tmp_path / "run")[0].state_dict()
    plain = torch.load(tmp_path / "run" / "checkpoints" / "network.pth", weights_only=True)
    epoch = validated.index(chosen) + 1  # before it is the picture of the start
    assert same(dict(loaded), plain)
    assert same(dict(loaded), drawn[epoch])
    assert same(dict(loaded), drawn[-1])
    assert set(held(tmp_path / "run", "best")) == {
        "epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops"
    }  # fmt: skip


def test_the_average_by_hand(tmp_path: Path) -> None:
    """Weights and batch statistics after each step, averaged here."""
    train(tmp_path / "run", *QUICK, *EMA, "checkpoint=best", "+callbacks.steps._target_=test_checkpoints.Steps")
    mean = Steps.seen[0]
    for state in Steps.seen[1:]:
        mean = {k: 0.7 * mean[k] + 0.3 * v for k, v in state.items()}
    kept = held(tmp_path / "run")["state_dict"]
    assert len(Steps.seen) == 4
    assert any("running_var" in k for k in mean)
    for key, value in mean.items():
        torch.testing.assert_close(kept[f"network.{key}"], value)


class Steps(L.Callback):
    """Keeps the float values of the network after each step."""

    seen: list[dict[str, torch.Tensor]] = []

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        Steps.seen = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        state = module.network.state_dict()
        Steps.seen.append({k: v.clone() for k, v in state.items() if v.is_floating_point()})


@pytest.mark.parametrize(
    "overrides",
    [
        [*EMA, "checkpoint=best"],
        ["schedule=plateau", "schedule.patience=0", "schedule.factor=0.5", "optim.lr=0.03", "data.select_fraction=0.25",
         "data.batch_size=4"],
        ["schedule=step", "schedule.every=1", "callbacks.freeze.enabled=true", "callbacks.freeze.epochs=2"],
    ],
    ids=["ema", "plateau", "step"],
)  # fmt: skip
def test_a_continued_run_ends_as_an_unbroken_one(overrides: list[str], tmp_path: Path) -> None:
    epochs = 4
    step = 10 if "schedule=plateau" in overrides else 7  # in the last epoch
    whole, continued = whole_and_continued(tmp_path, "step", *overrides, f"trainer.max_epochs={epochs}", step=step)
    assert continued["metrics"] == whole["metrics"]
    one, other = (held(tmp_path / name) for name in ("whole", "killed"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(one[part], other[part]), part
    assert "current_model_state" not in one or same(one["averaging_state"], other["averaging_state"])


def test_a_plateau_lowers_the_rate_by_the_losses_of_the_history(tmp_path: Path) -> None:
    settings = ["schedule=plateau", "schedule.patience=0", "schedule.factor=0.5", "optim.lr=0.03"]
    train(tmp_path / "run", *QUICK, *settings, "trainer.max_epochs=5", "callbacks.ema.enabled=true")
    rows = read_history(tmp_path / "run" / "history.csv")
    rate, best, expected = 0.03, float("inf"), []
    for row in rows:
        expected.append(rate)
        rate, best = (rate, row["val/loss"]) if row["val/loss"] < best * (1 - 1e-4) else (rate / 2, best)
    assert [row["lr-Adam/rest"] for row in rows] == pytest.approx(expected)
    assert held(tmp_path / "run")["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(rate)


def test_a_run_killed_after_its_last_epoch_tests_the_averaged_network(tmp_path: Path) -> None:
    whole, continued = whole_and_continued(tmp_path, "train_end", *EMA)
    assert continued["metrics"] == whole["metrics"]
    assert same(held(tmp_path / "killed")["state_dict"], held(tmp_path / "whole")["state_dict"])


def test_a_run_that_had_stopped_early_trains_no_further_epoch(tmp_path: Path) -> None:
    stopping = ["callbacks.early_stopping.enabled=true", "callbacks.early_stopping.patience=1", "trainer.max_epochs=6"]
    stopping += ["callbacks.early_stopping.min_delta=100", "data.select_fraction=0.25", "data.batch_size=4"]
    whole, continued = whole_and_continued(tmp_path, "test", *stopping)
    assert (whole["epochs"], whole["steps"]) == (
        2,
        6,
    )  # the first epoch is the best of all, the second does not improve
    assert (continued["epochs"], continued["steps"]) == (2, 6)
    assert continued["metrics"] == whole["metrics"]


def test_a_plateau_is_judged_where_there_is_something_new(tmp_path: Path) -> None:
    settings = ["schedule=plateau", "schedule.patience=0", "schedule.factor=0.5", "trainer.check_val_every_n_epoch=2"]
    train(tmp_path / "run", *QUICK, *settings, "trainer.max_epochs=4")
    assert held(tmp_path / "run")["lr_schedulers"][0]["last_epoch"] == 2

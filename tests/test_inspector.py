"""The inspector: each flag for the layer that earns it, NumPy's statistics, and a training that it leaves as it is."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from typer.testing import CliRunner

from segstudy.build import build_data, build_module, build_network, build_trainer
from segstudy.callbacks.inspector import Inspector
from segstudy.cli.main import app
from segstudy.config.check import check
from segstudy.config.compose import compose_config
from segstudy.config.run_folder import claim_folder
from segstudy.errors import ConfigError
from segstudy.inspection.activations import SAMPLE, LayerStatistics, Probe, inspect_batch, print_table, sample
from segstudy.train_and_test import run

SMALL = [
    "data.size=32", "data.train_images=16", "data.val_images=4", "data.batch_size=4", "trainer.max_epochs=2",
    "trainer=cpu", "trainer.precision=32-true", "encoder.widths=[4,4,4]", "decoder.widths=[4,4]",
    "callbacks.pictures.count=2",
]  # fmt: skip


class Sum(nn.Module):
    """A loss that is the mean of the logits, times a factor."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return self.factor * logits.mean()


def chain(*last: nn.Module) -> nn.Sequential:
    """Two 1×1 convolutions of weight 1 and no bias, and what follows."""
    first, second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
    for layer in (first, second):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(first, second, *last)


def batch(value: float = 1.0) -> dict[str, Tensor]:
    return {"image": torch.full((2, 1, 4, 4), value), "mask": torch.zeros(2, 4, 4, dtype=torch.int64)}


def found(network: nn.Module, factor: float = 1.0, value: float = 1.0) -> dict[str, list[str]]:
    return {row.layer: row.flags for row in inspect_batch(network, batch(value), Sum(factor))}


def test_a_sound_network_has_no_flags() -> None:
    assert found(chain()) == {"0": [], "1": []}


def test_dead() -> None:
    network = chain(nn.ReLU(inplace=True), nn.Conv2d(2, 1, 1))
    nn.init.constant_(network[1].bias, -100.0)  # below 0 everywhere: the ReLU is off, and nothing before it learns
    assert found(network) == {"0": ["zero gradient"], "1": ["zero gradient"], "2": ["dead"], "3": ["zero gradient"]}


def test_zero_gradient_of_a_layer_that_is_not_used() -> None:
    network = chain()
    network.unused = nn.Conv2d(1, 1, 1)  # type: ignore[assignment]
    network.forward = lambda x: network[1](network[0](x))  # type: ignore[method-assign, assignment]
    assert found(network) == {"0": [], "1": [], "unused": ["zero gradient"]}


def test_frozen_is_a_mark_and_not_a_flag() -> None:
    network = chain()
    network[0].requires_grad_(False)
    rows = inspect_batch(network, batch(), Sum())
    assert [row.flags for row in rows] == [["frozen"], []]
    assert not any(row.flagged for row in rows)


def test_exploding_activation_and_gradient() -> None:
    network = chain()
    nn.init.constant_(network[1].bias, 101.0)
    assert found(network) == {"0": [], "1": ["exploding"]}
    assert found(chain(), factor=1000) == {"0": ["exploding"], "1": ["exploding"]}


def test_vanishing() -> None:
    network = chain()
    nn.init.constant_(network[1].weight, 1e-9)
    assert found(network) == {"0": ["vanishing"], "1": []}


def test_non_finite() -> None:
    assert "non-finite" in found(chain(), value=float("nan"))["0"]


def test_statistics_are_numpys() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    nn.init.constant_(network[1].bias, -0.5)
    image = torch.randn(2, 3, 9, 7)
    rows = inspect_batch(network, {"image": image, "mask": torch.zeros(2, 7, 5)}, Sum())
    with torch.no_grad():
        outputs = [network[: i + 1](image).numpy() for i in range(3)]
    for row, values in zip(rows, outputs, strict=True):
        assert (row.mean, row.std) == (pytest.approx(values.mean(), abs=1e-6), pytest.approx(values.std(), rel=1e-5))
        assert (row.min, row.max) == (values.min(), values.max())
        assert row.silent == pytest.approx((values == 0).all((0, 2, 3)).mean())
    network(image).mean().backward()
    gradient = network[1].weight.grad.numpy()  # type: ignore[union-attr]
    assert rows[1].gradient_mean == pytest.approx(gradient.mean(), abs=1e-8)
    assert rows[1].gradient_max == pytest.approx(abs(gradient).max())
    assert rows[2].gradient_max is None


def test_a_layer_that_runs_twice_is_one_row_of_both() -> None:
    layer = nn.Conv2d(1, 1, 1)
    probe = Probe(nn.Sequential(layer))
    first, second = torch.randn(1, 1, 3, 3), 5 + torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        both = np.concatenate([layer(x).numpy().ravel() for x in (first, second)])
    (row,) = probe.rows()
    assert (row.mean, row.std) == (pytest.approx(both.mean(), rel=1e-5), pytest.approx(both.std(), rel=1e-5))
    probe.remove()
    layer(first)
    assert len(probe.seen["0"]) == 2
    assert not layer._forward_hooks


def test_samples_are_bounded_and_from_all_columns() -> None:
    assert len(sample(torch.zeros(7))) == 7
    taken = sample(torch.arange(64.0).repeat(64 * 64))
    assert len(taken) <= SAMPLE
    assert len(taken.unique()) == 64


def trained(folder: Path, inspect: bool, *overrides: str) -> L.Trainer:
    """A small training of two epochs; its trainer."""
    cfg = compose_config([*SMALL, f"callbacks.inspector.enabled={inspect}", *overrides])
    data = build_data(cfg)
    network, _ = build_network(cfg, len(data.classes))
    trainer, _ = build_trainer(cfg, folder)
    trainer.fit(build_module(cfg, network, data), data)
    return trainer


def weights(trainer: L.Trainer) -> dict[str, Tensor]:
    return trainer.lightning_module.state_dict()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[L.Trainer, L.Trainer]:
    """The same training with and without the inspector: ASPP has dropout, so the random streams count too."""
    home = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGSTUDY_CACHE", str(home / "cache"))
        return trained(home / "with", True, "model=v3"), trained(home / "without", False, "model=v3")


def test_training_is_the_same_with_and_without(pair: tuple[L.Trainer, L.Trainer]) -> None:
    inspected, plain = map(weights, pair)
    assert inspected.keys() == plain.keys()
    assert all(torch.equal(inspected[key], plain[key]) for key in plain)
    assert not any(m._forward_hooks for m in pair[0].lightning_module.network.modules())  # type: ignore[union-attr]


def test_the_first_and_the_last_epoch_are_written(pair: tuple[L.Trainer, L.Trainer]) -> None:
    folder = Path(pair[0].default_root_dir)
    assert sorted(p.name for p in (folder / "inspector").iterdir()) == ["epoch_001.csv", "epoch_002.csv"]
    assert not (Path(pair[1].default_root_dir) / "inspector").exists()
    rows = list(csv.DictReader((folder / "inspector" / "epoch_001.csv").open()))
    assert rows[0]["layer"] == "encoder.stem"
    assert rows[-1]["type"] == "Conv2d"
    assert all(float(row["std"]) > 0 for row in rows)
    tags = EventAccumulator(str(folder / "tensorboard")).Reload().Tags()["histograms"]
    assert {"activations/encoder.stem", "gradients/encoder.stem"} <= set(tags)


def test_the_gradient_is_that_of_the_step(tmp_path: Path) -> None:
    class Keep(L.Callback):
        """The optimizer's gradients at its first step, of two batches."""

        gradient: Tensor | None = None

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            if self.gradient is None:
                self.gradient = module.network.encoder.stem.weight.grad.clone()

    cfg = compose_config([*SMALL, "trainer.max_epochs=1", "trainer.accumulate_grad_batches=2"])
    data = build_data(cfg)
    trainer, _ = build_trainer(cfg, tmp_path)
    keep = Keep()
    trainer.callbacks += [keep, Inspector()]  # type: ignore[attr-defined]
    trainer.fit(build_module(cfg, build_network(cfg, len(data.classes))[0], data), data)
    row = next(csv.DictReader((tmp_path / "inspector" / "epoch_001.csv").open()))
    assert keep.gradient is not None
    assert float(row["gradient_max"]) == pytest.approx(keep.gradient.abs().max().item())


def test_the_epochs_it_looks_at() -> None:
    class Trainer:
        estimated_stepping_batches, num_training_batches, accumulate_grad_batches = 50, 4, 2

    def due(every: int) -> list[int]:
        inspector, trainer = Inspector(every), Trainer()
        return [e + 1 for e in range(25) if (setattr(trainer, "current_epoch", e), inspector._is_due(trainer))[1]]  # type: ignore[func-returns-value, arg-type]

    assert due(10) == [1, 10, 20, 25]
    assert due(0) == [1, 25]


@pytest.mark.parametrize(("width", "columns"), [(160, 10), (80, 6), (60, 4)])
def test_a_narrow_table_keeps_names_and_whole_numbers(width: int, columns: int) -> None:
    name = "decoder.blocks.3.conv"
    row = LayerStatistics(name, "Conv2d", -1.234e-05, 0.123, -12.3, 12.3, 0.25, -1.23e-05, 4.56e-05, ["vanishing"])
    console = Console(record=True, width=width)
    print_table([row], "v1", console)
    lines = console.export_text().splitlines()
    assert len(next(line for line in lines if name in line).split()) == columns
    assert not [line for line in lines if "…" in line]


def test_the_command_on_settings_and_on_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segstudy.cli.network.console", Console(width=140))
    done = CliRunner().invoke(app, ["inspect", *SMALL], catch_exceptions=False)
    assert done.exit_code == 0
    assert "layers flagged" in done.output
    cfg = compose_config([*SMALL, "trainer.max_epochs=1"])
    check(cfg)
    run(cfg, tmp_path / "run", claim_folder(tmp_path / "run", cfg))
    of_run = CliRunner().invoke(app, ["inspect", str(tmp_path / "run")], catch_exceptions=False)
    assert of_run.exit_code == 0
    assert of_run.output.count("Conv2d") == done.output.count("Conv2d") > 5
    with pytest.raises(ConfigError, match="would change the run"):
        CliRunner().invoke(app, ["inspect", str(tmp_path / "run"), "optim.lr=1"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="is not a run's folder"):
        CliRunner().invoke(app, ["inspect", str(tmp_path)], catch_exceptions=False)

"""The learning-rate test and the search for the largest batch, on generated scenes with thin networks."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from segstudy.build import build_trial
from segstudy.cli.main import app
from segstudy.config.compose import compose_config
from segstudy.errors import ConfigError, TrainingError
from segstudy.inspection.batch_size import find_batch
from segstudy.inspection.learning_rate import MakeTrial, draw_learning_rates, find_lr, suggest
from segstudy.module import SegmentationModule

THIN = [
    "data=scenes", "data.train_images=48", "data.val_images=2", "data.size=32", "trainer=cpu",
    "encoder.widths=[4,4,4,4,4]", "decoder.widths=[4,4,4,4]",
]  # fmt: skip
Step = dict[str, Any]


def trial(overrides: list[str]) -> MakeTrial:
    return partial(build_trial, compose_config(overrides))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What each training step saw: images, loss, and each group's rate."""
    seen: list[Step] = []
    plain = SegmentationModule.training_step

    def watched(self: SegmentationModule, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = plain(self, batch, batch_idx)
        groups = self.trainer.optimizers[0].param_groups
        seen.append({"images": len(batch["image"]), "loss": loss.item(), "rates": [g["lr"] for g in groups]})
        return loss

    monkeypatch.setattr(SegmentationModule, "training_step", watched)
    return seen


def test_the_rate_grows_and_each_batchs_loss_is_recovered(steps: list[Step]) -> None:
    found = find_lr(trial([*THIN, "optim.encoder_lr=0.5"]), steps=40, lowest=1e-5, highest=1e-1)
    assert len(found.rates) == 40
    np.testing.assert_allclose(found.losses, [s["loss"] for s in steps], rtol=1e-5)  # Lightning gives an average
    np.testing.assert_allclose(found.rates, [s["rates"][0] for s in steps])
    assert all(s["rates"][0] == s["rates"][1] for s in steps)  # encoder and rest
    assert found.rates[0] == 1e-5
    growth = found.rates[2:] / found.rates[1:-1]
    np.testing.assert_allclose(growth, 1e4 ** (1 / 40))
    assert 1e-5 < found.suggested <= found.rates[found.smooth.argmin()]


def test_every_search_begins_with_a_fresh_network(steps: list[Step]) -> None:
    fresh = trial([*THIN, "schedule=plateau", "trainer.max_epochs=1"])  # neither ends the search
    first = find_lr(fresh, steps=30)
    assert len(first.rates) == 30
    np.testing.assert_array_equal(find_lr(fresh, steps=30).losses, first.losses)


def test_the_suggestion_on_a_made_curve() -> None:
    rates = np.geomspace(1e-6, 1, 120)
    decades = np.log10(rates)
    fall = 2 - 1.2 / (1 + np.exp(-4 * (decades + 3)))  # steepest at 1e-3
    rise = np.where(decades > -1, 30 * (decades + 1) ** 2, 0)
    # a fall as steep again comes after the minimum, where the network is already broken
    broken = np.where(decades > -0.3, -12 * (decades + 0.3), 0)
    noise = np.random.default_rng(0).normal(0, 0.03, 120)
    found = suggest(rates, fall + rise + broken + noise)
    assert 5e-4 < found.suggested < 2e-3
    assert 1e-3 < found.rates[found.smooth.argmin()] < 2e-1
    figure = draw_learning_rates(found, "made")
    assert figure.axes[0].get_xscale() == "log"


def test_a_loss_that_only_rises_suggests_nothing() -> None:
    rates = np.geomspace(1e-3, 1, 30)
    with pytest.raises(TrainingError, match="did not fall at any rate"):
        suggest(rates, np.linspace(1, 5, 30))
    with pytest.raises(TrainingError, match="finite"):
        suggest(rates[:2], np.ones(2))


def test_impossible_searches_are_refused() -> None:
    for wrong in ({"lowest": 0.0}, {"lowest": 2.0}, {"steps": 5}):
        with pytest.raises(ConfigError, match="--lowest"):
            find_lr(trial(THIN), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--limit 1"):
        find_batch(trial(THIN), limit=1)


def limited(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A device on which more than `most` images do not fit."""
    forward = SegmentationModule.forward

    def full(self: SegmentationModule, image: torch.Tensor) -> torch.Tensor:
        if len(image) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(self, image)

    monkeypatch.setattr(SegmentationModule, "forward", full)


@pytest.mark.parametrize(
    ("limit", "fits", "sizes", "ended"),
    [
        (64, 100, [2, 4, 8, 16, 32], "there are only 48 training images"),
        (12, 100, [2, 4, 8], "--limit 12 was reached"),
        (64, 9, [2, 4, 8], "16 did not fit"),
        (2, 2, [2], "--limit 2 was reached"),
    ],
)
def test_the_largest_batch_is_one_that_was_tried(
    limit: int, fits: int, sizes: list[int], ended: str, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, fits)
    found = find_batch(trial(THIN), limit)
    assert (found.largest, found.fitted, found.ended) == (sizes[-1], sizes, ended)
    assert [s["images"] for s in steps] == [size for size in sizes for _ in range(3)]
    assert found.peak > 0


@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.parametrize("limit", [2, 64])
def test_where_not_even_two_images_fit(most: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, most)
    with pytest.raises(TrainingError, match="not even a batch of 2"):
        find_batch(trial(THIN), limit)


def test_too_little_memory_for_the_rates_names_the_other_search(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 4)
    with pytest.raises(TrainingError, match=r"data\.batch_size=9(.|\n)*find batch"):
        find_lr(trial(THIN), steps=20)


def test_the_commands_say_what_to_type(tmp_path: Path) -> None:
    out = tmp_path / "lr.png"
    arguments = ["find", "lr", *THIN, "optim.encoder_lr=0.01", "--steps", "30", "--out", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "to use it: optim.lr=" in done.output
    assert "optim.encoder_lr=0.01 was ignored" in done.output
    assert out.is_file()
    done = CliRunner().invoke(app, ["find", "batch", *THIN, "--limit", "4"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "to use it: data.batch_size=4" in done.output
    assert "differs with the model" in " ".join(CliRunner().invoke(app, ["find", "lr", "--help"]).output.split())


def test_too_few_finite_losses_suggest_nothing() -> None:
    with pytest.raises(TrainingError, match=r"only 2 steps had a finite loss\n  → lower --lowest and --highest"):
        suggest(np.array([1e-3, 1e-2]), np.array([1.0, 0.5]))

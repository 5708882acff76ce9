"""A learning-rate range test with Lightning's Tuner."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.tuner import Tuner
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from segstudy.data.datamodule import SegmentationData
from segstudy.drawing import plain
from segstudy.errors import ConfigError, TrainingError
from segstudy.inspection.memory import out_of_memory
from segstudy.module import SegmentationModule

MakeTrial = Callable[[Path], tuple[SegmentationModule, SegmentationData, L.Trainer]]
"""Makes a new module with a constant learning rate, its data, and a trainer that writes to the given folder."""

BETA = 0.98
"""Smoothing factor of Lightning's running average of the loss."""


@dataclass
class LearningRateTest:
    """Result of a range test: learning rate, batch loss and smoothed loss of each step, and the suggested rate."""

    rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    suggested: float


def find_lr(make_trial: MakeTrial, steps: int = 100, lowest: float = 1e-6, highest: float = 1.0) -> LearningRateTest:
    """Train for `steps` steps while the learning rate grows geometrically.

    All parts have the same rate, and callbacks are off; the test ends early when the loss explodes.
    Raises TrainingError if the loss never falls. Source: Smith 2017, section 3.3.
    """
    if not 0 < lowest < highest < math.inf or steps < 20:
        raise ConfigError(
            f"a test from {lowest:g} to {highest:g} in {steps} steps is not possible\n"
            "  → use 0 < --lowest < --highest and at least 20 steps"
        )
    with TemporaryDirectory() as folder:
        module, data, trainer = make_trial(Path(folder))
        try:
            found: Any = Tuner(trainer).lr_find(
                module, datamodule=data, min_lr=lowest, max_lr=highest, num_training=steps, update_attr=False
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory at data.batch_size={data.batch_size} data.size={list(data.size)}\n"
                "  → find the largest batch that fits: segstudy find batch"
            ) from error
    count = min(len(found.results["lr"]), len(found.results["loss"]))
    rates = np.array(found.results["lr"][:count])
    losses = batch_losses(np.array(found.results["loss"][:count]))
    kept = np.isfinite(losses)
    return suggest(rates[kept], losses[kept])


def batch_losses(averaged: np.ndarray) -> np.ndarray:
    """The loss of each batch, recovered from Lightning's running average.

    The average lags by dozens of steps, in which the rate can grow a thousandfold, and begins at half the loss, because
    Lightning divides by 1 − β^(n+1) after n steps.
    """
    sums = averaged * (1 - BETA ** np.arange(2, len(averaged) + 2))
    return (sums - BETA * np.concatenate([[0.0], sums[:-1]])) / (1 - BETA)


def suggest(rates: np.ndarray, losses: np.ndarray) -> LearningRateTest:
    """Suggest the rate, before the minimum of the loss, where the loss falls fastest over log(rate).

    The loss is smoothed by a Gaussian with a standard deviation of a quarter of a decade. Raises TrainingError if it
    does not fall.
    """
    if len(rates) < 3:
        raise TrainingError(f"only {len(rates)} steps had a finite loss\n  → lower --lowest and --highest")
    decades = np.log10(rates)
    decades_per_step = (decades[-1] - decades[0]) / (len(rates) - 1)
    smooth = gaussian_filter1d(losses, 0.25 / decades_per_step, mode="nearest")
    slope = np.gradient(smooth, decades)[: max(2, int(smooth.argmin()) + 1)]
    if slope.min() >= 0:
        raise TrainingError(
            f"the loss did not fall at any rate from {rates[0]:.1e} to {rates[-1]:.1e}\n"
            "  → try a lower --lowest, or more --steps"
        )
    return LearningRateTest(rates, losses, smooth, float(rates[slope.argmin()]))


def draw_learning_rates(found: LearningRateTest, title: str) -> Figure:
    """Plot the loss over the learning rate (each batch, and smoothed), and the suggested rate."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="0.75", linewidth=1, label="each batch")
    axes.plot(found.rates, found.smooth, color="#3f78b5", label="smoothed")
    at = found.rates.tolist().index(found.suggested)
    axes.plot(found.suggested, found.smooth[at], "o", color="#c81e6e", label=f"suggested: {found.suggested:.1e}")
    start, lowest = found.smooth[0], found.smooth.min()
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=plain(title))
    axes.set_ylim(lowest - 0.2 * (start - lowest), start + 0.6 * (start - lowest))  # leave out where it explodes
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure

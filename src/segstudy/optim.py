"""Parameter groups with separate learning rates for encoder and rest, and learning-rate schedules.

A schedule is a function (optimizer, progress) → Lightning's scheduler dictionary. `progress()` is the used share of the
budget, 0…1: of the steps, or of `trainer.max_time` if that ends first.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR

from segstudy.ranges import Count, Fraction, Metric, NotNegative, OpenShare, PositiveShare, Whole, checked

Progress = Callable[[], float]


def parameter_groups(
    network: nn.Module, lr: float, encoder_lr: float | None, decay_norms: bool = True
) -> list[dict[str, Any]]:
    """One parameter group for the encoder and one for the rest; encoder_lr=None gives both `lr`.

    decay_norms=False splits both: one-dimensional parameters (normalisation layers, biases) get no weight decay.
    Source: He et al. 2019 (bag of tricks), section 3.1.
    """
    encoder = getattr(network, "encoder", None)
    ids = {id(p) for p in encoder.parameters()} if isinstance(encoder, nn.Module) else set()
    first = [p for p in network.parameters() if id(p) in ids]
    rest = [p for p in network.parameters() if id(p) not in ids]
    groups = []
    for name, part, rate in (("encoder", first, lr if encoder_lr is None else encoder_lr), ("rest", rest, lr)):
        decayed = [p for p in part if decay_norms or p.ndim > 1]
        not_decayed = [p for p in part if not decay_norms and p.ndim <= 1]
        groups += [
            {"params": decayed, "lr": rate, "name": name},
            {"params": not_decayed, "lr": rate, "name": f"{name}_norms", "weight_decay": 0.0},
        ]
    return [g for g in groups if g["params"]]


def constant(optimizer: Optimizer, progress: Progress) -> dict[str, Any]:
    """The same learning rate throughout."""
    return {"scheduler": LambdaLR(optimizer, lambda _: 1.0), "interval": "step"}


@checked
def cosine(optimizer: Optimizer, progress: Progress, warmup: Fraction = 0.05) -> dict[str, Any]:
    """Linear warm-up over the share `warmup` of the budget, then a half cosine to 0 (Loshchilov & Hutter 2017)."""

    def factor(_: int) -> float:
        p = min(1.0, progress())
        if p < warmup:
            return max(p / warmup, 0.01)  # the first step is at p = 0 and should still learn
        return 0.5 * (1 + math.cos(math.pi * (p - warmup) / (1 - warmup)))

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


@checked
def poly(optimizer: Optimizer, progress: Progress, power: NotNegative = 0.9) -> dict[str, Any]:
    """(1 − progress)^power, the schedule of the DeepLab papers."""
    return {"scheduler": LambdaLR(optimizer, lambda _: (1 - min(1.0, progress())) ** power), "interval": "step"}


@checked
def step(optimizer: Optimizer, progress: Progress, every: Count = 15, gamma: PositiveShare = 0.1) -> dict[str, Any]:
    """Multiply the learning rate by `gamma` every `every` epochs."""
    return {"scheduler": StepLR(optimizer, every, gamma), "interval": "epoch"}


@checked
def plateau(
    optimizer: Optimizer, progress: Progress, monitor: Metric = "val/loss", factor: OpenShare = 0.1, patience: Whole = 5
) -> dict[str, Any]:
    """Multiply the learning rate by `factor` when `monitor` has not improved for `patience` epochs."""
    mode: Literal["min", "max"] = "min" if monitor.endswith("loss") else "max"
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience)
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}

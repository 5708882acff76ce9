"""Statistics of the activations and gradients of every layer in one batch, with flags for problems."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from lightning.fabric.utilities import move_data_to_device
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from segstudy.data.datamodule import SegmentationData
from segstudy.data.dataset import Batch
from segstudy.files import write_csv

LAYERS = (
    nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm,
    nn.ReLU, nn.ReLU6, nn.Threshold,  # without weights, but units die here
)  # fmt: skip

EXPLODING, VANISHING = 100.0, 1e-7
"""Limits: |mean activation| or largest |gradient| above the first: exploding; largest |gradient| below the second:
vanishing."""

LESS = ("type", "grad mean", "min", "max", "std", "mean")
"""Columns that a narrow terminal leaves out, the first one first."""

SAMPLE = 10_000
"""Largest number of values of a layer in a histogram."""


@dataclass
class LayerStatistics:
    """Statistics of one layer in one batch; None if there is nothing to measure.

    mean, std (population), min, max: of all its outputs. silent: share of its channels that are 0 everywhere.
    gradient_mean, gradient_max (largest absolute value): of its weight. flags: dead, exploding, vanishing, zero
    gradient, non-finite; and frozen, which is no problem, for a weight that is not trained.
    """

    layer: str
    type: str
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    silent: float | None = None
    gradient_mean: float | None = None
    gradient_max: float | None = None
    flags: list[str] = field(default_factory=list)

    @property
    def flagged(self) -> bool:
        return any(flag != "frozen" for flag in self.flags)


class Probe:
    """Hooks on the convolutions, linear and normalisation layers and ReLUs of a network, until `remove`.

    They only read: they draw no random numbers, and nothing waits for the device before `rows`.
    """

    def __init__(self, network: nn.Module, histograms: bool = False):
        self.network, self.histograms = network, histograms
        # A SegmentationModule holds the network under that name.
        self.layers = {n.removeprefix("network."): m for n, m in network.named_modules() if isinstance(m, LAYERS)}
        self.seen: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in self.layers}
        self.samples: dict[str, Tensor] = {}
        self.handles: list[RemovableHandle] = [
            m.register_forward_hook(lambda _, __, out, name=name: self._see(name, out))  # type: ignore[misc]
            for name, m in self.layers.items()
        ]
        # A compiled forward pass does not call hooks added after compilation, so this batch runs without it.
        self.compiled, network._compiled_call_impl = network._compiled_call_impl, None

    def remove(self) -> None:
        """Remove the hooks and restore the compiled forward pass. A second call does nothing."""
        if self.handles:
            self.network._compiled_call_impl = self.compiled
        for handle in self.handles:
            handle.remove()
        self.handles = []

    @torch.no_grad()
    def _see(self, name: str, output: Tensor) -> None:
        # Read at once, because an in-place ReLU may follow.
        values = output.detach().float()
        variance, mean = torch.var_mean(values, correction=0)
        last = isinstance(self.layers[name], nn.Linear) or type(self.layers[name]) is nn.LayerNorm
        others = [d for d in range(values.dim()) if d != (values.dim() - 1 if last else 1)]  # all but the channels
        highest, lowest = values.amax(others), values.amin(others)
        silent = ((highest == 0) & (lowest == 0)).float().mean()
        self.seen[name].append((values.numel(), torch.stack([mean, variance, lowest.min(), highest.max(), silent])))
        if self.histograms:
            self.samples[name] = sample(values)

    def rows(self) -> list[LayerStatistics]:
        """A row for each layer. Call it after the forward and the backward pass."""
        rows = []
        for name, layer in self.layers.items():
            row = LayerStatistics(name, type(layer).__name__)
            if self.seen[name]:
                row.mean, row.std, row.min, row.max, row.silent = _combined(self.seen[name])
            weight = getattr(layer, "weight", None)
            if isinstance(weight, Tensor) and weight.grad is not None:
                gradient = weight.grad.float()
                row.gradient_mean, row.gradient_max = torch.stack([gradient.mean(), gradient.abs().max()]).tolist()
            row.flags = flags(row, None if weight is None else weight.requires_grad)
            rows.append(row)
        return rows


def flags(row: LayerStatistics, trainable: bool | None) -> list[str]:
    """The flags of a layer. trainable: whether its weight is trained, None for a layer without weight."""
    found = ["frozen"] if trainable is False else []
    numbers = [row.mean, row.std, row.min, row.max, row.gradient_mean, row.gradient_max]
    gradient = row.gradient_max or 0.0
    if any(n is not None and not math.isfinite(n) for n in numbers):
        found.append("non-finite")
    if row.min == 0 and row.max == 0:
        found.append("dead")
    if abs(row.mean or 0.0) > EXPLODING or gradient > EXPLODING:
        found.append("exploding")
    if 0 < gradient < VANISHING:
        found.append("vanishing")
    if trainable and gradient == 0:
        found.append("zero gradient")
    return found


def inspect_batch(network: nn.Module, batch: Batch, loss: nn.Module) -> list[LayerStatistics]:
    """Run one forward and backward pass of `loss` (logits, mask) in the network's current mode, without a step.

    In training mode the running statistics of batch normalisation change. Gradients are cleared before and after.
    """
    network.zero_grad(set_to_none=True)
    probe = Probe(network)
    try:
        loss(network(batch["image"]), batch["mask"]).backward()
        return probe.rows()
    finally:
        probe.remove()
        network.zero_grad(set_to_none=True)


def first_batch(data: SegmentationData, device: torch.device) -> Batch:
    """The first batch of training, with its augmentation."""
    batch = next(iter(data.train_dataloader()))
    return data.on_after_batch_transfer(move_data_to_device(batch, device), 0)


def sample(values: Tensor) -> Tensor:
    """At most SAMPLE values, evenly spaced, with an odd step, so that they are not all of the same column."""
    step = -(-values.numel() // SAMPLE)
    return values.detach().flatten()[:: step + (step + 1) % 2].float()


def write_table(rows: Sequence[LayerStatistics], path: Path) -> None:
    """Write the rows as CSV; the flags of a layer are joined by semicolons."""
    columns = [f.name for f in fields(LayerStatistics)]
    write_csv(path.parent, path.name, columns, (asdict(row) | {"flags": ";".join(row.flags)} for row in rows))


def print_table(rows: Sequence[LayerStatistics], title: str, console: Console) -> None:
    """Print the rows as a table, with flags in red; in a narrow terminal without the columns of LESS."""
    whole = console.options.update(max_width=10_000)  # a measure is cut at this width
    grids = (_table(rows, title, LESS[:left_out]) for left_out in range(len(LESS) + 1))
    fitting = next((grid for grid in grids if console.measure(grid, options=whole).maximum <= console.width), None)
    console.print(fitting or _table(rows, title, LESS))


def _table(rows: Sequence[LayerStatistics], title: str, left_out: Sequence[str]) -> Table:
    cells = [
        {
            "layer": row.layer, "type": row.type, "mean": _number(row.mean), "std": _number(row.std),
            "min": _number(row.min), "max": _number(row.max),
            "silent": "–" if row.silent is None else f"{row.silent:.0%}",
            "grad mean": _number(row.gradient_mean), "|grad| max": _number(row.gradient_max),
            "flags": ", ".join(flag if flag == "frozen" else f"[red]{flag}[/]" for flag in row.flags),
        }
        for row in rows
    ]  # fmt: skip
    grid = Table(title=title, box=SIMPLE_HEAD)
    shown = [column for column in cells[0] if column not in left_out] if cells else []
    for column in shown:
        words = column in ("layer", "type", "flags")
        # Only names and flags are wrapped: a number that is cut is wrong.
        grid.add_column(column, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row_cells in cells:
        grid.add_row(*(row_cells[column] for column in shown))
    return grid


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _combined(seen: Sequence[tuple[int, Tensor]]) -> list[float]:
    """mean, std, min, max and silent share of a layer, over all its calls."""
    counts = torch.tensor([float(n) for n, _ in seen], dtype=torch.float64)
    means, variances, lows, highs, silent = torch.stack([s for _, s in seen]).double().cpu().T
    share = counts / counts.sum()
    mean = (share * means).sum()
    variance = (share * (variances + (means - mean) ** 2)).sum()
    return [v.item() for v in (mean, variance.sqrt(), lows.min(), highs.max(), silent.mean())]

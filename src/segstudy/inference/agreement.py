"""How another runtime's output compares with PyTorch's: on several sizes and batches, against a stated tolerance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segstudy.errors import ExportError, first_line

TOLERANCE = 1e-4
"""The largest difference allowed, as a share of the largest logit (of 1 at least). Sums in another order differ by some
1e-7 a layer; a border, an interpolation or a constant done otherwise by 1e-2 and more. A pixel's class can then change
only where its two best logits are within twice this."""

Runs = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """What a written network and PyTorch's make of the same images (batch,3,height,width)."""

    batch: int
    height: int
    width: int
    difference: float
    largest: float
    agreement: float

    @property
    def agrees(self) -> bool:
        return self.difference <= TOLERANCE * max(1.0, self.largest)


def shapes(size: tuple[int, int], free: Sequence[str]) -> list[tuple[int, int, int]]:
    """(batch, height, width) of what is compared: the trained size, and others, odd ones too, as far as sides are free.

    None is that of the example from which the file is made, unless height and width are fixed.
    """
    height, width = size
    sizes = [(1, height, width), (2, height, width), (3, height, width)]
    if "height" in free:
        sizes[2:] = [
            (1, height + 19, width + 7), (3, height // 2 + 3, width // 2 + 5), (1, (2 * height // 3) | 1, width + 64),
        ]  # fmt: skip
    return list(dict.fromkeys((b if "batch" in free else 1, h, w) for b, h, w in sizes))


def pictures(batch: int, height: int, width: int) -> Tensor:
    """Smooth colours with some noise, float32 (B,3,H,W) in 0…1, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    smooth = nn.functional.interpolate(
        torch.rand(batch, 3, 5, 5, generator=generator), (height, width), mode="bilinear"
    )
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def compare(network: nn.Module, other: Runs, sizes: Sequence[tuple[int, int, int]]) -> tuple[list[Row], list[str]]:
    """A row for each (batch, height, width), and those that the network itself refuses, with its words."""
    rows: list[Row] = []
    skipped: list[str] = []
    for batch, height, width in sizes:
        image = pictures(batch, height, width)
        try:
            expected = network(image)
        except RuntimeError as error:
            if not rows:  # the trained size is the first
                raise
            skipped.append(f"{height}×{width}: {first_line(error)}")
            continue
        found = other(image)
        if found.shape != expected.shape:
            raise ExportError(f"logits {tuple(found.shape)} for an image {tuple(image.shape)}")
        same = (found.argmax(1) == expected.argmax(1)).double().mean().item()
        difference = (found - expected).abs().nan_to_num(nan=torch.inf).max().item()
        rows.append(Row(batch, height, width, difference, expected.abs().max().item(), same))
    return rows, skipped

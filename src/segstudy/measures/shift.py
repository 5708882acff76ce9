"""Shift consistency: share of pixels that keep their label when the image is shifted by a few pixels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segstudy.errors import DataError

MARGIN = 8
"""1/8 of the image's shorter side is left out of the comparison at each of the four sides."""

SMALLEST = 3
"""Shortest side in pixels of an image that has a pixel to compare after a shift by one pixel."""


@torch.no_grad()
def shift_consistency(
    network: Callable[[Tensor], Tensor], image: Tensor, logits: Tensor, shifts: Sequence[int] = (1, 2, 4, 8)
) -> tuple[Tensor, Tensor]:
    """(Pixels that keep their label when the image moves down and right by each of `shifts`, pixels compared).

    network: image (B,3,H,W) → logits (B,C,H,W), in evaluation mode; logits: its output for `image`. Returns int64 (B,)
    and (B,), summed over the shifts. The image is rolled, which keeps its mean and size. The same pixels are compared
    for all shifts: those at least 1/8 of the shorter side (and the largest shift) from the border, so that nothing
    rolled in is compared. Raises DataError if there are none.
    Source: Zhang 2019 (Making convolutional networks shift-invariant again).
    """
    height, width = image.shape[2:]
    margin = max(min(height, width) // MARGIN, *shifts)
    if 2 * margin >= min(height, width):
        raise DataError(
            f"shift consistency: an image of {height}×{width} has no pixel further than {margin} px from its border\n"
            "  → test at a larger data.size, or leave this measure out"
        )
    middle = (slice(None), slice(margin, height - margin), slice(margin, width - margin))
    before = logits.max(1).indices[middle]  # equal to argmax, and three times faster on a CPU
    kept = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    for shift in shifts:
        moved = network(image.roll((shift, shift), (2, 3))).max(1).indices
        kept += (moved.roll((-shift, -shift), (1, 2))[middle] == before).sum((1, 2))
    return kept, torch.full_like(kept, len(shifts) * before[0].numel())

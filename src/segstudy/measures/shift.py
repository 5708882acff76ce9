"""Shift consistency: the share of pixels that keep their label when the image is shifted by a few pixels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segstudy.errors import DataError

MARGIN = 8
"""Of an image's shorter side, the part that is left out of the comparison at each of its four sides."""


@torch.no_grad()
def shift_consistency(
    network: Callable[[Tensor], Tensor], image: Tensor, logits: Tensor, shifts: Sequence[int] = (1, 2, 4, 8)
) -> tuple[Tensor, Tensor]:
    """Pixels of each image that keep their label when it moves down and right by each of `shifts`, and pixels compared.

    network: as it is tested, image (B,3,H,W) → logits (B,C,H,W); logits: its output for `image`. Returns int64 (B,) and
    (B,), sums over the shifts. The image is rolled, so that its content, mean and size stay what they were; what is
    rolled in lies outside the pixels compared, which are the same for all shifts: those at least an eighth of the
    shorter side (and the largest shift) from the border. Raises DataError for an image without any.
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
    before = logits.argmax(1)[middle]
    kept = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    for shift in shifts:
        moved = network(image.roll((shift, shift), (2, 3))).argmax(1)
        kept += (moved.roll((-shift, -shift), (1, 2))[middle] == before).sum((1, 2))
    return kept, torch.full_like(kept, len(shifts) * before[0].numel())

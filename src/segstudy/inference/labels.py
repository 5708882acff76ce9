"""From a network's scores to the labels of a photo in its own size."""

from collections.abc import Sequence

import torch
from torch import Tensor

VALUES = 2**22
"""Scores interpolated at a time: 16 MiB."""


def labels_of(scores: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels uint8 (H,W) of scores (C,h,w): those of `labels_at`, without the scores of the whole size in memory.

    Between four neighbours of one label there is no other (an interpolated score is a mean of theirs): only where they
    differ is anything interpolated, a tenth of a usual image. Scores that are equal to the last bit may fall otherwise.
    """
    scores = scores.float()
    coarse = scores.max(0).indices.to(torch.uint8)
    if coarse.shape == tuple(shape):
        return coarse
    above, below, down = _neighbours(coarse.shape[0], shape[0], scores.device)
    left, right, across = _neighbours(coarse.shape[1], shape[1], scores.device)
    pixels = scores.permute(1, 2, 0).flatten(0, 1).contiguous()  # a pixel's scores side by side: ten times as fast
    labels = coarse.new_empty(tuple(shape))
    rows = max(1, VALUES // (len(scores) * shape[1]))
    for top in range(0, shape[0], rows):
        a, b, t = (each[top : top + rows] for each in (above, below, down))
        nw, ne, sw, se = (
            coarse.index_select(1, column).index_select(0, line) for line in (a, b) for column in (left, right)
        )
        labels[top : top + rows] = nw
        y, x = ((nw != ne) | (nw != sw) | (nw != se)).nonzero().T
        near, far, share = left[x], right[x], across[x, None]
        upper, lower = (
            pixels.index_select(0, line + near).mul_(1 - share).addcmul_(pixels.index_select(0, line + far), share)
            for line in (a[y] * coarse.shape[1], b[y] * coarse.shape[1])
        )
        winner = upper.mul_(1 - t[y, None]).addcmul_(lower, t[y, None]).max(1).indices
        labels.view(-1).index_copy_(0, (y + top) * shape[1] + x, winner.to(torch.uint8))
    return labels


def _neighbours(source: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `wanted` pixels the two of `source` between which it lies, and the second's share.

    As `interpolate` with align_corners=False finds them, in float32.
    """
    place = (torch.arange(wanted, device=device) + 0.5) * (torch.tensor(float(source)) / wanted).to(device) - 0.5
    place = place.clamp_(min=0)
    first = place.long().clamp_(max=source - 1)
    return first, (first + 1).clamp_(max=source - 1), (place - first).clamp_(max=1)

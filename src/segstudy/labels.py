"""Labels: the ignored value, colours, and the way from a network's scores to labels at another size."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
"""The only label that is ignored. Data sets convert to it when they read a file."""

LOG2E = math.log2(math.e)
VALUES = 2**22
"""Scores looked at or interpolated at a time: 16 MiB."""


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """The devkit's colours: the bits of the class number dealt to red, green and blue, highest colour bit first."""
    colours = []
    for label in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours


def scores_at(scores: Tensor, shape: Sequence[int]) -> Tensor:
    """Logits or probabilities (C,h,w) at `shape` (H,W): as they are, or interpolated (bilinear) in float32."""
    if scores.shape[1:] == tuple(shape):
        return scores
    return F.interpolate(scores[None].float(), size=tuple(shape), mode="bilinear", align_corners=False)[0]


def labels_at(scores: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels int64 (H,W) of scores (C,h,w), which are interpolated (bilinear) if `shape` is another size."""
    return scores_at(scores, shape).max(0).indices  # the same as argmax, which takes ten times as long on a CPU


def labels_and_mean_confidence(
    scores: Tensor, shape: Sequence[int], probabilities: bool = True
) -> tuple[np.ndarray, float]:
    """Labels uint8 (H,W) of scores (C,h,w), and the mean over these scores' pixels of the highest probability.

    The labels are those of `labels_at`, faster and without the scores of the whole size in memory; of two classes that
    are equal but for rounding, the other one may win, so metrics use `labels_at`. probabilities: the scores are
    probabilities, not logits.
    """
    height, width = scores.shape[1:]
    coarse, total = torch.empty(height, width, dtype=torch.uint8, device=scores.device), 0.0
    rows = max(1, VALUES // (len(scores) * width))
    for top in range(0, height, rows):
        part = scores[:, top : top + rows].float()
        best, winner = part.max(0)
        coarse[top : top + rows] = winner
        if not probabilities:
            best = (part - best).mul_(LOG2E).exp2_().sum(0).reciprocal_()  # exp takes four times as long
        total += best.sum(dtype=torch.float64).item()
    return _upsampled_labels(scores, coarse, shape).cpu().numpy(), total / (height * width)


def _upsampled_labels(scores: Tensor, coarse: Tensor, shape: Sequence[int]) -> Tensor:
    """The labels at `shape` (H,W) of scores (C,h,w), whose labels at their own size are `coarse`.

    Between four neighbours of one label there is no other (an interpolated score is a mean of theirs): only where they
    differ is anything interpolated, a tenth of a usual image.
    """
    if coarse.shape == tuple(shape):
        return coarse
    above, below, down = _neighbours(coarse.shape[0], shape[0], scores.device)
    left, right, across = _neighbours(coarse.shape[1], shape[1], scores.device)
    pixels = scores.permute(1, 2, 0).flatten(0, 1).contiguous()  # a pixel's scores side by side: ten times as fast
    beside = torch.cat([coarse[:, 1:], coarse[:, -1:]], 1)
    edge = (coarse != beside) | (coarse != torch.cat([coarse[1:], coarse[-1:]]))
    edge[:-1] |= beside[1:] != coarse[:-1]
    columns = left.expand(len(coarse), -1)
    labels, edge = coarse.gather(1, columns).index_select(0, above), edge.gather(1, columns)
    rows = max(1, VALUES // (len(scores) * shape[1]))
    for top in range(0, shape[0], rows):
        y, x = edge.index_select(0, above[top : top + rows]).nonzero().T
        y += top
        near, far, share, rise = left[x], right[x], across[x, None], down[y, None]
        upper, lower = (
            pixels.index_select(0, row + near).float().mul_(1 - share)
            .addcmul_(pixels.index_select(0, row + far).float(), share)
            for row in (above[y] * coarse.shape[1], below[y] * coarse.shape[1])
        )  # fmt: skip
        winner = upper.mul_(1 - rise).addcmul_(lower, rise).max(1).indices
        labels.view(-1).index_copy_(0, y * shape[1] + x, winner.to(torch.uint8))
    return labels


def _neighbours(source: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `wanted` pixels the two of `source` between which it lies, and the second's share.

    As `interpolate` with align_corners=False finds them, in float32.
    """
    place = (torch.arange(wanted, device=device) + 0.5) * (torch.tensor(float(source)) / wanted).to(device) - 0.5
    place = place.clamp_(min=0)
    first = place.long().clamp_(max=source - 1)
    return first, (first + 1).clamp_(max=source - 1), (place - first).clamp_(max=1)

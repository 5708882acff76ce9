"""Labels: the ignored value, colours, and labels at any size from a network's scores."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
"""The only ignored label. Data sets convert their own ignored values to it when they read a file."""

LOG2E = math.log2(math.e)
VALUES = 2**22
"""Number of scores that are processed at a time (16 MiB)."""

Labels = TypeVar("Labels", np.ndarray, Tensor)


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """Colours of the VOC devkit: bits 0, 1, 2 of the class number are the top bits of red, green, blue; and so on."""
    colours = []
    for label in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours


def scores_at(scores: Tensor, shape: Sequence[int]) -> Tensor:
    """Logits or probabilities (C,h,w) at `shape` (H,W), interpolated (bilinear) in float32 if the size differs."""
    if scores.shape[1:] == tuple(shape):
        return scores
    return F.interpolate(scores[None].float(), size=tuple(shape), mode="bilinear", align_corners=False)[0]


def labels_at(scores: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels int64 (H,W) from scores (C,h,w), interpolated (bilinear) if their size is not `shape`."""
    return scores_at(scores, shape).max(0).indices  # equal to argmax, and ten times faster on a CPU


def reduction(shape: Sequence[int], side: int) -> int:
    """The smallest power of two by which (H,W) must be divided, rounding up, so that no side is above `side`."""
    factor = 1
    while math.ceil(max(shape) / factor) > side:
        factor *= 2
    return factor


def reduced_logits(logits: Tensor, factor: int) -> Tensor:
    """The mean probability of each block of factor×factor pixels, as logits: float32 (C,⌈H/factor⌉,⌈W/factor⌉).

    logits (C,H,W), returned as they are for a factor of 1. At the border, a block has the pixels that there are.
    """
    if factor == 1:
        return logits
    rows = max(1, VALUES // (len(logits) * logits.shape[2] * factor)) * factor
    parts = [F.avg_pool2d(p.float().softmax(0)[None], factor, ceil_mode=True)[0] for p in logits.split(rows, 1)]
    return torch.cat(parts, 1).clamp_min_(torch.finfo(torch.float32).tiny).log_()  # 0 has no logarithm


def reduced_labels(labels: Labels, factor: int) -> Labels:
    """The middle pixel of each block of factor×factor pixels: (⌈H/factor⌉,⌈W/factor⌉) of (H,W)."""
    if factor == 1:
        return labels
    rows, columns = ((np.arange(0, n, factor) + factor // 2).clip(max=n - 1) for n in labels.shape)
    return labels[rows][:, columns]


def labels_and_mean_confidence(
    scores: Tensor, shape: Sequence[int], probabilities: bool = True
) -> tuple[np.ndarray, float]:
    """Labels uint8 (H,W) from scores (C,h,w), and the mean confidence (highest probability) over the h·w pixels.

    Faster than `labels_at`, and never holds the scores at size (H,W) in memory. Where two classes are equal up to
    rounding, the label may differ from that of `labels_at`, which metrics use. probabilities: whether the scores are
    probabilities; else they are logits.
    """
    height, width = scores.shape[1:]
    coarse, total = torch.empty(height, width, dtype=torch.uint8, device=scores.device), 0.0
    rows = max(1, VALUES // (len(scores) * width))
    for top in range(0, height, rows):
        part = scores[:, top : top + rows].float()
        best, winner = part.max(0)
        coarse[top : top + rows] = winner
        if not probabilities:
            best = (part - best).mul_(LOG2E).exp2_().sum(0).reciprocal_()  # exp2 is four times faster than exp
        total += best.sum(dtype=torch.float64).item()
    return _upsampled_labels(scores, coarse, shape).cpu().numpy(), total / (height * width)


def _upsampled_labels(scores: Tensor, coarse: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels at `shape` (H,W) from scores (C,h,w). coarse (h,w): the labels of these scores.

    Where four neighbours have the same label, every pixel interpolated between them has it too, because its scores are
    weighted means of theirs. So only the other pixels are interpolated: about a tenth of a typical image.
    """
    if coarse.shape == tuple(shape):
        return coarse
    above, below, down = _neighbours(coarse.shape[0], shape[0], scores.device)
    left, right, across = _neighbours(coarse.shape[1], shape[1], scores.device)
    pixels = scores.permute(1, 2, 0).flatten(0, 1).contiguous()  # scores of a pixel side by side: ten times faster
    right_neighbour = torch.cat([coarse[:, 1:], coarse[:, -1:]], 1)
    edge = (coarse != right_neighbour) | (coarse != torch.cat([coarse[1:], coarse[-1:]]))
    edge[:-1] |= right_neighbour[1:] != coarse[:-1]
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
    """For each of `wanted` output positions, the two source positions around it and the weight of the second.

    In float32, as `interpolate` with align_corners=False computes them.
    """
    place = (torch.arange(wanted, device=device) + 0.5) * (torch.tensor(float(source)) / wanted).to(device) - 0.5
    place = place.clamp_(min=0)
    first = place.long().clamp_(max=source - 1)
    return first, (first + 1).clamp_(max=source - 1), (place - first).clamp_(max=1)

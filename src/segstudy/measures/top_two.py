"""The two most likely classes of each pixel, from which calibration and operating curve start."""

from typing import NamedTuple

import torch
from torch import Tensor


class TopTwo(NamedTuple):
    """The highest and the second-highest logit, float32 (H,W), and their classes, int64 (H,W).

    Of equal logits, the first class comes first, as in argmax.
    """

    highest: Tensor
    label: Tensor
    second: Tensor
    runner_up: Tensor


def top_two(logits: Tensor) -> TopTwo:
    """From logits (C,H,W) of any float type, C ≥ 2. Not torch.topk: it takes any of equal logits."""
    logits = logits.float()
    highest, label = logits.max(0)
    return TopTwo(highest, label, *logits.scatter(0, label[None], -torch.inf).max(0))

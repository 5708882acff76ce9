"""Metrics from one confusion matrix over the whole split: counts are added, and divided once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segstudy.losses import IGNORE


class Confusion(Metric):
    """Counts of pixels by truth (row) and prediction (column), summed over batches and processes.

    `update` takes labels (B,H,W) and mask (B,H,W) with 255 ignored; `compute` returns int64 (C,C).
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, labels: Tensor, mask: Tensor) -> None:
        self.counts += confusion(labels, mask, self.num_classes)

    def compute(self) -> Tensor:
        return self.counts


def confusion(labels: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Confusion counts of one or more images: int64 (C,C), truth by prediction."""
    return multiclass_confusion_matrix(labels, mask, num_classes, ignore_index=IGNORE, validate_args=False).long()


def class_iou(counts: Tensor) -> Tensor:
    """IoU of each class, float64 (C,); NaN where the class has no truth in the split."""
    counts = counts.double()
    truth, predicted, hit = counts.sum(1), counts.sum(0), counts.diag()
    iou = hit / (truth + predicted - hit)
    return torch.where(truth > 0, iou, torch.nan)


def summary(counts: Tensor) -> dict[str, float]:
    """miou, pixel_accuracy, mean_accuracy, fw_iou and mean_dice of a confusion matrix (C,C).

    The means are over the classes with truth in the split, the same set for every network: a class that is predicted
    but never true enters no denominator. NaN if nothing was counted. Source: Long et al. 2015, section 5.
    """
    counts = counts.double().cpu()
    truth, hit = counts.sum(1), counts.diag()
    there = truth > 0
    iou = class_iou(counts)[there]
    return {
        "miou": iou.mean().item(),
        "pixel_accuracy": (hit.sum() / truth.sum()).item(),
        "mean_accuracy": (hit / truth)[there].mean().item(),
        "fw_iou": ((iou * truth[there]).sum() / truth.sum()).item(),
        "mean_dice": (2 * iou / (1 + iou)).mean().item(),
    }


def class_table(counts: Tensor, classes: Sequence[str]) -> list[dict[str, float | str]]:
    """A row for each class with truth or predictions: name, iou, recall, precision, share of the counted pixels.

    A denominator of 0 gives NaN.
    """
    counts = counts.double().cpu()
    truth, predicted, hit, iou = counts.sum(1), counts.sum(0), counts.diag(), class_iou(counts)
    return [
        {
            "class": name,
            "iou": iou[c].item(),
            "recall": (hit[c] / truth[c]).item(),
            "precision": (hit[c] / predicted[c]).item(),
            "share": (truth[c] / truth.sum()).item(),
        }
        for c, name in enumerate(classes)
        if truth[c] > 0 or predicted[c] > 0
    ]

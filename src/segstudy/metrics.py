"""Metrics from one confusion matrix over the whole split: counts are added, and divided once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segstudy.labels import IGNORE


class Confusion(Metric):
    """Confusion matrix in pixels, truth (row) by prediction (column), summed over batches and processes.

    `update` takes labels (B,H,W) and mask (B,H,W) with 255 ignored; `compute` returns int64 (C,C).
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, labels: Tensor, mask: Tensor) -> None:
        self.counts = self.counts + confusion(labels, mask, self.num_classes)

    def compute(self) -> Tensor:
        return self.counts


class Hallucinated(Metric):
    """Number of pixels predicted as a class (not `background`) that is absent from their image.

    Summed over batches and processes. `update` takes labels and mask (B,H,W), 255 ignored, and does not wait for the
    device; `compute` returns int64 ().
    """

    full_state_update = False
    pixels: Tensor

    def __init__(self, background: int | None):
        super().__init__()
        self.background = background
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, labels: Tensor, mask: Tensor) -> None:
        present = torch.zeros(len(mask), IGNORE + 1, dtype=torch.bool, device=mask.device)
        present.scatter_(1, mask.flatten(1), True)
        if self.background is not None:
            present[:, self.background] = True
        absent = ~present.gather(1, labels.flatten(1))
        self.pixels = self.pixels + (absent & (mask.flatten(1) != IGNORE)).sum()

    def compute(self) -> Tensor:
        return self.pixels


class MeanLoss(Metric):
    """Mean of the batch losses over all processes, weighted by the number of images.

    Not Lightning's mean: it also counts the images that only pad a process's batches. Not torchmetrics' MeanMetric: if
    NaN is allowed, it ignores the weights.
    """

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, images: Tensor | int) -> None:
        # Not in place (in no metric here): a tensor made in inference mode cannot be changed outside of it.
        counted = torch.as_tensor(images, device=loss.device)
        # A user's loss may be NaN if all pixels are ignored, as in a padding batch; 0 · NaN is NaN.
        self.total = self.total + torch.where(counted > 0, loss.detach() * counted, 0)
        self.images = self.images + counted

    def compute(self) -> Tensor:
        return self.total / self.images


def confusion(labels: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix of one or more images: int64 (C,C), truth by prediction."""
    return multiclass_confusion_matrix(labels, mask, num_classes, ignore_index=IGNORE, validate_args=False).long()


def class_iou(counts: Tensor) -> Tensor:
    """IoU of each class, float64 (C,); NaN where the class has no truth in the split."""
    counts = counts.double()
    truth, predicted, correct = counts.sum(1), counts.sum(0), counts.diag()
    iou = correct / (truth + predicted - correct)
    return torch.where(truth > 0, iou, torch.nan)


def summary(counts: Tensor) -> dict[str, float]:
    """miou, pixel_accuracy, mean_accuracy, fw_iou and mean_dice of a confusion matrix (C,C).

    Means are over the classes with truth in the split, the same set for every network. NaN if all pixels are ignored.
    Source: Long et al. 2015, section 5.
    """
    counts = counts.double().cpu()
    truth, correct = counts.sum(1), counts.diag()
    present = truth > 0
    iou = class_iou(counts)[present]
    return {
        "miou": iou.mean().item(),
        "pixel_accuracy": (correct.sum() / truth.sum()).item(),
        "mean_accuracy": (correct / truth)[present].mean().item(),
        "fw_iou": ((iou * truth[present]).sum() / truth.sum()).item(),
        "mean_dice": (2 * iou / (1 + iou)).mean().item(),
    }


def failure_modes(counts: Tensor, hallucinated: Tensor, background: int | None) -> dict[str, float]:
    """Share of pixels of each failure mode that is defined: missed, spilled, mislabelled, hallucinated.

    counts (C,C); hallucinated: the result of `Hallucinated`. NaN when the denominator is 0. Defined as in the report
    (`study/analysis/metrics.py`).
    """
    counts = counts.double().cpu()
    objects = torch.arange(len(counts)) != (-1 if background is None else background)
    on_background, found = counts[~objects], counts[objects][:, objects]
    shares = {
        "missed": counts[objects][:, ~objects].sum() / counts[objects].sum(),
        "spilled": on_background[:, objects].sum() / on_background.sum(),
        "mislabelled": 1 - found.trace() / found.sum(),
        "hallucinated": hallucinated.double().cpu() / counts.sum(),
    }
    return {name: shares[name].item() for name in defined_failures(len(counts), background)}


def defined_failures(num_classes: int, background: int | None) -> list[str]:
    """Names of the defined failure modes: missed and spilled need a background, the others two more classes."""
    of_background = ["missed", "spilled"] if background is not None else []
    of_labels = ["mislabelled", "hallucinated"] if num_classes - (background is not None) > 1 else []
    return of_background + of_labels


def class_table(counts: Tensor, classes: Sequence[str]) -> list[dict[str, float | str]]:
    """A row for each class with truth or predictions: class, iou, recall, precision, share (of pixels not ignored).

    NaN when the denominator is 0.
    """
    counts = counts.double().cpu()
    truth, predicted, correct, iou = counts.sum(1), counts.sum(0), counts.diag(), class_iou(counts)
    return [
        {
            "class": name,
            "iou": iou[c].item(),
            "recall": (correct[c] / truth[c]).item(),
            "precision": (correct[c] / predicted[c]).item(),
            "share": (truth[c] / truth.sum()).item(),
        }
        for c, name in enumerate(classes)
        if truth[c] > 0 or predicted[c] > 0
    ]

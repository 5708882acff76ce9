"""The order in which the images of a split are used, and how often each is drawn."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from segstudy.seeds import derive, permutation


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """The training images of one process in one epoch, as (epoch, position), shuffled by (seed, epoch).

    Processes take turns image by image, and the remainder is dropped. repeats (length): relative frequency of each
    image; the length of an epoch does not change. A DistributedSampler, so that Lightning's `use_distributed_sampler`
    does not divide the images again. Not a WeightedRandomSampler: it depends on the global random state, and draws an
    image more or less often than its weight says.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world: int = 1, repeats: np.ndarray | None = None):
        super().__init__(range(length), num_replicas=world, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.length, self.world, self.repeats = length, world, repeats

    def __len__(self) -> int:
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        mine = self._training_order()[self.rank :: self.world][: len(self)].tolist()
        return iter([(self.epoch, position) for position in mine])

    def _training_order(self) -> Tensor:
        """The positions of this training epoch, int64 (length). Repeats of image i are i + length, i + 2·length …"""
        order = permutation(self.length, self.seed, self.epoch)
        if self.repeats is None:
            return order
        # Systematic sampling: evenly spaced pointers into the cumulated weights, in this epoch's order, from a random
        # start. Each image is drawn as often as its weight says, rounded down or up.
        share = np.cumsum(self.repeats[order]) / self.repeats.sum()
        share[-1] = 1  # exactly, despite rounding
        start = derive(self.seed, "repeats", self.epoch) / 2**63
        drawn = order[np.searchsorted(share, (np.arange(self.length) + start) / self.length)]
        drawn = drawn[permutation(self.length, derive(self.seed, "repeats"), self.epoch)]
        return drawn + self.length * _occurrence(drawn)


class EvaluationSampler(DistributedSampler[list[int]]):
    """The batches of one process in an evaluation: of images with the same shape, the largest first.

    shapes (N,2): of the images. A batch has at most `batch_size` images, and `pixels` pixels or one image. Processes
    take turns batch by batch, so that the batches are those of a single process; a process that lacks a last batch gets
    [−1], padding.
    """

    def __init__(self, shapes: np.ndarray, batch_size: int, pixels: int, rank: int = 0, world: int = 1):
        super().__init__(range(len(shapes)), num_replicas=world, rank=rank)  # type: ignore[arg-type]
        batches = batches_of_same_shape(shapes, batch_size, pixels)
        self.batches = batches[rank::world]
        self.batches += [[-1]] * (-(-len(batches) // world) - len(self.batches))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def batches_of_same_shape(shapes: np.ndarray, batch_size: int, pixels: int) -> list[list[int]]:
    """Positions of images by shape (N,2), the largest first, in batches of at most `batch_size` and `pixels`."""
    kinds, kind_of = np.unique(shapes, axis=0, return_inverse=True)
    batches = []
    for kind in np.argsort(-kinds.prod(1), kind="stable"):
        members = np.flatnonzero(kind_of.ravel() == kind).tolist()
        count = max(1, min(batch_size, pixels // int(kinds[kind].prod())))
        batches += [members[i : i + count] for i in range(0, len(members), count)]
    return batches


def repeat_factors(pixels: np.ndarray) -> np.ndarray:
    """Relative frequency of each image, from its pixels per class (N,C): float (N); 1 if it has only common classes.

    max(1, √(t / share of images with the class)) of the image's rarest class; t is the median of these shares.
    Source: Gupta et al. 2019 (LVIS), section 4.2, "repeat factor sampling", with the median as threshold.
    """
    present = pixels > 0
    share = present.mean(0)
    factor = np.maximum(1, np.sqrt(np.median(share[share > 0]) / np.maximum(share, 1e-12)))
    return np.where(present, factor, 1).max(1)


def _occurrence(values: Tensor) -> Tensor:
    """For each value, the number of equal values before it: int64 (N)."""
    in_order, positions = values.sort(stable=True)
    before = torch.arange(len(values)) - torch.searchsorted(in_order, in_order)
    return torch.empty_like(values).scatter_(0, positions, before)

"""The order in which the images of a split are used, and how often each is drawn."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from segstudy.seeds import derive, permutation


class EpochSampler(DistributedSampler[int]):
    """The positions of one process in one epoch: shuffled by (seed, epoch) for training, else in order.

    In training, processes take turns image by image, and the remainder is dropped. In evaluation they take turns batch
    by batch, so that the batches are those of a single process; a process that lacks a last batch gets a position −1.
    repeats (length): relative frequency of each image; the length of an epoch does not change. A DistributedSampler, so
    that Lightning's `use_distributed_sampler` does not divide the images again. Not a WeightedRandomSampler: it depends
    on the global random state, and draws an image more or less often than its weight says.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
        repeats: np.ndarray | None = None,
        batch_size: int = 1,
    ):
        super().__init__(range(length), num_replicas=world, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.length, self.world, self.repeats, self.batch_size = length, world, repeats, batch_size

    def __len__(self) -> int:
        return self.length // self.world if self.shuffle else len(self._evaluation_order())

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            return iter(self._training_order()[self.rank :: self.world][: len(self)].tolist())
        return iter(self._evaluation_order())

    def _evaluation_order(self) -> list[int]:
        batches = [range(self.length)[i : i + self.batch_size] for i in range(0, self.length, self.batch_size)]
        mine = batches[self.rank :: self.world]
        missing = len(mine) < -(-len(batches) // self.world)
        return [i for batch in mine for i in batch] + [-1] * missing

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

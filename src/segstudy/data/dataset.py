"""TODO"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from segstudy.data.cache import Cache
from segstudy.data.images import Sample
from segstudy.labels import IGNORE
from segstudy.seeds import derive, permutation

Batch = dict[str, Any]
"""Tensors; while a batch is augmented, also the (height, width) in which it comes out."""


class CachedDataset(Dataset):
    """A split (or a part of it) in the cache; indexed by whole batches.

    A batch: image uint8 (B,H,W,3), mask uint8 (B,H,W), index int64 (B), and drawn int64 (B), by which augmentation is
    drawn: the position asked for. Position i + k·N, for k = 1, 2, …, is image i of the N once more in an epoch, and so
    augmented in another way. Index −1 gives an image that is all 255:
    it makes the last batch of a process that has none left, so that all do equally many, and counts nowhere.
    """

    def __init__(self, name: str, samples: Sequence[Sample], cache: Cache, ids: np.ndarray | None = None):
        self.name, self.cache = name, cache
        self.ids = np.arange(len(samples)) if ids is None else ids
        self.samples = list(samples)
        self.device_arrays: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def pixels(self) -> np.ndarray:
        """Labels counted in each image: int64 (N,C)."""
        return self.cache.pixels[self.ids]

    @property
    def key(self) -> str:
        """Fingerprint of the files and of which of them are in."""
        return f"{self.cache.key[:12]}-{derive(0, *(s.name for s in self.samples)):016x}"

    def subset(self, positions: np.ndarray) -> "CachedDataset":
        return CachedDataset(self.name, [self.samples[i] for i in positions], self.cache, self.ids[positions])

    def to(self, device: torch.device) -> "CachedDataset":
        """The same with its arrays in the memory of `device`."""
        if self.device_arrays is None:
            arrays = (self.cache.images[self.ids], self.cache.masks[self.ids])
            self.device_arrays = tuple(torch.from_numpy(a).to(device) for a in arrays)  # type: ignore[assignment]
        return self

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        drawn = torch.tensor(positions)
        index = torch.where(drawn < 0, drawn, drawn % len(self))
        if self.device_arrays is not None:
            at = index.clamp(min=0).to(self.device_arrays[0].device)
            image, mask = self.device_arrays[0][at], self.device_arrays[1][at]
        else:
            rows = self.ids[index.clamp(min=0).numpy()]
            image, mask = torch.from_numpy(self.cache.images[rows]), torch.from_numpy(self.cache.masks[rows])
        if (filled := index < 0).any():
            mask[filled.to(mask.device)] = IGNORE
        return {"image": image, "mask": mask, "index": index, "drawn": drawn}

    def __getitem__(self, position: int) -> Batch:
        return {key: value[0] for key, value in self.__getitems__([position]).items()}


class EpochSampler(DistributedSampler[int]):
    """The positions of one process in one epoch: shuffled by (seed, epoch) for training, else in order.

    In training processes take turns image by image, and what does not come out even is cut. In evaluation they take
    turns batch by batch, so that every batch is one of a single process's; who lacks one at the end gets a batch of −1.
    repeats (length): how often each is drawn relative to the others; an epoch stays as long.
    A DistributedSampler, so that Lightning's `use_distributed_sampler` does not divide the images once more.
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
        return self.length // self.world if self.shuffle else len(self._in_turn())

    def __iter__(self) -> Iterator[int]:
        return iter(self._drawn()[self.rank :: self.world][: len(self)].tolist() if self.shuffle else self._in_turn())

    def _in_turn(self) -> list[int]:
        batches = [range(self.length)[i : i + self.batch_size] for i in range(0, self.length, self.batch_size)]
        mine = batches[self.rank :: self.world]
        lacking = len(mine) < -(-len(batches) // self.world)
        return [i for batch in mine for i in batch] + [-1] * lacking

    def _drawn(self) -> Tensor:
        """The positions of this training epoch, int64 (length); of image i repeated also i + length, i + 2·length …"""
        order = permutation(self.length, self.seed, self.epoch)
        if self.repeats is None:
            return order
        # Evenly spaced pointers into the weights, laid out in this epoch's order, from a random start: each image
        # comes as often as it should, rounded down or up.
        share = np.cumsum(self.repeats[order]) / self.repeats.sum()
        share[-1] = 1  # rounding may leave it short of that
        start = derive(self.seed, "repeats", self.epoch) / 2**63
        drawn = order[np.searchsorted(share, (np.arange(self.length) + start) / self.length)]
        drawn = drawn[permutation(self.length, derive(self.seed, "repeats"), self.epoch)]
        return drawn + self.length * _occurrence(drawn)


def repeat_factors(pixels: np.ndarray) -> np.ndarray:
    """How often each image is drawn, from the labels counted in it (N,C): float (N), 1 for images of common classes.

    √(t / share of images with the class), of the image's rarest class and at least 1; t is the median of these shares.
    Source: Gupta et al. 2019 (LVIS), section 4.2, "repeat factor sampling", with the median for its threshold.
    """
    there = pixels > 0
    share = there.mean(0)
    factor = np.maximum(1, np.sqrt(np.median(share[share > 0]) / np.maximum(share, 1e-12)))
    return np.where(there, factor, 1).max(1)


def _occurrence(values: Tensor) -> Tensor:
    """How many equal values come before each: int64 (N)."""
    in_order, place = values.sort(stable=True)
    before = torch.arange(len(values)) - torch.searchsorted(in_order, in_order)
    return torch.empty_like(values).scatter_(0, place, before)

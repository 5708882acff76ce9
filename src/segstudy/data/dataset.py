"""A split of the data in the cache, indexed by whole batches. Their order: `sampler.py`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segstudy.data.cache import Cache
from segstudy.data.images import Sample
from segstudy.labels import IGNORE
from segstudy.seeds import derive

Batch = dict[str, Any]
"""Tensors; before augmentation also `size`, the (height, width) after it."""


class CachedDataset(Dataset):
    """A split (or part of it) in the cache, indexed by whole batches.

    A batch: image uint8 (B,H,W,3), mask uint8 (B,H,W), index int64 (B) of the images, and drawn int64 (B), the
    requested positions, which seed the augmentation. Position i + k·N (k = 1, 2, …) is image i of N repeated in the
    same epoch, with another augmentation. Position −1 is padding, an image whose mask is all 255, so that it counts
    nowhere: it gives all processes equally many batches.
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
        """Pixels of each class in each image: int64 (N,C)."""
        return self.cache.pixels[self.ids]

    @property
    def key(self) -> str:
        """Fingerprint of the files and of the selected images."""
        return f"{self.cache.key[:12]}-{derive(0, *(s.name for s in self.samples)):016x}"

    def subset(self, positions: np.ndarray) -> "CachedDataset":
        return CachedDataset(self.name, [self.samples[i] for i in positions], self.cache, self.ids[positions])

    def to(self, device: torch.device) -> "CachedDataset":
        """Copy the arrays into the memory of `device`; returns self."""
        if self.device_arrays is None:
            arrays = (self.cache.images[self.ids], self.cache.masks[self.ids])
            self.device_arrays = tuple(torch.from_numpy(a).to(device) for a in arrays)  # type: ignore[assignment]
        return self

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        drawn = torch.tensor(positions)
        index = torch.where(drawn < 0, drawn, drawn % len(self))
        if self.device_arrays is not None:
            rows_on_device = index.clamp(min=0).to(self.device_arrays[0].device)
            image, mask = (array[rows_on_device] for array in self.device_arrays)
        else:
            rows = self.ids[index.clamp(min=0).numpy()]
            image, mask = torch.from_numpy(self.cache.images[rows]), torch.from_numpy(self.cache.masks[rows])
        if (padding := index < 0).any():
            mask[padding.to(mask.device)] = IGNORE
        return {"image": image, "mask": mask, "index": index, "drawn": drawn}

    def __getitem__(self, position: int) -> Batch:
        return {key: value[0] for key, value in self.__getitems__([position]).items()}

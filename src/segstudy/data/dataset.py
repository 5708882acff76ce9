"""A split of the data in the cache, indexed by whole batches. Their order: `sampler.py`; random windows: `crops.py`."""

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

Array = Any
"""A NumPy array or a tensor."""

Batch = dict[str, Any]
"""Tensors; for training also `size`, the (height, width) after augmentation."""


class CachedDataset(Dataset):
    """A split (or part of it) in the cache, indexed by whole batches of images with the same shape.

    A batch: image uint8 (B,H,W,channels), mask uint8 (B,H,W), and index int64 (B) of the images. Position −1 is
    padding, an image whose mask is all 255, so that it counts nowhere: it gives all processes equally many batches.
    notes: lines for the user about the files.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        cache: Cache,
        ids: np.ndarray | None = None,
        notes: Sequence[str] | None = None,
    ):
        self.name, self.cache = name, cache
        self.ids = np.arange(len(samples)) if ids is None else ids
        self.samples = list(samples)
        self.notes = list(cache.notes if notes is None else notes)
        self.device_arrays: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each class in each image: int64 (N,C)."""
        return self.cache.pixels[self.ids]

    @property
    def shapes(self) -> np.ndarray:
        """(H,W) of each image: int64 (N,2)."""
        return self.cache.shapes[self.ids]

    @property
    def key(self) -> str:
        """Fingerprint of the files and of the selected images."""
        return f"{self.cache.key[:12]}-{derive(0, *(s.name for s in self.samples)):016x}"

    def subset(self, positions: np.ndarray) -> "CachedDataset":
        samples = [self.samples[i] for i in positions]
        return CachedDataset(self.name, samples, self.cache, self.ids[positions], self.notes)

    def to(self, device: torch.device) -> "CachedDataset":
        """Copy the arrays into the memory of `device`; returns self."""
        if self.device_arrays is None:
            pairs = [self.cache.pair(i) for i in self.ids.tolist()]
            flat = (np.concatenate([array.reshape(-1) for array in arrays]) for arrays in zip(*pairs, strict=True))
            self.device_arrays = tuple(torch.from_numpy(array).to(device) for array in flat)  # type: ignore[assignment]
            self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(1))])
        return self

    def pair(self, i: int) -> tuple[Array, Array]:
        """Image uint8 (H,W,channels) and mask uint8 (H,W) of position i: tensors on the device, or NumPy arrays."""
        if self.device_arrays is None:
            return self.cache.pair(int(self.ids[i]))
        (height, width), channels = self.shapes[i].tolist(), self.cache.channels
        start, end = self.starts[i], self.starts[i + 1]
        images, masks = self.device_arrays
        image = images[start * channels : end * channels].view(height, width, channels)
        return image, masks[start:end].view(height, width)

    def filled(self, shape: Sequence[int], value: int) -> Array:
        """A new uint8 array of one value, where the images are: in the device's memory, or in NumPy's."""
        if self.device_arrays is None:
            return np.full(shape, value, np.uint8)
        return torch.full(tuple(shape), value, dtype=torch.uint8, device=self.device_arrays[0].device)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        index = torch.tensor(positions)
        rows = index.clamp(min=0)
        if self.cache.is_uniform:  # all at once: much faster than one by one
            if self.device_arrays is None:
                ids = self.ids[rows.numpy()]
                image, mask = self.cache.images[ids], self.cache.masks[ids]
            else:
                (height, width), channels = self.shapes[0].tolist(), self.cache.channels
                images, masks = self.device_arrays
                chosen = rows.to(images.device, non_blocking=True)
                image = images.view(-1, height, width, channels).index_select(0, chosen)
                mask = masks.view(-1, height, width).index_select(0, chosen)
        else:
            shape = (len(rows), *self.shapes[rows[0]])
            image, mask = self.filled((*shape, self.cache.channels), 0), self.filled(shape, IGNORE)
            for b, i in enumerate(rows.tolist()):
                image[b], mask[b] = self.pair(i)
        if (index < 0).any():
            mask[(index < 0).numpy()] = IGNORE
        return {"image": torch.as_tensor(image), "mask": torch.as_tensor(mask), "index": index}

    def __getitem__(self, positions: int | Sequence[int]) -> Batch:
        """A batch of these positions, or of a single one."""
        return self.__getitems__([positions] if isinstance(positions, int) else positions)

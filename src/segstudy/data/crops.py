"""Training batches: images with the parameters of their augmentation, or random windows of larger images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from segstudy.data.dataset import Batch, CachedDataset
from segstudy.data.transforms.augment import Augment
from segstudy.labels import IGNORE
from segstudy.seeds import derive, uniform_numbers

TRIES = 10
"""Windows that are tried until no class fills too much of one, as in mmsegmentation."""

LOOKED_AT = 64
"""Rows and columns of a window that are looked at for the share of its classes."""

Draw = tuple[int, int]
"""Epoch and position. Position i + k·N (k = 1, 2, …) is image i of N repeated in the same epoch."""


@dataclass(frozen=True)
class RandomWindows:
    """Which window of an image is trained on.

    max_class_share: another window is drawn, up to TRIES times, while one class fills more than this share of its
    counted pixels; 1: the first is taken. around_classes: the window is drawn around a random pixel of a class, each of
    the image's classes being as likely, instead of uniformly.
    """

    max_class_share: float = 0.75
    around_classes: bool = False

    def centre(
        self, mask: np.ndarray, extent: np.ndarray, tries: np.ndarray, classes: np.ndarray | None = None
    ) -> np.ndarray:
        """The centre (y,x) of a window of `extent` (height, width) in an image with this mask (H,W), in pixels.

        tries (TRIES,2): uniform numbers in [0,1). classes: those of the mask, if known.
        """
        corners = []
        for numbers in tries:
            if self.around_classes:
                corners.append(around_class(mask, extent, numbers, classes))
            else:
                corners.append(random_corner(np.array(mask.shape), extent, numbers))
            if self.max_class_share == 1 or not is_filled(mask, corners[-1], extent, self.max_class_share):
                return corners[-1] + extent / 2
        return corners[0] + extent / 2


class TrainingImages(Dataset):
    """A split for training. A batch is made from (epoch, position) pairs, as `EpochSampler` yields them.

    A batch: `image` uint8 (B,h,w,channels), `mask` uint8 (B,h,w), `index` int64 (B) of the images; with `augment` also
    `params`, its parameters, and `size`, the (height, width) after it. With `windows`, `image` and `mask` hold the part
    of each image that its window needs, padded to the largest, and the batch has the keys of `_windows` as well.
    Everything depends on (seed, epoch, position) alone.
    """

    def __init__(
        self,
        images: CachedDataset,
        size: tuple[int, int],
        seed: int,
        augment: Augment | None,
        windows: RandomWindows | None = None,
    ):
        self.images, self.size, self.seed, self.augment, self.windows = images, size, seed, augment, windows

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw | int) -> Batch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> Batch:
        # trainer.overfit_batches replaces the sampler by one that yields positions
        epochs, positions = zip(*(draw if isinstance(draw, tuple) else (0, draw) for draw in draws), strict=True)
        epoch, drawn = epochs[0], torch.tensor(positions)
        index = drawn % len(self)
        if self.augment is None:
            return self.images.__getitems__(index.tolist())
        params = self.augment.make_params(self.seed, epoch, drawn)
        size = self.augment.output_size(params, *self.size)
        if self.windows is None:
            return self.images.__getitems__(index.tolist()) | {"params": params, "size": size}
        zoom = self.augment.zoom(params).double().numpy()
        extent = np.array(size) / zoom[:, None]  # (B,2) in pixels of the image
        turn = self.augment.pixel_map(params).double().numpy()
        tries = uniform_numbers(derive(self.seed, "windows"), epoch, drawn, 2 * TRIES).double().numpy()
        tries[:, :2] = params[:, 5:7].flip(1)  # y before x
        batch = self._windows(index.tolist(), self.windows, extent, turn, size, tries.reshape(-1, TRIES, 2))
        # a smaller window averages so many samples across each pixel, so that it has no aliasing
        reduction = np.maximum(1, np.ceil(1 / zoom - 1e-6)).astype(int).tolist()
        return batch | {"index": index, "params": params, "size": size, "reduction": reduction}

    def _windows(
        self,
        index: list[int],
        windows: RandomWindows,
        extent: np.ndarray,
        turn: np.ndarray,
        size: tuple[int, int],
        tries: np.ndarray,
    ) -> Batch:
        """The part of each image that its window needs, in one batch, and where the window lies in it.

        extent (B,2): height and width of the windows in pixels of the images. turn (B,2,2): `Augment.pixel_map`.
        tries: see `RandomWindows.centre`. The keys theta and end are arguments of `Augment`.
        """
        # the window's bounding box, larger than the window if it is rotated
        reach = np.abs(turn[:, ::-1, ::-1]) @ (np.array(size)[:, None] / 2)
        parts, centres, corners = [], [], []
        for b, i in enumerate(index):
            image, mask = self.images.pair(i)
            on_cpu = mask if isinstance(mask, np.ndarray) else self.images.cache.mask(int(self.images.ids[i]))
            classes = np.flatnonzero(self.images.cache.pixels[self.images.ids[i]])
            centre = windows.centre(on_cpu, extent[b], tries[b], classes)
            shape = np.array(mask.shape)
            low = np.clip(np.floor(centre - reach[b, :, 0]).astype(int) - 1, 0, shape - 1)
            high = np.clip(np.ceil(centre + reach[b, :, 0]).astype(int) + 1, low + 1, shape)
            part = slice(low[0], high[0]), slice(low[1], high[1])
            parts.append((image[part], mask[part]))
            centres.append(centre - low)
            corners.append(high - low)
        held, middle = np.array(corners), np.array(centres)
        height, width = held.max(0).tolist()
        images = self.images.filled((len(index), height, width, self.images.cache.channels), 0)
        masks = self.images.filled((len(index), height, width), IGNORE)
        for b, (image, mask) in enumerate(parts):
            for target, part in ((images[b], image), (masks[b], mask)):
                h, w = mask.shape
                target[:h, :w] = part
                # interpolation looks at one more pixel beside the part
                target[h : h + 1, :w] = part[-1:]
                target[: h + 1, w : w + 1] = target[: h + 1, w - 1 : w]
        whole = np.array([width, height])
        theta = np.empty((len(index), 2, 3))
        theta[:, :, :2] = turn * np.array(size[::-1]) / whole[:, None]
        theta[:, :, 2] = 2 * middle[:, ::-1] / whole - 1
        return {
            "image": torch.as_tensor(images),
            "mask": torch.as_tensor(masks),
            "theta": torch.from_numpy(theta).float(),
            "end": torch.from_numpy(2 * held[:, ::-1] / whole - 1).float(),
        }


def random_corner(shape: np.ndarray, extent: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Top and left of a window in an image: whole pixels, so that a window without zoom needs no interpolation.

    shape (2), extent (2): height and width of the image and of the window. numbers (2): uniform in [0,1). Along a side
    where the image is smaller, the image is in the window.
    """
    room = np.abs(shape - extent)
    return np.sign(shape - extent) * np.minimum(np.floor(numbers * (room + 1)), room)


def around_class(
    mask: np.ndarray, extent: np.ndarray, numbers: np.ndarray, classes: np.ndarray | None = None
) -> np.ndarray:
    """Top and left of a window whose middle is near a random pixel of a random class of `mask` (H,W).

    Every class in the mask is as likely. Near the image's border the window is moved into the image. numbers (2):
    uniform in [0,1). classes: those of the mask, if known. A sample of the pixels is looked at; all of them only for a
    class that the sample lacks.
    """
    shape = np.array(mask.shape)
    step = max(1, math.isqrt(mask.size // (4 * LOOKED_AT) ** 2))
    seen = mask[step // 2 :: step, step // 2 :: step]
    if classes is None:
        classes = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:IGNORE])
    if not len(classes):
        return random_corner(shape, extent, numbers)
    chosen = numbers[0] * len(classes)
    places = np.flatnonzero(seen.ravel() == classes[int(chosen)])
    if not len(places):
        seen, step = mask, 1
        places = np.flatnonzero(mask.ravel() == classes[int(chosen)])
    place = int(places[int(numbers[1] * len(places))])
    # what is left of the first number moves the window, so that the pixel is anywhere in its middle half
    moved = (np.array([chosen % 1, (numbers[1] * len(places)) % 1]) - 0.5) * extent / 2
    corner = np.floor(np.array(divmod(place, seen.shape[1])) * step + step // 2 + moved - extent / 2)
    room = shape - extent
    return np.clip(corner, np.minimum(room, 0), np.maximum(room, 0))


def is_filled(mask: np.ndarray, corner: np.ndarray, extent: np.ndarray, share: float) -> bool:
    """Whether one class fills more than `share` of a window's counted pixels, of which a sample is looked at."""
    (top, left), (bottom, right) = np.maximum(corner, 0).astype(int), np.ceil(corner + extent).astype(int)
    part = mask[top:bottom, left:right]
    rows, columns = (max(1, side // LOOKED_AT) for side in part.shape)
    counts = np.bincount(part[::rows, ::columns].ravel(), minlength=256)[:IGNORE]
    return bool(counts.max() > share * counts.sum())

"""Base class of the data sets: splits, cache, loaders, and preparation of batches on the device."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segstudy.data.bands import Bands
from segstudy.data.cache import Cache, CacheSource, images_key, open_cache, read_checked
from segstudy.data.crops import RandomWindows, TrainingImages
from segstudy.data.dataset import Batch, CachedDataset
from segstudy.data.fit import Fit, Mode, sides
from segstudy.data.images import Sample, header_shape, read_pair
from segstudy.data.sampler import EpochSampler, EvaluationSampler, repeat_factors
from segstudy.data.splits import hold_out, rarest_class
from segstudy.data.transforms.augment import DEFAULT_AUGMENTATION, NO_AUGMENTATION, Augment
from segstudy.errors import ConfigError, DataError, did_you_mean
from segstudy.formatting import counted
from segstudy.labels import IGNORE
from segstudy.ranges import Channels, Count, Fraction, PositiveShare, Range, Side, Size, Text, Whole, Workers, checked
from segstudy.seeds import derive, permutation
from segstudy.tiles import DEFAULT_SIDE, Tiles, tiles_of_large

LARGEST_SCORES = 2**32
"""Largest number of bytes of one image's scores in an evaluation. The loss and the metrics take about twice as much."""


@checked
class SegmentationData(L.LightningDataModule):
    """Base class of the data sets. A subclass sets `classes` and `palette` and defines `samples(split)`.

    Roles of the splits: `fit` (the list `train`) is for training; `report` (the list `test`, or `val` if there is no
    `test`) gives the result; `select` chooses the epoch or the learning rate: it is `val` if there is a `test`, else
    the share `select_fraction` of train (0: no `select`). Lightning's "val" is `select` if it exists, else `report`.

    size: side of the square, or (height, width). fit: squash (images are resized to `size`, their aspect ratio is
    lost), crop (images keep their own size; training sees random windows of `size`, tests see whole images) or keep
    (resized with their aspect ratio kept). max_side, keep_side: see `Fit`.
    tiles: validation and test see images with more than 4·tiles² pixels in overlapping tiles of this side; None: whole.
    channels, value_range: see `Bands`.
    max_class_share: see `RandomWindows`. cache: False reads the files again each time, which needs `workers`.
    augment: of training batches; the default is that of conf/data_common.yaml, None: no augmentation.
    seed: for the order of images, for augmentation and for random subsets.
    workers: number of loader processes; 0 is fastest if the cache is on a local disk.
    cache_dir: folder of the decoded images. device_cache: keep the arrays in the device's memory.
    limit_train: number of training images to use, drawn with the seed; None: all.
    balanced: draw images with rare classes more often (`repeat_factors`), and, with crop and keep, windows around every
    class of an image as often; the length of an epoch is unchanged.
    name: name of the data in records and reports, if it is not the whole published data set.
    """

    classes: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    background: int | None = 0
    train: str = "train"
    val: str | None = "val"
    test: str | None = None
    labels: Mapping[int, int] | None = None
    title: str = ""
    """The published data set that the class is for. The user's files may be other data in the same layout."""
    list_lengths: Mapping[str, int] = {}
    """Images in each published list, by its name."""
    terms: str = ""
    """Terms of use of the published images, as model cards quote them; "" if unknown."""

    def __init__(
        self,
        size: Size = 256,
        batch_size: Count = 16,
        augment: Augment | None = DEFAULT_AUGMENTATION,
        seed: Whole = 0,
        workers: Workers = 0,
        cache_dir: Text = "~/.cache/segstudy",
        device_cache: bool = False,
        limit_train: Count | None = None,
        select_fraction: Fraction = 0.0,
        balanced: bool = False,
        name: Text | None = None,
        fit: Mode = "squash",
        max_side: Side | None = None,
        keep_side: Literal["long", "short"] = "long",
        max_class_share: PositiveShare = 0.75,
        tiles: Side | None = DEFAULT_SIDE,
        cache: bool = True,
        channels: Channels | None = None,
        value_range: Range | None = None,
        **unknown: Any,
    ):
        super().__init__()
        for key in unknown:
            known = [p for each in type(self).__mro__ if "__init__" in vars(each) for p in signature(each).parameters]
            raise TypeError(f"{type(self).__name__} has no argument {key!r}{did_you_mean(key, known)}")
        self.name = name or type(self).__name__
        self.fit = Fit(sides(size), fit, max_side, keep_side)
        self.tiles = tiles
        self.cache, self.max_class_share = cache, max_class_share
        self.bands = Bands.of({"channels": channels, "value_range": value_range})
        if self.channels != 3 and augment is not None:
            augment.require_channels(self.channels)
        if augment is not None and augment.scale is None:
            augment = augment.with_scale((0.5, 2.0) if fit == "crop" else (0.75, 1.5))
        self.batch_size, self.augment, self.seed, self.workers = batch_size, augment, seed, workers
        self.cache_dir = Path(cache_dir).expanduser()
        self.device_cache, self.limit_train, self.select_fraction = device_cache, limit_train, select_fraction
        self.balanced = balanced
        self.roles: dict[str, CachedDataset] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(H,W) of training batches."""
        return self.fit.size

    @property
    def channels(self) -> int:
        return self.bands.number

    def __repr__(self) -> str:
        classes = vars(self).get("classes", getattr(type(self), "classes", ()))  # reads no files
        parts = [str(self.name)] * (self.name != type(self).__name__) + [f"{len(classes)} classes"] * bool(classes)
        parts += [str(self.fit)] + [str(self.bands)] * (not self.bands.are_photos)
        parts += [f"{role}: {counted(len(held), 'image')}" for role, held in self.roles.items()] or ["not set up yet"]
        return f"{type(self).__name__}({', '.join(parts)})"

    __str__ = __repr__  # Lightning's lists its loaders

    # What a data set defines

    def samples(self, split: str) -> list[Sample]:
        """The images of a split, in a fixed order. Raises DataError if they are missing."""
        raise NotImplementedError("a data set lists its samples")

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        """(image (H,W,channels), mask (H,W), note on conversions): uint8, at original size, checked by the cache."""
        return read_pair(sample, len(self.classes), self.labels, self.bands.read)

    def image_shape(self, sample: Sample) -> tuple[int, int]:
        """(H,W) of an image, as `read` returns it, from the file's header."""
        return header_shape(sample.file("image"))

    def check_values(self, samples: Sequence[Sample]) -> None:
        """Raise UnknownRange if the images' 16-bit values would become almost black (an own `read` converts them)."""
        if type(self).read is SegmentationData.read:
            self.bands.check(sample.file("image") for sample in samples)

    def ignore_is_explicit(self) -> bool:
        """Whether the label mapping mentions 255; if not, masks with much 255 are doubtful."""
        return any(IGNORE in map(int, pair) for pair in (self.labels or {}).items())

    def recipe(self) -> Any:
        """What the cached arrays depend on besides the files, as JSON values: part of the cache's key."""
        return [type(self).__name__, sorted((self.labels or {}).items())]

    # Splits

    def setup(self, stage: str | None = None) -> None:
        """Open or build the caches and assign the roles. Raises DataError for missing or invalid files."""
        if self.roles:
            return
        fit, report = self.split(self.train), self.split(self.test or self.val or "val")
        fit, select = self._selection(fit)
        if self.limit_train is not None:
            order = permutation(len(fit), derive(self.seed, "limit_train"), 0)
            fit = fit.subset(order[: self.limit_train].sort().values.numpy())
        if len(fit) < self.batch_size:
            raise DataError(
                f"{len(fit)} training images of the split {self.train!r} are fewer than a batch of {self.batch_size}\n"
                f"  → data.batch_size={max(1, len(fit))} or less, or more images (data.train, data.limit_train)"
            )
        self.roles = {"fit": fit, "report": report} | ({} if select is None else {"select": select})
        for images in (report, select):
            if images is not None:
                self._check_largest(images)

    def _check_largest(self, images: CachedDataset, smaller: str = "") -> None:
        """Raise DataError if the scores of the largest image, as the network sees it, take too much memory.

        smaller: the setting for another size, without its value.
        """
        areas = images.shapes.prod(1)
        needed = int(areas.max()) * len(self.classes) * 4
        if needed > LARGEST_SCORES:
            i = int(areas.argmax())
            height, width = images.shapes[i]
            fits = math.isqrt(LARGEST_SCORES // (4 * len(self.classes))) // 100 * 100
            smaller = smaller or ("data.max_side" if self.fit.mode == "crop" else "data.size")
            raise DataError(
                f"{images.samples[i].name} has {width}×{height} pixels: "
                f"scores for {len(self.classes)} classes take {needed / 2**30:.0f} GiB, "
                f"at most {LARGEST_SCORES / 2**30:.0f} GiB are possible\n"
                f"  → {smaller}={fits} or less, or cut the image into parts"
            )

    def split(self, name: str) -> CachedDataset:
        """A split at network size."""
        samples = self.samples(name)
        if not samples:
            raise DataError(f"the split {name!r} lists no images")
        return CachedDataset(name, samples, self._cache(samples))

    def report_at(self, fit: Fit) -> None:
        """Let the network see the reported images by another rule: read from their files, without a copy on the disk.

        Raises DataError as `setup` does.
        """
        if fit == self.fit:
            return
        self.fit, self.cache, self.device_cache = fit, False, False
        report = self.roles["report"]
        self.roles["report"] = CachedDataset(report.name, report.samples, self._cache(report.samples))
        self._check_largest(self.roles["report"], "--size")

    def _cache(self, samples: Sequence[Sample]) -> Cache:
        recipe = self.recipe() if self.bands.are_photos else [self.recipe(), self.bands.recipe()]
        source = CacheSource(
            samples, self.read, self.fit, len(self.classes), recipe, self.channels, self.ignore_is_explicit(),
            self.image_shape, lambda: self.check_values(samples),
        )  # fmt: skip
        return open_cache(source, self.cache_dir, self.cache)

    def _selection(self, fit: CachedDataset) -> tuple[CachedDataset, CachedDataset | None]:
        """(fit, select): select is the list `val` if there is a `test`, else `select_fraction` of fit, or None."""
        if self.test and self.val:
            if self.select_fraction:
                raise ConfigError(
                    f"data.val={self.val} and data.select_fraction={self.select_fraction} both define `select`\n"
                    "  → data.val=null, or data.select_fraction=0"
                )
            return fit, self.split(self.val)
        if not self.select_fraction:
            return fit, None
        held = hold_out(self.strata(fit), [s.group for s in fit.samples], self.select_fraction, self.seed, "select")
        if not held.any() or held.all():
            raise ConfigError(
                f"data.select_fraction={self.select_fraction} of {len(fit)} training images is none or all of them\n"
                f"  → at least data.select_fraction={1 / len(fit):.3g}, or 0 to hold out nothing"
            )
        return fit.subset(np.flatnonzero(~held)), fit.subset(np.flatnonzero(held))

    def strata(self, images: CachedDataset) -> Sequence:
        """The stratum of each image for stratified splits: its rarest class."""
        return rarest_class(images.pixels)

    def overlap(self) -> int:
        """Number of images of `report` that are also in `fit` or `select`."""
        seen = {s.name for role in ("fit", "select") if role in self.roles for s in self.roles[role].samples}
        return sum(s.name in seen for s in self.roles["report"].samples)

    def describe(self) -> dict[str, Any]:
        """Roles, sizes and fingerprints, for the run's record.

        content (of `report`): equal for the same images and labels, whatever their size in a test, and wherever their
        files are. shapes: equal for the same sizes in tests.
        """
        roles = {
            role: {
                "split": i.name,
                "images": len(i),
                "fingerprint": i.key,
                "shapes": hashlib.sha256(i.shapes.tobytes()).hexdigest()[:12],
            }
            for role, i in self.roles.items()
        }
        roles["report"]["content"] = images_key(self.roles["report"].samples, [len(self.classes), self.recipe()])
        return {
            "name": self.name,
            "layout": type(self).__name__,
            **self.fit.values(),
            **self.bands.values(),
            "protocol": self.protocol(),
            "background": self.background,
            "roles": {"select": None} | roles,
        }

    def protocol(self) -> str:
        """Settings that define the task besides the files, in words; only runs with equal ones are compared."""
        return ""

    def pixels(self) -> np.ndarray:
        """Pixels of each class in the images of `fit`, as the network sees them in a test: int64 (C,)."""
        return self.roles["fit"].pixels.sum(0)

    def original_mask(self, role: str, index: int) -> Tensor:
        """The mask at its original size, int64 (H,W)."""
        images = self.roles[role]
        if images.cache.keeps_sizes:  # no second decoding of the files
            mask = images.cache.mask(int(images.ids[index]))
        else:
            mask = read_checked(self.read, images.samples[index], len(self.classes), self.channels)[1]
        return torch.from_numpy(np.array(mask, order="C")).long()

    def tiles_for(self, shape: Sequence[int]) -> Tiles | None:
        """The tiles in which an evaluation sees an image of this (H,W); None: it is seen as a whole."""
        return tiles_of_large(shape, self.tiles)

    # Loaders

    def train_dataloader(self) -> DataLoader:
        images, (rank, world) = self._placed("fit"), self._processes()
        repeats = repeat_factors(images.pixels) if self.balanced else None
        windows = None if self.fit.mode == "squash" else RandomWindows(self.max_class_share, self.balanced)
        augment = NO_AUGMENTATION if self.augment is None and windows else self.augment
        return DataLoader(
            TrainingImages(images, self.size, self.seed, augment, windows),
            batch_size=self.batch_size,
            sampler=EpochSampler(len(images), self.seed, rank, world, repeats),
            drop_last=True,  # batch statistics of one or two remaining images are noise
            **self._loading(),
        )

    def val_dataloader(self) -> DataLoader:
        return self.evaluation_loader("select" if "select" in self.roles else "report")

    def test_dataloader(self) -> DataLoader:
        return self.evaluation_loader("report")

    def evaluation_loader(self, role: str) -> DataLoader:
        """Batches of whole images with the same shape, in which each image of this process occurs once."""
        images = self._placed(role)
        order = EvaluationSampler(images.shapes, self.batch_size, self.pixels_per_batch, *self._processes())
        return DataLoader(images, batch_size=None, sampler=order, **self._loading())

    @property
    def pixels_per_batch(self) -> int:
        """The pixels of an evaluation batch with more than one image: those of a training batch, or a million."""
        return max(self.batch_size * math.prod(self.size), 2**20)

    def _placed(self, role: str) -> CachedDataset:
        images = self.roles[role]
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return images.to(device) if self.device_cache else images

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loading(self) -> dict[str, Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        workers = 0 if self.device_cache else self.workers
        return {
            "num_workers": workers,
            "pin_memory": on_gpu and not self.device_cache,
            "persistent_workers": workers > 0,
            "collate_fn": _as_is,
        }

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """uint8 from the cache → float image (B,channels,H,W) in 0…1 and int64 mask; augmented if it holds `params`."""
        # permuted from (B,H,W,3), it already is channels_last
        image = batch["image"].permute(0, 3, 1, 2).float() / 255
        mask = batch["mask"].long()
        if "params" in batch:
            augment = self.augment or NO_AUGMENTATION
            image, mask = augment(image, mask, batch["params"], batch["size"], batch if "theta" in batch else None)
        return {"image": image, "mask": mask, "index": batch["index"]}


def known_data(trainer: L.Trainer) -> SegmentationData | None:
    """The trainer's data module if it is one of segstudy's, else None (with the user's own loaders)."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, SegmentationData) else None


def data_of(trainer: L.Trainer) -> SegmentationData:
    """The trainer's data module, which must be one of segstudy's. Raises ConfigError with the user's own loaders."""
    if (data := known_data(trainer)) is None:
        raise ConfigError("this callback needs a data module of segstudy: leave it out with your own loaders")
    return data


def _as_is(batch: Any) -> Any:
    return batch

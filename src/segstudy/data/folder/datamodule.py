"""A user's own images and masks: a folder, and a few lines of YAML that say what the masks mean."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.cache import open_cache
from segstudy.data.datamodule import SegmentationData
from segstudy.data.dataset import CachedDataset
from segstudy.data.folder.description import Description, LabelMap, make_label_map, read_description
from segstudy.data.folder.scan import count_labels, palette_of_masks, scan_folder
from segstudy.data.folder.split import ROLES, make_split
from segstudy.data.images import Sample, read_pair
from segstudy.data.splits import rarest_class
from segstudy.errors import DataError
from segstudy.labels import IGNORE

VERSION = 1
"""Raise it when the same files would give other labels: part of the cache's key."""


class Folder(SegmentationData):
    """Your own images and masks, of equal names in ROOT/images and ROOT/masks, or as ROOT/dataset.yaml says.

    Classes: those of dataset.yaml or classes.csv, else the values, colours or labels that occur in the masks.
    Format: masks as class numbers, colours, a COCO file or LabelMe files. No data: 255, and what `ignore` lists.

    root: the folder. about: the file that describes it, in the place of ROOT/dataset.yaml.
    train, val, test: in the place of dataset.yaml's: a list file, a sub-folder of the images, or a value of the column
    split; for val and test also a share such as 0.2, or "none". fold: the one to report, if dataset.yaml has `folds`.
    loading: see `SegmentationData`. Whatever dataset.yaml does not say is guessed from the files and reported.
    Shares and folds are drawn with `split_seed` and from the masks at their own size: neither the seed of the training
    nor data.size changes them.
    """

    def __init__(
        self,
        root: str,
        about: str | None = None,
        train: str | None = None,
        val: str | float | None = None,
        test: str | float | None = None,
        fold: int | None = None,
        **loading: Any,
    ):
        super().__init__(**loading)
        self.root, self.about = Path(root).expanduser(), Path(about).expanduser() if about else None
        self.split_settings = {"train": train, "val": val, "test": test}
        self.fold = fold
        self.notes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("classes", "palette"):  # known from the files: asked for before setup, these are read now
            self._open()
            return vars(self)[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def setup(self, stage: str | None = None) -> None:
        if not self.roles:
            if "scheme" not in vars(self):
                self._open()
            super().setup(stage)

    def _open(self) -> None:
        """Find the files, the classes and the splits."""
        self.description, _ = read_description(self.root, self.about)
        scan = scan_folder(self.root, self.description)
        self.format = scan.format
        plan = make_split(scan, self.root, self.description, self.split_settings, self.fold)
        plan.raise_errors(scan, self.root)
        self.pool = plan.pool
        used = plan.members()
        counted = count_labels(used, self.format, self.cache_dir)
        check_255(counted, self.format.name, self.description)
        keys = list(dict.fromkeys(key for pixels in counted for key in pixels))
        self.label_map = make_label_map(self.description, self.format, keys, palette_of_masks(used, self.format))
        self.classes, self.palette = self.label_map.classes, self.label_map.palette
        self.background = self.label_map.background
        self.notes = [*scan.notes, *self.label_map.notes, *plan.notes]
        of_name = dict(zip((s.name for s in used), counted, strict=True))
        pixels = pixels_per_class([of_name[s.name] for s in plan.pool], self.label_map)
        self.lists = plan.lists | plan.draw_lists(rarest_class(pixels))
        self.titles = {role: plan.title(role) for role in ROLES}
        self.train = "train"
        self.val, self.test = ("val" if "val" in self.lists else None), ("test" if "test" in self.lists else None)

    def samples(self, split: str) -> list[Sample]:
        return self.lists[split]

    def split(self, name: str) -> CachedDataset:
        """A split. Drawn splits are parts of one cache of the whole pool, so that all folds share it."""
        samples = self.samples(name)
        if not samples:
            raise DataError(f"the split {name!r} lists no images")
        index_in_pool = {s.name: i for i, s in enumerate(self.pool)}
        whole_pool = all(s.name in index_in_pool for s in samples)
        cache = open_cache(
            self.pool if whole_pool else samples, self.read, self.size, len(self.classes), self.cache_dir,
            self.recipe(), ignore_is_explicit=True,
        )  # fmt: skip
        cache = replace(cache, notes=[*self.notes, *cache.notes] if name == "train" else [])
        ids = np.array([index_in_pool[s.name] for s in samples]) if whole_pool else None
        return CachedDataset(self.titles[name], samples, cache, ids)

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        def read_mask(orientation: int, shape: tuple[int, ...]) -> np.ndarray:
            mask, keys = self.format.read(sample)
            labels = self.label_map.labels(mask, keys, f"{sample.mask} ({sample.name})")
            return self.format.orient(labels, orientation, shape)

        return read_pair(sample, len(self.classes), mask_reader=read_mask)

    def recipe(self) -> Any:
        return ["Folder", VERSION, self.format.name, sorted(self.label_map.table.items())]

    def describe(self) -> dict[str, Any]:
        # "said" is the key of records on disk
        return super().describe() | {"description": self.description.values(), "said": self.notes}


def pixels_per_class(counted: Sequence[dict[str, int]], label_map: LabelMap) -> np.ndarray:
    """Pixels of each class in each mask, int64 (N,C), from the pixels of each key."""
    pixels = np.zeros((len(counted), IGNORE + 1), np.int64)
    for row, keys in zip(pixels, counted, strict=True):
        for key, number in keys.items():
            row[label_map.table.get(key, IGNORE)] += number
    return pixels[:, : len(label_map.classes)]


def check_255(counted: Sequence[dict[str, int]], format_name: str, description: Description) -> None:
    """Raise DataError if most masks hold only 0 and 255, and dataset.yaml does not say what 255 is."""
    declared = [str(v) for v in (*description.labels, *description.ignore)]
    binary = sum(keys.keys() == {"0", str(IGNORE)} for keys in counted)
    if format_name == "numbers" and str(IGNORE) not in declared and binary * 2 > len(counted):
        raise DataError(
            f"{binary} of {len(counted)} masks hold only 0 and 255: is 255 the object? By default it is ignored.\n"
            "  → say so in dataset.yaml: labels: {0: background, 255: OBJECT}; or, if it is void: ignore: [255]"
        )

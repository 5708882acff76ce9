"""The user's own images and masks: a folder, and a few lines of YAML that say what the masks mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.datamodule import SegmentationData
from segstudy.data.dataset import CachedDataset
from segstudy.data.folder.counts import count_labels
from segstudy.data.folder.description import read_description
from segstudy.data.folder.interpretation import interpret_masks
from segstudy.data.folder.problems import raise_errors
from segstudy.data.folder.scan import scan_folder
from segstudy.data.folder.split import ROLES, UntrainableError, make_split
from segstudy.data.images import Sample, require_same_size
from segstudy.data.splits import rarest_class
from segstudy.ranges import OpenShare, Text, Whole, checked

VERSION = 2  # part of the cache's key. Increase it when the same files give other labels


@checked
class Folder(SegmentationData):
    """Your own images and masks: files with equal names in ROOT/images and ROOT/masks, or as ROOT/dataset.yaml says.

    Classes: those of dataset.yaml or classes.csv, else the values, colours or labels that occur in the masks.
    Format: masks as class numbers or colours, or files of COCO, LabelMe or Supervisely. No data: 255, and what `ignore`
    lists.

    root: the folder. about: a description to use instead of ROOT/dataset.yaml.
    train, val, test: used instead of dataset.yaml's: a list file, a sub-folder of the images, or a value of the column
    split; for val and test also a share such as 0.2, or "none". fold: the fold to report, if dataset.yaml has `folds`.
    loading: see `SegmentationData`. What dataset.yaml does not say is guessed from the files and printed;
    what could mean two things is an error that asks.
    Shares and folds depend on `split_seed` and the masks at original size, not on the seed of training or data.size.
    """

    def __init__(
        self,
        root: Text,
        about: Text | None = None,
        train: Text | None = None,
        val: Text | OpenShare | None = None,
        test: Text | OpenShare | None = None,
        fold: Whole | None = None,
        **loading: Any,
    ):
        super().__init__(**loading)
        self.root, self.about = Path(root).expanduser(), Path(about).expanduser() if about else None
        self.split_settings = {"train": train, "val": val, "test": test}
        self.fold = fold
        self.notes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("classes", "palette", "label_map"):  # read from the files, if used before setup
            self._open()
            return vars(self)[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def background(self) -> int | None:  # type: ignore[override]
        return self.label_map.background

    def setup(self, stage: str | None = None) -> None:
        if "classes" not in vars(self):
            self._open()
        super().setup(stage)

    def setup_to_look(self) -> None:
        """Give the role `fit` all images: there may be too few to split, or only one class."""
        self._open(to_train=False)
        self.roles = {"fit": self.split("train")}

    def _open(self, to_train: bool = True) -> None:
        """Find files, classes and splits. Raises DataError that lists the problems that prevent training."""
        self.description, _ = read_description(self.root, self.about)
        scan = scan_folder(self.description)
        plan = make_split(scan, self.description, self.split_settings, self.fold)
        raise_errors([*scan.problems, *plan.problems], self.root)
        counted = count_labels(plan.members(), scan.format, self.cache_dir)
        masks = interpret_masks(plan.members(), counted, scan.format, self.description)
        raise_errors(masks.problems, self.root)
        if to_train and (single := masks.single_class()):
            raise UntrainableError(str(single[0]))
        self.format, self.label_map, self.pool = masks.format, masks.label_map, plan.pool
        read_as = [] if self.bands.are_photos else [f"images are read as {self.bands}"]
        self.notes = [*scan.notes, *read_as, *masks.notes, *(each.note for each in masks.problems), *plan.notes]
        pixels = masks.pixels(plan.pool)
        self.lists = plan.lists | (plan.draw_lists(rarest_class(pixels)) if to_train else {"train": plan.pool})
        self.titles = {role: plan.title(role) for role in ROLES}
        self.train = "train"
        self.val, self.test = ("val" if "val" in self.lists else None), ("test" if "test" in self.lists else None)
        self.classes, self.palette = self.label_map.classes, self.label_map.palette

    def samples(self, split: str) -> list[Sample]:
        return self.lists[split]

    def split(self, name: str) -> CachedDataset:
        """A split. Splits drawn from the pool are parts of one cache of the whole pool, so that all folds share it."""
        samples = self.samples(name)
        index_in_pool = {s.name: i for i, s in enumerate(self.pool)}
        whole_pool = all(s.name in index_in_pool for s in samples)
        cache = self._cache(self.pool if whole_pool else samples)
        notes = [*self.notes, *cache.notes] if name == "train" else []
        ids = np.array([index_in_pool[s.name] for s in samples]) if whole_pool else None
        return CachedDataset(self.titles[name], samples, cache, ids, notes)

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        image, note, orientation = self.bands.read(sample.file("image"))
        read = self.format.read(sample)
        labels = self.label_map.labels(read.indices, read.keys, f"{sample.mask} ({sample.name})")
        mask = self.format.orient(labels, orientation, image.shape[:2])
        require_same_size(sample, image, mask, orientation)
        return image, mask, note

    def check_values(self, samples: Sequence[Sample]) -> None:
        self.bands.check(sample.file("image") for sample in samples)

    def ignore_is_explicit(self) -> bool:
        return True  # checked by `interpret_masks`

    def recipe(self) -> Any:
        version = [self.format.version] if self.format.version else []
        return ["Folder", VERSION, self.format.kind, sorted(self.label_map.table.items()), *version]

    def describe(self) -> dict[str, Any]:
        # "said": the key in records on disk
        return super().describe() | {"description": self.description.model_dump(), "said": self.notes}

"""A user's own images and masks: a folder, and a few lines of YAML that say what the masks mean."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.cache import cached
from segstudy.data.datamodule import SegmentationData
from segstudy.data.dataset import CachedDataset
from segstudy.data.folder.description import Description, LabelMap, describe, make_label_map
from segstudy.data.folder.scan import count_labels, own_colours, scan_folder
from segstudy.data.folder.split import ROLES, make_split
from segstudy.data.images import Sample, read_pair
from segstudy.data.splits import rarest_class
from segstudy.errors import DataError
from segstudy.labels import IGNORE

VERSION = 1
"""Raise it when the same files would give other labels."""


class Folder(SegmentationData):
    """Images and masks of equal names in ROOT/images and ROOT/masks, or as ROOT/dataset.yaml says.

    about: the file that describes the folder, in the place of ROOT/dataset.yaml. train, val, test: in the place of its
    keys: a list file, a sub-folder of the images, a value of the column split; for val and test also a share such as
    0.2; "none" for none. fold: which one is reported where dataset.yaml says `folds`. What is not said is guessed from
    the files, and told. What is drawn is drawn with `split_seed` and from the masks in their own size: neither the seed
    of the training nor data.size changes it.
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
        self.wanted = {"train": train, "val": val, "test": test}
        self.fold = fold
        self.said: list[str] = []

    def setup(self, stage: str | None = None) -> None:
        if not self.roles:
            self._open()
            super().setup(stage)

    def _open(self) -> None:
        """Find the files, decide the classes, and divide the images."""
        self.description, _ = describe(self.root, self.about)
        found = scan_folder(self.root, self.description)
        self.kind = found.kind
        plan = make_split(found, self.root, self.description, self.wanted, self.fold)
        plan.refuse(found, self.root)
        self.lists, self.pool = plan.lists, plan.pool
        used = list({s.name: s for members in (*plan.lists.values(), plan.pool) for s in members}.values())
        counted = count_labels(used, self.kind, self.cache_dir)
        ask_about_255(counted, self.kind.name, self.description)
        present = list(dict.fromkeys(key for keys in counted for key in keys))
        self.scheme = make_label_map(self.description, self.kind, present, own_colours(used, self.kind))
        self.classes, self.palette = self.scheme.classes, self.scheme.palette
        self.background = self.scheme.background
        self.said = [*found.said, *self.scheme.said, *plan.said]
        of_name = dict(zip((s.name for s in used), counted, strict=True))
        pixels = pixels_of([of_name[s.name] for s in plan.pool], self.scheme)
        self.lists |= plan.divide(rarest_class(pixels), self.description.split_seed)
        self.titles = {role: plan.title(role) for role in ROLES}
        self.train = "train"
        self.val, self.test = ("val" if "val" in self.lists else None), ("test" if "test" in self.lists else None)

    def samples(self, split: str) -> list[Sample]:
        return self.lists[split]

    def split(self, name: str) -> CachedDataset:
        """A split; what is drawn is a part of one cache of all that it was drawn from, so that folds share it."""
        samples = self.samples(name)
        if not samples:
            raise DataError(f"the split {name!r} lists no images")
        pool = {s.name: i for i, s in enumerate(self.pool)}
        base = self.pool if all(s.name in pool for s in samples) else samples
        cache = cached(base, self.read, self.size, len(self.classes), self.cache_dir, self.recipe(), void_meant=True)
        cache = replace(cache, stated=[*self.said, *cache.stated] if name == "train" else [])
        ids = np.array([pool[s.name] for s in samples]) if base is self.pool else None
        return CachedDataset(self.titles[name], samples, cache, ids)

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        def draw(turn: int, shape: tuple[int, ...]) -> np.ndarray:
            drawn, keys = self.kind.draw(sample)
            return self.kind.seen(self.scheme.labels(drawn, keys, f"{sample.mask} ({sample.name})"), turn, shape)

        return read_pair(sample, len(self.classes), draw=draw)

    def recipe(self) -> Any:
        return ["Folder", VERSION, self.kind.name, sorted(self.scheme.table.items())]

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"description": self.description.values(), "said": self.said}


def pixels_of(counted: Sequence[dict[str, int]], scheme: LabelMap) -> np.ndarray:
    """Labels counted in each mask at its own size: int64 (N,C)."""
    pixels = np.zeros((len(counted), IGNORE + 1), np.int64)
    for row, keys in zip(pixels, counted, strict=True):
        for key, number in keys.items():
            row[scheme.table.get(key, IGNORE)] += number
    return pixels[:, : len(scheme.classes)]


def ask_about_255(counted: Sequence[dict[str, int]], kind: str, about: Description) -> None:
    """Raise DataError if most masks hold only 0 and 255 and nothing says whether 255 is the object."""
    said = [str(v) for v in (*about.labels, *about.ignore)]
    only = sum(keys.keys() == {"0", str(IGNORE)} for keys in counted)
    if kind == "numbers" and str(IGNORE) not in said and only * 2 > len(counted):
        raise DataError(
            f"{only} of {len(counted)} masks hold only 0 and 255: is 255 the object? Else it would be 'ignored'.\n"
            "  → say so in dataset.yaml: labels: {0: background, 255: OBJECT}; or, if it is void, ignore: [255]"
        )

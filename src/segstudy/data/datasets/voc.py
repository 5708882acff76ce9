"""PASCAL VOC 2012 segmentation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segstudy.data.datasets.published import PublishedData, require_files
from segstudy.data.images import Sample
from segstudy.errors import DataError
from segstudy.labels import voc_palette
from segstudy.ranges import Label, Text, checked

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@checked
class VOC(PublishedData):
    """PASCAL VOC 2012, segmentation: photos of everyday scenes.

    Classes: background and 20 classes of objects. Format: JPEG, and indexed PNG whose values are the classes.
    No data: 255, on borders of objects and in difficult regions.

    root: the folder with VOCdevkit (or VOC2012). train, val: lists in ImageSets/Segmentation: train (1,464 images),
    val (1,449), trainval, or trainaug (with masks in SegmentationClassAug).
    labels: {value in the file: class}, for masks with other numbers. download: fetch the official archive (2 GB) if
    missing. loading: see `SegmentationData`.
    Cite: Everingham et al. 2015, "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 111.
    """

    classes = CLASSES
    palette = voc_palette(21)
    places = ("VOCdevkit/VOC2012", "VOC2012", "")
    parts = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    archives = {
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd"
    }
    archive_size = "2 GB"
    title = "PASCAL VOC 2012"
    terms = "the photos are from Flickr and under its terms of use; their owners keep their rights."
    list_lengths = {"train": 1_464, "val": 1_449, "trainval": 2_913, "trainaug": 10_582}

    def __init__(
        self,
        root: Text,
        train: Text = "train",
        val: Text = "val",
        labels: Mapping[Label, Label] | None = None,
        download: bool = False,
        **loading: Any,
    ):
        super().__init__(root, download, **loading)
        self.train, self.val, self.labels = train, val, labels

    def samples(self, split: str) -> list[Sample]:
        masks = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
        return self._samples({name: Path(masks, f"{name}.png") for name in self.names(split)}, f"the list {split!r}")

    def names(self, split: str) -> list[str]:
        """The names in a list. Raises DataError if it is missing or empty."""
        listing = self._list(split)
        if not listing.is_file():
            found = sorted(p.stem for p in listing.parent.glob("*.txt"))
            raise DataError(
                f"no list {split!r}: no file {listing}\n  found the lists: {', '.join(found) or 'none'}\n"
                "  → set data.train and data.val to one of them"
            )
        names = listing.read_text().split()
        if not names:
            raise DataError(
                f"the list {listing} is empty\n  → write a name per line, or choose another list: data.train, data.val"
            )
        return names

    def _list(self, split: str) -> Path:
        return self.home() / "ImageSets" / "Segmentation" / f"{split}.txt"

    def _samples(self, masks: Mapping[str, Path], wanted: str) -> list[Sample]:
        """The images of these names with their masks (in VOC2012, or absolute). Raises DataError for missing files."""
        home = self.home()
        samples = [Sample(n, home / "JPEGImages" / f"{n}.jpg", home / mask) for n, mask in masks.items()]
        return require_files(samples, wanted)

"""PASCAL VOC 2012 segmentation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segstudy.data.base import SegmentationData
from segstudy.data.download import fetch_archive
from segstudy.data.reading import Sample
from segstudy.errors import DataError

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """The devkit's colours: the bits of the class number dealt to red, green and blue, highest colour bit first."""
    colours = []
    for label in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours


class VOC(SegmentationData):
    """PASCAL VOC 2012: 20 classes and background; 255 is the border and whatever is too hard to say.

    root: the folder that holds VOCdevkit (or VOC2012). train, val: lists in ImageSets/Segmentation: train (1,464
    images), val (1,449), trainval, or trainaug, whose masks are read from SegmentationClassAug.
    labels: file value → class, for masks that number otherwise. download: fetch the official archive (2 GB) if missing.
    Source: Everingham et al. 2015, "The PASCAL VOC Challenge: A Retrospective".
    """

    classes = CLASSES
    palette = voc_palette(21)

    def __init__(
        self,
        root: str,
        train: str = "train",
        val: str = "val",
        labels: Mapping[int, int] | None = None,
        download: bool = False,
        **loading: Any,
    ):
        super().__init__(**loading)
        self.root, self.download = Path(root).expanduser(), download
        self.train, self.val, self.labels = train, val, labels

    def prepare_data(self) -> None:
        if self.download and not any(map(_whole, self._places())):
            fetch_archive(URL, MD5, self.root)

    def samples(self, split: str) -> list[Sample]:
        home = self._home()
        listing = home / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listing.is_file():
            found = sorted(p.stem for p in listing.parent.glob("*.txt"))
            raise DataError(
                f"no list {split!r}: no file {listing}\n  found the lists: {', '.join(found) or 'none'}\n"
                "  → set data.train and data.val to lists that are there"
            )
        masks = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
        names = listing.read_text().split()
        if not names:
            raise DataError(f"the list {listing} is empty\n  → a name per line, or another list: data.train, data.val")
        samples = [Sample(n, home / "JPEGImages" / f"{n}.jpg", home / masks / f"{n}.png") for n in names]
        missing = [str(p) for s in samples for p in (s.image, s.mask) if p and not p.is_file()]
        if missing:
            more = f"\n  … and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataError(
                f"{len(missing)} files of the list {listing} are not there:\n  "
                + "\n  ".join(missing[:5])
                + more
                + "\n  → complete the folder (data.root), or choose a list of what is there (data.train, data.val)"
            )
        return samples

    def _places(self) -> list[Path]:
        return [self.root / "VOCdevkit" / "VOC2012", self.root / "VOC2012", self.root]

    def _home(self) -> Path:
        for place in self._places():
            if _whole(place):
                return place
        found = "no such folder"
        if self.root.is_dir():
            found = ", ".join(sorted(p.name for p in self.root.iterdir())[:8]) or "an empty folder"
        raise DataError(
            f"no VOC2012 under data.root={str(self.root)!r}\n"
            f"  expected: {self.root}/VOCdevkit/VOC2012/{{JPEGImages,SegmentationClass,ImageSets/Segmentation}}\n"
            f"  found:    {found}\n"
            "  → set data.root to the folder that holds VOCdevkit, or data.download=true (2 GB)"
        )


def _whole(place: Path) -> bool:
    return all((place / part).is_dir() for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))

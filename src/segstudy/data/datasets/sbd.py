"""PASCAL VOC 2012 with the additional masks of SBD: the split `trainaug` of the literature."""

from pathlib import Path
from typing import Any

from segstudy.data.datasets.published import find_folder
from segstudy.data.datasets.voc import VOC
from segstudy.data.download import fetch_archive
from segstudy.data.images import Sample
from segstudy.errors import DataError, list_found
from segstudy.ranges import Count, Text, checked

URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"

MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"

PUBLISHED = 10_582
"""Images of trainaug: VOC train (1,464) and SBD's train and val (11,355 together), without VOC val."""


@checked
class VOCSBD(VOC):
    """VOC with the masks of SBD: trains on `trainaug` = VOC train ∪ SBD train and val − VOC val, 10,582 images.

    Classes: as VOC. Format: as VOC; SBD's masks are .mat files (GTcls.Segmentation). No data: 255 in VOC's masks, which
    are used for the images of VOC train; SBD's masks have no 255.

    root: the folder with VOCdevkit; trainaug is its SegmentationClassAug and trainaug.txt, or is made from
    benchmark_RELEASE/dataset (or sbd) in `root`. train, val: as VOC's. images: number of images that trainaug must
    have; None: any. download: fetch both archives (2 GB and 1.4 GB) if missing. voc: other arguments of `VOC`.
    Raises DataError if trainaug has another length or shares an image with VOC val.
    Cite: Hariharan et al. 2011, "Semantic Contours from Inverse Detectors", ICCV; and VOC.
    """

    title = "PASCAL VOC 2012 with the masks of SBD"
    terms = f"{VOC.terms} The masks of SBD are of the same photos (Hariharan et al. 2011)."

    def __init__(self, root: Text, train: Text = "trainaug", images: Count | None = PUBLISHED, **voc: Any):
        super().__init__(root, train=train, **voc)
        self.images = images

    def prepare_data(self) -> None:
        super().prepare_data()
        if self.download and not self._has_trainaug():
            fetch_archive(URL, MD5, self.root, lambda: self._sbd() is not None)

    def samples(self, split: str) -> list[Sample]:
        if split != "trainaug":
            return super().samples(split)
        samples = super().samples(split) if self._has_trainaug() else self._from_sbd()
        shared = sorted({s.name for s in samples} & set(self.names("val")))
        if shared:
            raise DataError(
                f"{len(shared)} images of trainaug are also in VOC's val ({', '.join(shared[:3])}, …)\n"
                f"  → results on val would be invalid: remove these images from {self._list('trainaug')}"
            )
        if self.images is not None and len(samples) != self.images:
            raise DataError(
                f"trainaug has {len(samples):,} images here, the published one has {PUBLISHED:,} "
                f"(data.images={self.images})\n  → complete VOC and SBD; or, to use a part of it, data.images=null"
            )
        return samples

    def _has_trainaug(self) -> bool:
        return (self.home() / "SegmentationClassAug").is_dir() and self._list("trainaug").is_file()

    def _from_sbd(self) -> list[Sample]:
        sbd = self._sbd()
        if sbd is None:
            raise DataError(
                f"neither trainaug nor SBD under data.root={str(self.root)!r}\n"
                f"  expected: {self.home()}/{{SegmentationClassAug,ImageSets/Segmentation/trainaug.txt}}\n"
                f"        or: {self.root}/benchmark_RELEASE/dataset/{{cls,train.txt,val.txt}}\n"
                f"  found:    {list_found(self.root)}\n"
                "  → unpack SBD's benchmark.tgz in data.root, or data.download=true (1.4 GB)"
            )
        voc, val = set(self.names("train")), set(self.names("val"))
        extra = {name for part in ("train", "val") for name in (sbd / f"{part}.txt").read_text().split()}
        masks = {name: Path("SegmentationClass", f"{name}.png") for name in voc}
        masks |= {name: sbd.resolve() / "cls" / f"{name}.mat" for name in extra - voc - val}
        return self._samples(dict(sorted(masks.items())), "VOC train ∪ SBD")

    def _sbd(self) -> Path | None:
        """The folder with SBD's cls, train.txt and val.txt."""
        places = (self.root / "benchmark_RELEASE" / "dataset", self.root / "sbd", self.root / "SBD" / "dataset")
        return find_folder(places, ("cls", "train.txt", "val.txt"))

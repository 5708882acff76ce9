"""Oxford-IIIT Pet: pet against background."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from segstudy.data.dataset import CachedDataset
from segstudy.data.datasets.published import PublishedData, photos_in, require_files
from segstudy.data.download import fetch_archive
from segstudy.data.images import Sample
from segstudy.ranges import Fraction, Text, checked

BORDERS = {"ignore": 255, "background": 0, "foreground": 1, "class": 2}
"""Label of the border (value 3 of the trimaps), by the setting data.border."""


@checked
class Pet(PublishedData):
    """Oxford-IIIT Pet: photos of 37 breeds of cats and dogs; the pet against the background.

    Classes: background and pet; with border="class" also border. Format: JPEG, and PNG trimaps: 1 pet, 2 background,
    3 border. No data: 255, for the border with border="ignore".

    root: the folder with oxford-iiit-pet. border: ignore, background, foreground or class; results with different
    settings are never compared. download: fetch the archives (800 MB) if missing.
    split: official (trains on trainval, 3,680 images, reports on test, 3,669) or alphabetical: the first 80 % of all
    names for training, the last 20 % to report. Use alphabetical only to reproduce a study that used it: its
    validation breeds do not occur in training, and none is a cat.
    select_fraction: share of trainval used as `select`, stratified by breed. loading: see `SegmentationData`.
    Cite: Parkhi et al. 2012, "Cats and Dogs", CVPR.
    """

    places = ("oxford-iiit-pet", "")
    parts = ("images", "annotations/trimaps", "annotations/trainval.txt", "annotations/test.txt")
    archives = {
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
    }
    archive_size = "800 MB"
    title = "Oxford-IIIT Pet"
    terms = "CC BY-SA 4.0; the photos' owners keep their rights."
    list_lengths = {"trainval": 3_680, "test": 3_669}

    def __init__(
        self,
        root: Text,
        border: Literal["ignore", "background", "foreground", "class"] = "ignore",
        split: Literal["official", "alphabetical"] = "official",
        download: bool = False,
        select_fraction: Fraction = 0.1,
        **loading: Any,
    ):
        super().__init__(root, download, select_fraction=select_fraction, **loading)
        self.border = border
        self.classes: Sequence[str] = ("background", "pet", "border")[: 3 if border == "class" else 2]
        self.palette = [(0, 0, 0), (228, 132, 32), (120, 170, 255)][: len(self.classes)]
        self.labels: Mapping[int, int] = {1: 1, 2: 0, 3: BORDERS[border]}
        self.train, self.val, self.test = ("trainval", None, "test") if split == "official" else ("first", "last", None)

    def prepare_data(self) -> None:
        if self.download:
            home = self.root / "oxford-iiit-pet"
            for url, checksum in self.archives.items():
                part = home / Path(url).name.removesuffix(".tar.gz")
                fetch_archive(url, checksum, home, part.is_dir)

    def protocol(self) -> str:
        return f"border={self.border}, split={'alphabetical' if self.test is None else 'official'}"

    def samples(self, split: str) -> list[Sample]:
        home = self.home()
        if split in ("first", "last"):
            names = sorted(p.stem for p in photos_in(home / "images"))
            cut = int(len(names) * 0.8)
            names = names[:cut] if split == "first" else names[cut:]
        else:
            lines = (home / "annotations" / f"{split}.txt").read_text().splitlines()
            names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        trimaps = home / "annotations" / "trimaps"
        samples = [Sample(n, home / "images" / f"{n}.jpg", trimaps / f"{n}.png") for n in names]
        return require_files(samples, f"{split!r} of Oxford-IIIT Pet")

    def strata(self, images: CachedDataset) -> Sequence:
        """The breed of each image: its name without the number."""
        return [sample.name.rpartition("_")[0] for sample in images.samples]

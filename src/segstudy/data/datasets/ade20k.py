"""ADE20K SceneParsing: 150 classes of objects and surfaces (things and stuff)."""

import csv
from pathlib import Path
from typing import Any

from segstudy.data.datasets.published import PublishedData, photos_in, require_files
from segstudy.data.images import Sample
from segstudy.errors import DataError, list_found
from segstudy.ranges import Text, checked

URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
SHA1 = "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"

FULL = ("index_ade20k.mat", "index_ade20k.pkl", "images/ADE", "ADE20K_2021_17_01", "ADE20K_2016_07_26")
"""Files and folders of the full ADE20K, a different data set."""

with open(Path(__file__).with_name("ade20k.csv"), newline="") as _file:
    CLASSES = [(row["name"], (int(row["red"]), int(row["green"]), int(row["blue"]))) for row in csv.DictReader(_file)]
"""Names (the first in objectInfo150.txt) and colours of the benchmark's 150 classes, most frequent first."""


@checked
class ADE20K(PublishedData):
    """ADE20K SceneParsing (ADEChallengeData2016): indoor and outdoor scenes, 20,210 for training and 2,000 to report.

    Classes: 150 of things and stuff, no background. Format: JPEG, and greyscale PNG with 1…150, which become 0…149.
    No data: 0 ("not labelled") in the files, which becomes 255.

    root: the folder with ADEChallengeData2016. train, val: folder names in its `images` and `annotations`.
    download: fetch the archive (1 GB) if missing. loading: see `SegmentationData`.
    Cite: Zhou et al. 2017, "Scene Parsing through ADE20K Dataset", CVPR.
    """

    classes = tuple(name for name, _ in CLASSES)
    palette = tuple(rgb for _, rgb in CLASSES)
    background = None
    places = ("ADEChallengeData2016", "")
    parts = ("images/training", "annotations/training")
    archives = {URL: SHA1}
    archive_size = "1 GB"
    labels = {0: 255} | {i + 1: i for i in range(150)}
    title = "ADE20K SceneParsing"
    terms = "its terms of use allow non-commercial research and education; the images' owners keep their rights."
    list_lengths = {"training": 20_210, "validation": 2_000}

    def __init__(
        self, root: Text, train: Text = "training", val: Text = "validation", download: bool = False, **loading: Any
    ):
        super().__init__(root, download, **loading)
        self.train, self.val = train, val

    def samples(self, split: str) -> list[Sample]:
        home = self.home()
        folder = home / "images" / split
        images = photos_in(folder)
        if not images:
            raise DataError(
                f"no images of the split {split!r} in {folder}\n  found: {list_found(folder.parent)}\n"
                "  → set data.train and data.val to one of them"
            )
        samples = [Sample(p.stem, p, home / "annotations" / split / f"{p.stem}.png") for p in images]
        return require_files(samples, f"{split!r} of ADE20K")

    def home(self) -> Path:
        if self.find() is None and any((self.root / sign).exists() for sign in FULL):
            raise DataError(
                f"data.root={str(self.root)!r} holds the full ADE20K: thousands of classes, coded in colours\n"
                f"  expected: the scene parsing benchmark with 150 classes, {Path(URL).name}\n"
                "  → data.download=true downloads it (1 GB) to data.root"
            )
        return super().home()

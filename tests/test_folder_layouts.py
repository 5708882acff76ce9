"""Layouts by public conventions: which images and masks are paired, which split is used, and what is asked."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segstudy.data.folder.check import check_folder
from segstudy.data.folder.description import read_description
from segstudy.data.folder.scan import scan_folder
from segstudy.data.folder.split import ROLES, make_split

SIDE = 16
TRAIN, VAL = range(6), range(6, 9)
BOTH = (*TRAIN, *VAL)
SPLIT = {"train": 6, "val": 3}

Build = Callable[[Path], None]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def labels(i: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[2:8, 2 : 8 + i % 3], mask[10:14, 3:12] = 1, 2
    return mask


def pair(root: Path, image: str, mask: str, numbers: range | tuple[int, ...] = BOTH) -> None:
    """Photos of noise and masks; {i} in the paths is the number."""
    for i in numbers:
        save(root / image.format(i=i), np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        if mask:
            save(root / mask.format(i=i), labels(i))


def in_splits(image: str, mask: str, train: str = "train", val: str = "val") -> Build:
    def build(root: Path) -> None:
        for word, numbers in ((train, TRAIN), (val, VAL)):
            pair(root, image.replace("SPLIT", word), mask.replace("SPLIT", word), numbers)

    return build


def plain(root: Path) -> None:
    pair(root, "images/p{i}.jpg", "masks/p{i}.png")


def with_file(name: str, content: str | Callable[[int], str]) -> Build:
    """content: of a text file, or of its line of each image."""

    def build(root: Path) -> None:
        plain(root)
        text = content if isinstance(content, str) else "\n".join(map(content, BOTH))
        (root / name).write_text(text)

    return build


def role(i: int) -> str:
    return "train" if i in TRAIN else "val"


def coco(numbers: range | tuple[int, ...], label: str = "car") -> str:
    outline = [[2, 2, 9, 2, 9, 9]]
    objects = [{"image_id": i, "category_id": 1, "segmentation": outline} for i in numbers]
    images = [{"id": i, "file_name": f"p{i}.jpg", "height": SIDE, "width": SIDE} for i in numbers]
    return json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": label}]})


def coco_files(**files: str) -> Build:
    def build(root: Path) -> None:
        pair(root, "images/p{i}.jpg", "")
        (root / "annotations").mkdir()
        for name, content in files.items():
            (root / "annotations" / f"{name}.json").write_text(content)

    return build


def labelme_in(folder: str, images: str = "images", masks: str = "") -> Build:
    def build(root: Path) -> None:
        pair(root, f"{images}/p{{i}}.jpg", masks)
        (root / folder).mkdir()
        shape = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]]}
        for i in BOTH:
            (root / folder / f"p{i}.json").write_text(json.dumps({"shapes": [shape]}))

    return build


def carvana_with_test(root: Path) -> None:
    in_splits("SPLIT/p{i}.jpg", "SPLIT_masks/p{i}_mask.gif")(root)
    pair(root, "test/p{i}.jpg", "", (20, 21))


READ: dict[str, tuple[Build, dict[str, int], str]] = {
    "column split": (with_file("split.csv", lambda i: f"p{i},{role(i)}" if i else "name,split\np0,train"), SPLIT, ""),
    "column subset, with paths": (
        with_file("meta.csv", lambda i: ("" if i else "id;file;subset\n") + f"{i};images/p{i}.jpg;{role(i)}"),
        SPLIT, "split: train = meta.csv, val = meta.csv",
    ),
    "JSON of lists": (
        with_file("splits.json", json.dumps({r: [f"p{i}" for i in BOTH if role(i) == r] for r in SPLIT})), SPLIT, ""
    ),
    "train_images": (in_splits("SPLIT_images/p{i}.jpg", "SPLIT_masks/p{i}.png"), SPLIT, "masks: '*_masks'"),
    "images_train": (in_splits("images_SPLIT/p{i}.jpg", "masks_SPLIT/p{i}.png"), SPLIT, "images: images_*"),
    "Carvana": (in_splits("SPLIT/p{i}.jpg", "SPLIT_masks/p{i}_mask.gif"), SPLIT, "images: '*', masks: '*_masks'"),
    "Carvana with test": (carvana_with_test, SPLIT, "test/p20"),
    "SegNet's CamVid": (in_splits("SPLIT/p{i}.png", "SPLITannot/p{i}.png"), SPLIT, "masks: '*annot'"),
    "CamVid of Kaggle": (in_splits("SPLIT/p{i}.png", "SPLIT_labels/p{i}_L.png"), SPLIT, "mask_suffix: _L"),
    "ADE20K's words": (
        in_splits("images/SPLIT/p{i}.jpg", "annotations/SPLIT/p{i}.png", "training", "validation"),
        SPLIT, "train = training, val = validation",
    ),
    "capital letters": (in_splits("SPLIT/Image/p{i}.jpg", "SPLIT/Mask/p{i}.png", "Train", "Val"), SPLIT, "'*/Mask'"),
    "LoveDA": (in_splits("SPLIT/Rural/rgb/p{i}.png", "SPLIT/Rural/gt/p{i}.png", "Train", "Val"), SPLIT, "val = Val"),
    "satellite tiles": (lambda root: pair(root, "{i}_sat.jpg", "{i}_mask.png"), {}, "image_suffix: _sat"),
    "ISIC": (
        in_splits("ISIC_SPLIT_Input/{i}.jpg", "ISIC_SPLIT_GroundTruth/{i}_segmentation.png", "Training", "Validation"),
        SPLIT, "mask_suffix: _segmentation",
    ),
    "a.tif beside a.png": (lambda root: pair(root, "day {i}/a.tif", "day {i}/a.png"), {}, "images: '*/*.tif'"),
    "other name of masks": (lambda root: pair(root, "images/p{i}.jpg", "gt/p{i}.png"), {}, "dataset.yaml: masks: gt"),
    "LabelMe in json": (labelme_in("json"), {}, "in dataset.yaml: masks: json"),
    "LabelMe in any folder": (labelme_in("out", "photos"), {}, "images: photos, masks: out"),
    "capital names": (lambda root: pair(root, "images/P{i}.PNG", "masks/p{i}.png"), {}, "9 pairs (P0 and p0, "),
    "masks without sub-folders": (in_splits("images/SPLIT/p{i}.png", "masks/p{i}.png"), SPLIT, "train/p0 and p0"),
    "COCO of all and of each split": (
        coco_files(instances_all=coco(BOTH), instances_train=coco(TRAIN), instances_val=coco(VAL)),
        SPLIT, "COCO files left out: instances_all.json (repeats 9 images)",
    ),
    "COCO in its own folders": (
        lambda root: (in_splits("SPLIT2017/p{i}.jpg", "")(root), (root / "annotations").mkdir(),
                      (root / "annotations/train.json").write_text(coco(TRAIN)),
                      (root / "annotations/val.json").write_text(coco(VAL)))[0], SPLIT, "images: ., masks: annotations"
    ),
    "COCO by category and split": (
        coco_files(cars=coco(BOTH), trees_train=coco(TRAIN, "tree"), trees_val=coco(VAL, "tree")), SPLIT, ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_layouts_are_read(tmp_path: Path, kind: str) -> None:
    build, roles, text = READ[kind]
    build(tmp_path)
    report = check_folder(tmp_path)
    found = "\n".join([*report.notes, *map(str, report.problems)])
    assert report.trainable, found
    assert text in found
    assert sum(map(len, report.counts.values())) == len(BOTH)
    if roles:
        assert {name: len(counts) for name, counts in report.counts.items()} == roles
    assert report.proposed_yaml is not None
    (tmp_path / "dataset.yaml").write_text(report.proposed_yaml)  # it reads the same
    again = check_folder(tmp_path)
    assert [counts.tolist() for counts in again.counts.values()] == [c.tolist() for c in report.counts.values()]


def masks_with(value: int, thin: bool = True) -> Build:
    """A border of this value around an area, or one pixel of it in one mask."""

    def build(root: Path) -> None:
        plain(root)
        for i in BOTH:
            mask = labels(i)
            if thin:
                mask[1, 1:9] = mask[8, 1:9] = value
            elif i == 4:
                mask[0, 0] = value
            save(root / "masks" / f"p{i}.png", mask)

    return build


def several_kinds(root: Path) -> None:
    plain(root)
    pair(root, "images/p{i}.jpg", "masks/a/q{i}.png")
    for place in ("a", "b"):
        for i in BOTH:
            (root / "masks" / f"p{i}.png").unlink(missing_ok=True)
            save(root / "masks" / place / f"p{i}.png", labels(i))


ASKED: dict[str, tuple[Build, str]] = {
    "names with other starts": (
        lambda root: pair(root, "images/img_{i}.jpg", "masks/m{i}.png"),
        r"only their starts differ, in dataset\.yaml: images: images/img_\* and masks: masks/m\*",
    ),
    "masks of single objects": (
        lambda root: pair(root, "s/n{i}/images/n{i}.png", "s/n{i}/masks/{i}a.png"), "no folder of images"
    ),
    "COCO in the root beside masks": (with_file("coco.json", coco(BOTH)), "masks: masks or masks: coco.json"),
    "LabelMe beside masks": (labelme_in("json", masks="masks/p{i}.png"), "masks: json or masks: masks"),
    "254 as void": (masks_with(254), r"is 254 a class, or to be ignored\? It is thin and far .*ignore: \[254\]"),
    "a stray value": (masks_with(7, thin=False), r"is 7 a class, .* in 1 mask, e\.g\. p4, on 0\.0434% .*7: NAME\}"),
    "masks of two kinds": (several_kinds, "masks/a or masks/b"),
    "COCO files that differ": (
        coco_files(old=coco(BOTH), new=coco(BOTH).replace("[2, 2,", "[3, 2,")), r"p0: new\.json and old\.json"
    ),
    "COCO files of two splits": (
        coco_files(train=coco(BOTH), val=coco(VAL)), r"another split, in another COCO file \(3\)"
    ),
    "volumes": (lambda root: [with_file("a", "")(root), (root / "images").rename(root / "x"),  # type: ignore[list-item]
                              (root / "images").mkdir(), (root / "images/a.nii.gz").touch()][0],
                r"found: 1 \.nii\.gz\n.*of a volume \(\.nii\.gz, \.dcm\), each slice"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ASKED)
def test_what_can_be_read_in_two_ways_is_asked(tmp_path: Path, kind: str) -> None:
    build, text = ASKED[kind]
    build(tmp_path)
    report = check_folder(tmp_path)
    found = "\n".join(map(str, report.problems))
    assert not report.trainable
    assert re.search(text, found, re.DOTALL), found


@pytest.mark.parametrize("answer", ["ignore: [254]", "classes: {0: a, 1: b, 2: c, 254: d}"])
def test_an_answer_is_taken(tmp_path: Path, answer: str) -> None:
    masks_with(254)(tmp_path)
    (tmp_path / "dataset.yaml").write_text(answer)
    report = check_folder(tmp_path)
    assert report.trainable
    assert report.label_map is not None
    assert len(report.label_map.classes) == (3 if "ignore" in answer else 4)


def test_a_mask_of_two_images_is_told(tmp_path: Path) -> None:
    with_file(
        "pairs.csv", lambda i: ("" if i else "image,mask\n") + f"images/p{i}.jpg,masks/p{0 if i == 5 else i}.png"
    )(tmp_path)
    (tmp_path / "dataset.yaml").write_text("pairs: pairs.csv")
    found = {problem.title: problem for problem in check_folder(tmp_path).problems}
    assert found["masks of several images"].items == ["masks/p0.png: images/p0, images/p5"]
    assert found["masks of several images"].severity == "warning"


def test_lists_that_are_not_used_are_told(tmp_path: Path) -> None:
    with_file("folds.csv", lambda i: ("" if i else "image,fold\n") + f"p{i}.jpg,{i % 4}")(tmp_path)
    assert "no list of a split, though it names images: folds.csv" in check_folder(tmp_path).notes


def test_the_folder_may_be_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "d{i}/{i}_sat.jpg", "d{i}/{i}_mask.png")
    monkeypatch.chdir(tmp_path)
    description, _ = read_description(Path())
    scan = scan_folder(description)
    assert [sample.name for sample in scan.samples] == [f"d{i}/{i}" for i in BOTH]
    assert make_split(scan, description, dict.fromkeys(ROLES)).shares == {"val": 0.2}


def test_a_split_without_training_images_is_an_error(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "test.txt").write_text("".join(f"p{i}\n" for i in BOTH))
    report = check_folder(tmp_path)
    assert not report.trainable
    (found,) = [each for each in report.problems if each.severity == "error"]
    assert (found.title, found.items) == ("no images to train on", ["test holds 9 of 9"])

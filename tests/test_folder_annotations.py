"""Annotations as tools write them: each folder gives the labels that it should, or says what is wrong with it."""

import base64
import contextlib
import io
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segstudy.data.folder.check import FolderReport, check_folder
from segstudy.data.folder.coco import read_coco, read_objects
from segstudy.data.folder.datamodule import Folder
from segstudy.data.folder.labelme import read_labelme
from segstudy.data.folder.mask_format import IndexedMask
from segstudy.data.folder.shapes import NO_OUTLINE, NO_PIXEL, NO_WIDTH
from segstudy.data.images import Sample

HEIGHT, WIDTH = 6, 8

CAR = [[1, 1], [5, 1], [5, 4], [1, 4]]
"""12 pixels."""

TREE = [[6, 2], [8, 2], [8, 5], [6, 5]]
"""6 pixels."""

PIXELS = {"background": HEIGHT * WIDTH - 18, "car": 12, "tree": 6}
"""Of an image with a car and a tree."""


def flat(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]


def save_image(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_images(folder: Path, count: int = 4, first: int = 0, suffix: str = ".png") -> list[str]:
    names = [f"{i:03d}{suffix}" for i in range(first, first + count)]
    for i, name in enumerate(names):
        save_image(folder / name, first + i)
    return names


def save_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco_of(names: list[str], **changes: Any) -> dict[str, Any]:
    """A car and a tree in each image."""
    outlines = {3: CAR, 9: TREE}
    return {
        "images": [{"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)],
        "categories": [{"id": 9, "name": "tree"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 10 * i + c, "image_id": i, "category_id": c, "segmentation": [flat(points)], "iscrowd": 0}
            for i in range(len(names))
            for c, points in outlines.items()
        ],
    } | changes


def labelme_of(*shapes: dict, **changes: Any) -> dict[str, Any]:
    given = [{"label": "car", "points": CAR}, {"label": "tree", "points": TREE}]
    return {"imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": list(shapes) or given} | changes


def labels_of(checked: FolderReport) -> dict[str, int]:
    """The pixels of each class in all masks, or the problems if there are none."""
    if checked.label_map is None:
        return {str(problem): 0 for problem in checked.problems}
    total = sum(counts.sum(0) for counts in checked.counts.values())
    return dict(zip(checked.label_map.classes, map(int, total), strict=True))


def problems_of(checked: FolderReport) -> dict[str, tuple[str, list[str]]]:
    ignored = ("rare classes", "identical images in two splits (equal pixels)")
    return {p.title: (p.severity, p.items) for p in checked.problems if p.title not in ignored}


def times(count: int) -> dict[str, int]:
    return {name: count * pixels for name, pixels in PIXELS.items()}


# Folders that are read: how the folder is made, how many images there are, and a text in the notes


def coco_in_two_files(root: Path) -> None:
    for split, first in (("train", 0), ("val", 0)):  # equal bare names
        names = save_images(root / "images" / f"{split}2017", 4, first)
        save_json(root / "annotations" / f"instances_{split}2017.json", coco_of(names))
        save_json(root / "annotations" / f"captions_{split}2017.json", coco_of(names, annotations=[{"caption": "a"}]))
        points = [a | {"keypoints": [1]} for a in coco_of(names)["annotations"]]
        save_json(root / "annotations" / f"person_keypoints_{split}2017.json", coco_of(names, annotations=points))


def coco_of_cvat(root: Path) -> None:
    names = save_images(root / "images" / "default")
    save_json(root / "annotations" / "instances_default.json", coco_of(names))


def coco_of_windows(root: Path) -> None:
    names = save_images(root / "images" / "drive")
    content = coco_of([f"..\\images\\drive\\{name}" for name in names])
    for image in content["images"]:
        del image["height"], image["width"]
    (root / "masks.json").write_text(json.dumps(content), encoding="utf-8-sig")


def coco_of_roboflow(root: Path) -> None:
    for split, first in (("train", 0), ("valid", 4)):
        names = save_images(root / split, 4, first, ".jpg")
        categories = [
            {"id": 0, "name": "street", "supercategory": "none"},
            {"id": 3, "name": "car", "supercategory": "street"},
            {"id": 9, "name": "tree", "supercategory": "street"},
        ]
        save_json(root / split / "_annotations.coco.json", coco_of(names, categories=categories))


def coco_by_category(root: Path) -> None:
    names = save_images(root / "images")
    whole = coco_of(names)
    for label, number in (("car", 3), ("tree", 9)):  # each with the category id 1
        objects = [a | {"category_id": 1} for a in whole["annotations"] if a["category_id"] == number]
        content = coco_of(names, categories=[{"id": 1, "name": label}], annotations=objects)
        save_json(root / "annotations" / f"{label}.json", content)


def coco_of_label_studio(root: Path) -> None:
    names = save_images(root / "images")
    save_json(root / "result.json", coco_of([f"../../label-studio/data/media/upload/1/{name}" for name in names]))
    save_json(root / "settings.json", {"theme": "dark"})


def coco_for_each_image(root: Path) -> None:
    for name in save_images(root / "images"):
        save_json(root / "annotations" / name.replace(".png", ".json"), coco_of([name]))


def coco_of_all_and_of_a_part(root: Path) -> None:
    names = save_images(root / "images")
    save_json(root / "annotations" / "all.json", coco_of(names))
    save_json(root / "annotations" / "part.json", coco_of(names[:2]))


def labelme_flat(root: Path) -> None:
    for name in save_images(root):
        save_json(root / name.replace(".png", ".json"), labelme_of())


def labelme_in_exports(root: Path) -> None:
    for export in ("monday", "tuesday"):
        for name in save_images(root / export, 2):
            content = labelme_of()
            del content["imageHeight"]
            save_json(root / export / name.replace(".png", ".json"), content)


def labelme_in_folders_of_exports(root: Path) -> None:
    for export in ("monday", "tuesday"):
        for name in save_images(root / export / "images", 2):
            save_json(root / export / "annotations" / name.replace(".png", ".json"), labelme_of())


def supervisely(root: Path, sets: Sequence[str] = ("ds0", "ds1"), count: int = 2) -> None:
    bitmap = io.BytesIO()
    Image.fromarray(np.full((3, 2), 255, np.uint8)).save(bitmap, "PNG")
    data = base64.b64encode(zlib.compress(bitmap.getvalue())).decode()
    objects = [
        # the points are pixels, with the last ones
        {"classTitle": "car", "geometryType": "rectangle", "points": {"exterior": [[1, 1], [4, 3]], "interior": []}},
        {"classTitle": "tree", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [6, 2]}},
    ]
    for dataset in sets:
        for name in save_images(root / dataset / "img", count):
            content = {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects}
            save_json(root / dataset / "ann" / f"{name}.json", content)
    save_json(root / "meta.json", {"classes": []})


def supervisely_of_one_set(root: Path) -> None:
    supervisely(root, [""], 4)


def save_mask(path: Path, table: Any = (0, 1, 2)) -> None:
    labels = np.zeros((HEIGHT, WIDTH), int)
    labels[1:4, 1:5], labels[2:5, 6:8] = 1, 2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(table, np.uint8)[labels]).save(path)


def cvat_masks(root: Path) -> None:
    for name in save_images(root / "JPEGImages", 6):
        save_mask(root / "SegmentationClass" / name, [(0, 0, 0), (250, 50, 83), (51, 221, 255)])
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\ntree:51,221,255::\n"
    )
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("000\n001\n002\n003\n")  # the others are not finished


def roboflow_masks(root: Path) -> None:
    for split, first in (("train", 0), ("valid", 3)):
        for name in save_images(root / split, 3, first, "_jpg.rf.1a2b.jpg"):
            save_mask(root / split / name.replace(".jpg", "_mask.png"))
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, car\n2, tree\n")


def nnunet(root: Path) -> None:
    for i in range(4):
        save_image(root / "imagesTr" / f"case{i}_0000.png", i)
        save_mask(root / "labelsTr" / f"case{i}.png")
    save_json(root / "dataset.json", {"labels": {"background": 0, "car": 1, "tree": 2}})


def nnunet_of_values(root: Path) -> None:
    """Labels of several values that do not overlap, and one to ignore."""
    nnunet(root)
    save_json(root / "dataset.json", {"labels": {"background": [0], "car": 1, "tree": [2, 3], "ignore": 4}})


def photos_and_masks_in_one_folder(root: Path, place: str = "", suffix: str = ".jpg") -> None:
    for name in save_images(root / place, suffix=suffix):
        save_mask(root / place / name.replace(suffix, ".png"))
    (root / "classes.txt").write_text("background\ncar\ntree\n\n")


def photos_and_masks_in_images(root: Path) -> None:
    photos_and_masks_in_one_folder(root, "images", ".JPG")


def photos_and_masks_in_folders(root: Path) -> None:
    photos_and_masks_in_one_folder(root, "train")
    photos_and_masks_in_one_folder(root, "val", ".jpeg")


def masks_with_an_ending(root: Path) -> None:
    for i in range(4):
        save_image(root / f"day {i % 2}" / f"Blatt {i}.JPG", i)
        save_mask(root / f"day {i % 2}" / f"Blatt {i}_Maske.png")
    (root / "classes.txt").write_text("background\ncar\ntree\n")


def two_folders(root: Path) -> None:
    for name in save_images(root / "Fotos" / "a"):
        save_mask(root / "Klassen" / "a" / name)
    (root / "classes.txt").write_text("background\ncar\ntree\n")


def cityscapes(root: Path) -> None:
    for split in ("train", "val"):
        for i in range(2):
            save_image(root / "leftImg8bit" / split / "ulm" / f"ulm_00{i}_leftImg8bit.png", i)
            save_mask(root / "gtFine" / split / "ulm" / f"ulm_00{i}_gtFine_labelTrainIds.png")
            save_mask(root / "gtFine" / split / "ulm" / f"ulm_00{i}_gtFine_labelIds.png", (7, 26, 21))
    (root / "classes.txt").write_text("background\ncar\ntree\n")


def mmsegmentation(root: Path) -> None:
    for split in ("train", "val"):
        for name in save_images(root / "img_dir" / split, 2):
            save_mask(root / "ann_dir" / split / name)
    (root / "classes.txt").write_text("background\ncar\ntree\n")


def images_and_masks_in_each_split(root: Path) -> None:
    for split in ("train", "valid"):
        for name in save_images(root / split / "images", 2):
            save_mask(root / split / "masks" / name)
    (root / "classes.txt").write_text("background\ncar\ntree\n")


READ: list[tuple[Callable[[Path], None], int, str]] = [
    (coco_in_two_files, 8, "COCO files left out: captions_train2017.json (captions), captions_val2017.json (captions), "
     "person_keypoints_train2017.json (key points), person_keypoints_val2017.json (key points)"),
    (coco_of_cvat, 4, "COCO annotations of 4 images; categories: 2"),
    (coco_of_windows, 4, "COCO"),
    (coco_of_roboflow, 8, "split: train, val, by the names of folders"),
    (coco_of_roboflow, 8, "categories left out, without objects and above others: street"),
    (coco_by_category, 4, "car.json, tree.json: COCO annotations of 4 images"),
    (coco_of_label_studio, 4, "result.json: COCO annotations of 4 images"),
    (coco_for_each_image, 4, "COCO annotations of 4 images"),
    (coco_of_all_and_of_a_part, 4, "COCO annotations of 4 images"),
    (labelme_flat, 4, "layout: annotations beside the images; in dataset.yaml: images: ., masks: ."),
    (labelme_in_exports, 4, "LabelMe"),
    (labelme_in_folders_of_exports, 4, "images: '*/images', masks: '*/annotations'"),
    (supervisely, 4, "images: '*/img', masks: '*/ann'\nmasks: set/ (4 files; format read from 4): Supervisely"),
    (supervisely_of_one_set, 4, "images: img, masks: ann"),
    (cvat_masks, 4, "train: ImageSets/Segmentation/default.txt, classes: labelmap.txt"),
    (roboflow_masks, 6, "mask_suffix: _mask, classes: train/_classes.csv"),
    (nnunet, 4, "image_suffix: _0000"),
    (nnunet_of_values, 4, "labels: {0: background, 1: car, 2: tree, 3: tree, 4: ignore}"),
    (photos_and_masks_in_one_folder, 4, "images: '*.jpg', masks: '*.png'"),
    (photos_and_masks_in_images, 4, "images: images/*.JPG, masks: images/*.png"),
    (photos_and_masks_in_folders, 8, "images: '*/*.[jJ][pP]*[gG]', masks: '*/*.png'"),
    (masks_with_an_ending, 4, "images: ., masks: ., mask_suffix: _Maske"),
    (two_folders, 4, "images: Fotos, masks: Klassen"),
    (cityscapes, 4, "masks left out: 4 files without _gtFine_labelTrainIds"),
    (mmsegmentation, 4, "images: img_dir, masks: ann_dir"),
    (images_and_masks_in_each_split, 4, "split: train, val = valid"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "count", "note"), READ, ids=[build.__name__ for build, *_ in READ])
def test_folders_of_tools_are_read(tmp_path: Path, build: Callable[[Path], None], count: int, note: str) -> None:
    root = tmp_path / "set"
    build(root)
    checked = check_folder(root)
    assert problems_of(checked).keys() <= {"classes without a pixel in train", "groups in two splits"}
    assert labels_of(checked) == times(count)
    assert note in "\n".join(checked.notes)
    # the proposed dataset.yaml reads the same
    assert checked.proposed_yaml is not None
    (root / "dataset.yaml").write_text(checked.proposed_yaml)
    again = check_folder(root)
    assert labels_of(again) == times(count)
    assert {role: len(counts) for role, counts in again.counts.items()} == {
        role: len(counts) for role, counts in checked.counts.items()
    }


def test_masks_below_the_folder_of_the_images(tmp_path: Path) -> None:
    for name in save_images(tmp_path):
        save_mask(tmp_path / "masks" / name)
    (tmp_path / "dataset.yaml").write_text("images: .\nclasses: [background, car, tree]")
    checked = check_folder(tmp_path)
    assert checked.trainable
    assert labels_of(checked) == times(4)


def test_labelme_without_size_is_drawn_on_the_upright_image(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[274] = 6  # stored 8×6, shown 6×8
    for name in save_images(tmp_path):
        picture = Image.open(tmp_path / name).copy()
        picture.save(tmp_path / name, exif=tags)
        bottom = {"label": "car", "shape_type": "rectangle", "points": [[0, 7], [6, 8]]}
        save_json(tmp_path / name.replace(".png", ".json"), {"shapes": [bottom], "imageHeight": None})
    checked = check_folder(tmp_path)
    assert checked.trainable
    assert labels_of(checked) == {"background": 4 * 42, "car": 4 * 6}


# Folders with faults: how the folder is made, the title of the problem, its severity, and a part of its text


def coco_broken(**changes: Any) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        names = save_images(root / "images")
        content = coco_of(names)
        save_json(root / "masks.json", content | {key: change(content[key]) for key, change in changes.items()})

    return build


def coco_of_one_of_two_folders(root: Path) -> None:
    for folder in ("a", "b"):
        names = save_images(root / "images" / folder, 4)
    save_json(root / "annotations" / "objects.json", coco_of(names))


def without_outlines(annotations: list[dict]) -> list[dict]:
    return [a | {"segmentation": [], "bbox": [1, 1, 4, 3]} for a in annotations[:1]] + annotations[1:]


def renumbered(images: list[dict]) -> list[dict]:
    return [images[0], images[1] | {"id": 0}, *images[2:]]


def renamed(images: list[dict]) -> list[dict]:
    return [images[0], images[1] | {"file_name": images[0]["file_name"]}, *images[2:]]


def with_a_wire(annotations: list[dict], **changes: Any) -> list[dict]:
    wire = {"id": 99, "image_id": 1, "category_id": 9, "segmentation": [[1.6, 0, 1.9, 0, 1.9, 5, 1.6, 5]]}
    return [a for a in annotations if a["category_id"] == 3] + [wire | changes]


def only_captions(root: Path) -> None:
    names = save_images(root / "images")
    save_json(root / "annotations" / "captions.json", coco_of(names, annotations=[{"image_id": 1, "caption": "a"}]))


def labelme_with(*shapes: dict, yaml: str = "", **changes: Any) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for name in save_images(root):
            save_json(root / name.replace(".png", ".json"), labelme_of(*shapes, **changes))
        if yaml:
            (root / "dataset.yaml").write_text(f"images: .\nmasks: .\n{yaml}\n")

    return build


def labelme_with_a_broken_file(root: Path) -> None:
    labelme_flat(root)
    (root / "000.json").write_text('{"shapes": [')


def json_of_nobody(root: Path) -> None:
    for name in save_images(root):
        save_json(root / name.replace(".png", ".json"), {"regions": [], "filename": name})


def two_folders_of_photos(root: Path) -> None:
    for folder in ("a", "b"):
        save_images(root / folder)


def nnunet_of_two_channels(root: Path) -> None:
    nnunet(root)
    save_image(root / "imagesTr" / "case0_0001.png")


def nnunet_of_regions(root: Path) -> None:
    nnunet(root)
    save_json(root / "dataset.json", {"labels": {"background": 0, "whole": [1, 2], "core": 2}})


def roboflow_of_two_tables(root: Path) -> None:
    roboflow_masks(root)
    (root / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, tree\n2, car\n")


CAR_SHAPE = {"label": "car", "points": CAR}
CRACK = {"label": "crack", "shape_type": "line", "points": [[0, 0], [8, 6]]}
DOT = {"label": "dot", "shape_type": "point", "points": [[7, 1]]}


def pictures_and_coco(root: Path) -> None:
    names = save_images(root / "images")
    save_json(root / "annotations" / "objects.json", coco_of(names))
    for name in names:
        save_mask(root / "annotations" / name)


def texts(folder: str, name: str, content: str) -> Callable[[Path], None]:
    """A text file of another format for each image."""

    def build(root: Path) -> None:
        for image in save_images(root / "images"):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / name.format(image.removesuffix(".png"))).write_text(content)

    return build


BROKEN: list[tuple[str, Callable[[Path], None], str, str, str]] = [
    ("box", coco_broken(annotations=without_outlines), NO_OUTLINE, "warning", "car: 1 in 1 image, e.g. 000"),
    ("only boxes", coco_broken(annotations=lambda all_: [without_outlines([a])[0] for a in all_]), NO_OUTLINE, "error",
     "car: 4 in 4 images"),
    ("thin", coco_broken(annotations=with_a_wire), NO_PIXEL, "warning", "tree: 1 in 1 image, e.g. 001"),
    ("two points", coco_broken(annotations=lambda a: with_a_wire(a, segmentation=[[1, 1, 5, 4]])), NO_PIXEL, "warning",
     "tree: 1 in 1 image"),
    ("outside", coco_broken(annotations=lambda a: with_a_wire(a, segmentation=[[9, 9, 12, 9, 12, 12]])), NO_PIXEL,
     "warning", "tree: 1"),
    ("one id, two images", coco_broken(images=renumbered), "COCO files that contradict themselves", "error",
     "the image id 0 is used for 000.png and 001.png"),
    ("one image, two ids", coco_broken(images=renamed), "images that are listed twice: their objects are joined",
     "warning", "masks.json: 000"),
    ("no such category", coco_broken(categories=lambda all_: all_[:1]), "COCO files that contradict themselves",
     "error", "4 annotations of the category 3, which has no name"),
    ("no such image", coco_broken(images=lambda all_: all_[1:]), "annotations of images that are not listed", "warning",
     "masks.json: 2 of image 0"),
    ("other size", coco_broken(images=lambda all_: [i | {"width": 9} for i in all_]), "sizes that differ", "error",
     "the image is 8×6, the mask 9×6"),
    ("far away", coco_broken(annotations=lambda a: with_a_wire(a, segmentation=[[0, 0, 1e9, 0, 5, 5]])),
     "masks that cannot be read", "error", "annotation 99 is invalid: a coordinate is not a number within ±100,000"),
    ("no images", coco_broken(images=lambda _: [{}]), "the folder cannot be read", "error",
     "not a COCO file of objects: images.0.id"),
    ("two folders", coco_of_one_of_two_folders, "the folder cannot be read", "error",
     "objects.json: 000.png may be a/000, b/000"),
    ("captions", only_captions, "the folder cannot be read", "error", "captions.json (captions)"),
    ("line", labelme_with(CAR_SHAPE, CRACK, DOT), NO_WIDTH, "error", "crack: 4 in 4 images"),
    ("line with answer", labelme_with(CAR_SHAPE, CRACK, DOT), NO_WIDTH, "error",
     "line_width: 3; or, to leave them out: ignore: [crack, dot]"),
    ("unknown shape", labelme_with(CAR_SHAPE | {"shape_type": "cube"}), "masks that cannot be read", "error",
     "the cube 'car': the shape 'cube' is not known"),
    ("no points", labelme_with({"label": "car"}), "masks that cannot be read", "error", "'points' is missing"),
    ("mask without place", labelme_with({"label": "car", "shape_type": "mask", "points": []}),
     "masks that cannot be read", "error", "the mask 'car': list index out of range"),
    ("broken mask", labelme_with({"label": "car", "shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "AAAA"}),
     "masks that cannot be read", "error", "its bitmap cannot be read"),
    ("broken file", labelme_with_a_broken_file, "masks that cannot be read", "error", "000.json cannot be read"),
    ("other JSON", json_of_nobody, "the folder cannot be read", "error", "unknown: the keys regions, filename"),
    ("pictures and COCO", pictures_and_coco, "the folder cannot be read", "error",
     "masks: annotations/*.png or masks: annotations/*.json"),
    ("YOLO", texts("labels", "{}.txt", "0 0.1 0.1 0.5 0.1 0.5 1e-1\n"), "the folder cannot be read", "error",
     "000.txt holds outlines of YOLO, which are not read\\n  → import them into CVAT or Roboflow"),
    ("YOLO beside", texts("images", "{}.txt", "1 0.5 0.5 0.2 0.2\n"), "the folder cannot be read", "error",
     "000.txt holds boxes of YOLO, which are not read\\n  → boxes are no masks"),
    ("CVAT", texts(".", "annotations.xml", "<?xml version='1.0'?>\n<annotations>\n<version>1.1</version>"),
     "the folder cannot be read", "error", "annotations.xml holds CVAT for images, which are not read\\n  → export"),
    ("VOC boxes", texts("annotations", "{}.xml", "<annotation><folder/></annotation>"), "the folder cannot be read",
     "error", "000.xml holds boxes of PASCAL VOC"),
    ("no annotations", texts("labels", "{}.txt", "a photo\n"), "the folder cannot be read", "error", "found: 4 .txt"),
    ("two folders of photos", two_folders_of_photos, "the folder cannot be read", "error",
     "dataset.yaml: images: FOLDER and masks: FOLDER"),
    ("regions", nnunet_of_regions, "the folder cannot be read", "error",
     "whole = [1, 2], core = 2\\n  → name the class of each value in dataset.yaml: classes: {0: NAME, 1: NAME, "),
    ("two channels", nnunet_of_two_channels, "the folder cannot be read", "error", "case0_0001.png"),
    ("two tables", roboflow_of_two_tables, "the folder cannot be read", "error",
     "train/_classes.csv and valid/_classes.csv differ"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "title", "severity", "text"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN]
)
def test_faults_are_said(tmp_path: Path, build: Callable[[Path], None], title: str, severity: str, text: str) -> None:
    build(tmp_path)
    checked = check_folder(tmp_path)
    found = {problem.title: problem for problem in checked.problems}
    assert title in found, [str(problem) for problem in checked.problems]
    assert found[title].severity == severity
    assert text in f"{found[title].items}\n{found[title].advice}".replace("\\'", "'")


@pytest.mark.parametrize("build", [nnunet_of_regions, roboflow_of_two_tables])
def test_classes_in_dataset_yaml_replace_those_of_the_tool(tmp_path: Path, build: Callable[[Path], None]) -> None:
    build(tmp_path)
    (tmp_path / "dataset.yaml").write_text("classes: [background, car, tree]")
    assert check_folder(tmp_path).trainable


@pytest.mark.parametrize("pattern", ["annotations/*.png", "annotations/*.json", "annotations/objects.json"])
def test_a_pattern_chooses_between_pictures_and_annotations(tmp_path: Path, pattern: str) -> None:
    pictures_and_coco(tmp_path)
    (tmp_path / "dataset.yaml").write_text(f"masks: {pattern}\nclasses: [background, car, tree]")
    assert labels_of(check_folder(tmp_path)) == times(4)


def test_files_without_the_ending_are_left_out_and_counted(tmp_path: Path) -> None:
    nnunet(tmp_path)
    save_image(tmp_path / "imagesTr" / "thumb.png")
    checked = check_folder(tmp_path)
    assert "images left out: 1 file without _0000 (thumb.png)" in checked.notes
    assert labels_of(checked) == times(4)


def changed(content: Any, rng: random.Random) -> Any:
    """The content with one value that is missing or nonsense, wherever it is."""
    content = json.loads(json.dumps(content))
    places, stack = [], [content]
    while stack:
        node = stack.pop()
        inner = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in inner]
        stack += [node[key] for key in inner]
    node, key = rng.choice(places)
    node[key] = rng.choice([None, "x", -1, 1e300, float("nan"), 10**12, [], {}, [[]], [None], {"a": 1}, "../.."])
    return content


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (coco_broken(), "masks.json"),
        (coco_in_two_files, "annotations/instances_train2017.json"),
        (labelme_flat, "001.json"),
        (supervisely, "ds0/ann/000.png.json"),
        (nnunet, "dataset.json"),
    ],
    ids=["COCO", "COCO in two files", "LabelMe", "Supervisely", "nnU-Net"],
)
def test_nonsense_in_a_file_never_ends_in_a_traceback(tmp_path: Path, build: Callable[[Path], None], name: str) -> None:
    build(tmp_path)
    content = json.loads((tmp_path / name).read_text())
    rng = random.Random(0)
    for _ in range(15):
        (tmp_path / name).write_text(json.dumps(changed(content, rng)))
        check_folder(tmp_path)


def test_a_label_without_a_pixel_stays_a_class(tmp_path: Path) -> None:
    coco_broken(annotations=with_a_wire)(tmp_path)
    assert labels_of(check_folder(tmp_path)) == {"background": 4 * 48 - 48, "car": 48, "tree": 0}
    other = tmp_path / "labelme"
    labelme_with(CAR_SHAPE, {"label": "wire", "points": [[1.6, 0], [1.9, 0], [1.9, 5]]})(other)
    assert labels_of(check_folder(other)) == {"background": 144, "car": 48, "wire": 0}
    data = Folder(str(other), size=(HEIGHT, WIDTH), batch_size=2, cache_dir=str(tmp_path / "arrays"))
    data.setup()
    assert data.classes == ["background", "car", "wire"]
    assert f"{NO_PIXEL} (1): wire: 4 in 4 images, e.g. 000" in data.notes


@pytest.mark.parametrize(
    ("yaml", "labels"),
    [
        ("line_width: 2", {"background": 4 * 48 - 48 - 64, "car": 48, "wall": 64}),
        ("ignore: [wall]", {"background": 144, "car": 48}),
        ("labels: {wall: ignore}", {"background": 144, "car": 48}),
    ],
)
def test_lines_have_the_width_of_dataset_yaml(tmp_path: Path, yaml: str, labels: dict[str, int]) -> None:
    wall = {"label": "wall", "shape_type": "linestrip", "points": [[0, 5], [4, 5], [8, 5]]}  # 2 rows of 8, partly
    labelme_with(CAR_SHAPE, wall, yaml=yaml)(tmp_path)
    checked = check_folder(tmp_path)
    assert labels_of(checked) == labels
    assert NO_WIDTH not in problems_of(checked)


def test_outlines_of_two_points_get_the_width_too(tmp_path: Path) -> None:
    coco_broken(annotations=lambda a: with_a_wire(a, segmentation=[[5, 5.5, 8, 5.5]]))(tmp_path)
    (tmp_path / "dataset.yaml").write_text("line_width: 1")
    assert labels_of(check_folder(tmp_path)) == {"background": 4 * 36 - 4, "car": 48, "tree": 4}  # its ends are round


def test_a_file_of_key_points_alone_is_used_for_its_outlines(tmp_path: Path) -> None:
    coco_in_two_files(tmp_path)
    for path in (tmp_path / "annotations").glob("instances_*.json"):
        path.unlink()
    assert labels_of(check_folder(tmp_path)) == times(8)


def test_the_proposed_description_draws_lines(tmp_path: Path) -> None:
    labelme_with(CAR_SHAPE, CRACK)(tmp_path)
    (tmp_path / "dataset.yaml").write_text(check_folder(tmp_path).proposed_yaml or "")
    assert "line_width: 3" in (tmp_path / "dataset.yaml").read_text()
    assert labels_of(check_folder(tmp_path))["crack"] > 0


def test_the_width_is_part_of_the_cache(tmp_path: Path) -> None:
    classes = []
    for width in (1, 3):
        labelme_with(CAR_SHAPE, CRACK, yaml=f"line_width: {width}")(tmp_path)
        data = Folder(str(tmp_path), size=(HEIGHT, WIDTH), batch_size=2, cache_dir=str(tmp_path / ".arrays"))
        data.setup()
        classes.append(int(data.roles["fit"].pixels[:, 2].sum()))
    assert classes[0] < classes[1]


# Against pycocotools


def test_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    from pycocotools import mask as run_lengths
    from pycocotools.coco import COCO

    rng, size = np.random.default_rng(0), (40, 50)
    random = np.asfortranarray(rng.random(size) < 0.5, np.uint8)
    compressed = run_lengths.encode(random)
    columns = random.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], columns]))).tolist()
    runs = np.diff([0, *changes, columns.size]).tolist()
    outlines: list[Any] = [[rng.uniform(-5, 55, 2 * n).tolist()] for n in (3, 4, 7, 12)]
    outlines += [[rng.uniform(0, 40, 8).tolist(), rng.uniform(0, 40, 6).tolist()]]
    outlines += [{"size": size, "counts": compressed["counts"].decode()}, {"size": size, "counts": runs}]
    file = tmp_path / "objects.json"
    for outline in outlines:
        annotation = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": outline, "iscrowd": 0}
        image = {"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}
        content = {"images": [image], "categories": [{"id": 3, "name": "car"}], "annotations": [annotation]}
        save_json(file, content)
        with contextlib.redirect_stdout(io.StringIO()):
            expected = COCO(str(file)).annToMask(annotation)
        drawn = read_objects(Sample("a"), [(read_coco(file), 7)])
        np.testing.assert_array_equal(drawn.indices, expected)
        assert drawn.indices.any()


# LabelMe by hand


def grid(drawn: IndexedMask) -> str:
    """The first letter of each label, · for background."""
    letters = np.array(["·" if key == "background" else key[0] for key in drawn.keys])
    return " ".join("".join(row) for row in letters[drawn.indices])


def encoded(rows: list[list[int]]) -> str:
    file = io.BytesIO()
    Image.fromarray(np.array(rows, np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([{"label": "m", "shape_type": "mask", "points": [[1, 0], [3, 1]], "mask": encoded([[1, 0, 1], [0, 1, 0]])}],
         "·m·m· ··m·· ·····"),
        ([{"label": "m", "shape_type": "mask", "points": [[3, 1], [6, 4]], "mask": encoded([[1] * 4] * 4)}],
         "····· ···mm ···mm"),
        ([{"label": "p", "points": [[-9, -9], [2, -9], [2, 99], [-9, 99]]}], "pp··· pp··· pp···"),
        ([{"label": "t", "points": [[0, 0], [3, 0], [0, 3]]}], "tt··· t···· ·····"),  # centres on the edge are outside
        ([{"label": "big", "points": [[0, 0], [5, 0], [5, 3], [0, 3]]},
          {"label": "_background_", "shape_type": "rectangle", "points": [[1, 1], [4, 2]]}], "bbbbb b···b bbbbb"),
        ([{"label": "r", "shape_type": "rotation", "points": [[2, 0], [4, 0], [4, 2], [2, 2]]}], "··rr· ··rr· ·····"),
        ([{"label": "__ignore__", "shape_type": "rectangle", "points": [[4, 3], [5, 0]]}], "····_ ····_ ····_"),
        ([{"label": "c", "shape_type": "circle", "points": [[2.5, 1.5], [2.5, 2.6]]}], "··c·· ·ccc· ··c··"),
        ([{"label": "l", "shape_type": "line", "points": [[0, 1.5], [9, 1.5]]},
          {"label": "p", "shape_type": "point", "points": [[1, 1]]}], "····· lplll ·····"),
    ],
)  # fmt: skip
def test_labelme_by_hand(tmp_path: Path, shapes: list[dict], expected: str) -> None:
    path = tmp_path / "a.json"
    save_json(path, {"imageHeight": 3, "imageWidth": 5, "shapes": shapes})
    assert grid(read_labelme(Sample("a", mask=path), line_width=1)) == expected


def test_what_labelme_ignores_is_void(tmp_path: Path) -> None:
    void = {"label": "__ignore__", "shape_type": "rectangle", "points": [[0, 0], [8, 1]]}
    labelme_with(CAR_SHAPE, void)(tmp_path)
    checked = check_folder(tmp_path)
    assert labels_of(checked) == {"background": 4 * (48 - 12 - 8), "car": 48}
    assert any(note.startswith("ignored: __ignore__, in 4 of 4 masks") for note in checked.notes)


def test_coco_ids_may_be_text_in_one_place_and_numbers_in_another(tmp_path: Path) -> None:
    content = coco_of(save_images(tmp_path / "images"))
    for each in content["annotations"]:
        each["image_id"], each["category_id"] = str(each["image_id"]), str(each["category_id"])
    save_json(tmp_path / "masks.json", content)
    assert labels_of(check_folder(tmp_path)) == times(4)


def test_blanks_around_labels_are_no_part_of_them(tmp_path: Path) -> None:
    for i, name in enumerate(save_images(tmp_path / "flat")):
        shapes = [{"label": "car" + " " * (i % 2), "points": CAR}, {"label": "tree", "points": TREE}]
        save_json(tmp_path / "flat" / name.replace(".png", ".json"), labelme_of(*shapes))
    checked = check_folder(tmp_path / "flat")
    assert labels_of(checked) == times(4)
    (tmp_path / "flat" / "dataset.yaml").write_text(str(checked.proposed_yaml))
    assert labels_of(check_folder(tmp_path / "flat")) == times(4)
    content = coco_of(
        save_images(tmp_path / "coco" / "images"), categories=[{"id": 9, "name": " tree"}, {"id": 3, "name": "car "}]
    )
    save_json(tmp_path / "coco" / "masks.json", content)
    assert labels_of(check_folder(tmp_path / "coco")) == times(4)


def test_annotations_without_an_image_of_their_name_are_named(tmp_path: Path) -> None:
    for name in save_images(tmp_path):
        save_json(tmp_path / f"label_{name}".replace(".png", ".json"), labelme_of())
    assert "masks without image: label_000, label_001" in str(check_folder(tmp_path).problems[0])


def test_json_files_of_another_tool_are_named(tmp_path: Path) -> None:
    save_images(tmp_path / "images")
    save_json(tmp_path / "via_region_data.json", {"000.png123": {"filename": "000.png", "regions": []}})
    report = "".join(map(str, check_folder(tmp_path).problems))
    assert "via_region_data.json: unknown: the keys 000.png123" in report

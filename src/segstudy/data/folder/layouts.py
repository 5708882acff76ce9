"""Recognises the folders of other tools: each layout is said with the keys of dataset.yaml."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segstudy.data.folder.coco import is_coco
from segstudy.data.folder.files import files_below, shared_name, stands_for
from segstudy.data.folder.labelme import is_labelme
from segstudy.data.folder.names import IMAGES, SPLIT_WORDS
from segstudy.data.folder.problems import ask_which
from segstudy.data.folder.supervisely import is_supervisely
from segstudy.data.images import open_picture
from segstudy.data.text import read_json, read_text
from segstudy.errors import DataError

Keys = dict[str, Any]
PLAIN = (".png", ".bmp", ".tif", ".tiff", ".gif")  # suffixes of pictures that may be masks: JPEG changes values
CLASS_TABLES = ("labelmap.txt", "_classes.csv")
MASK_PLACES = ("masks", "labels", "annotations", "masks.json", "annotations.json")
"""Where masks are searched by default, in this order."""


FOLDERS: list[tuple[str, Keys]] = [
    ("PASCAL VOC", {"images": "JPEGImages", "masks": "SegmentationClassPNG"}),  # of labelme2voc
    ("PASCAL VOC", {"images": "JPEGImages", "masks": "SegmentationClass"}),
    *(("Cityscapes", {"images": "leftImg8bit", "masks": "gtFine", "image_suffix": "_leftImg8bit",
                      "mask_suffix": f"_gtFine_{ids}"}) for ids in ("labelTrainIds", "labelIds")),
    ("nnU-Net", {"images": "imagesTr", "masks": "labelsTr", "image_suffix": "_0000"}),
]  # fmt: skip
"""Layouts that are known by the names of their folders, and by the ending of the masks."""


FORMS: dict[str, Callable[[Any], bool]] = {"LabelMe": is_labelme, "Supervisely": is_supervisely, "COCO": is_coco}
Folders = dict[Path, list[Path]]
SPLIT = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_WORDS)})(?=annot|[^a-z]|$)", re.IGNORECASE)
ENDING = re.compile(r"[ ._-][A-Za-z][A-Za-z0-9]*$")  # the end of a name that may say what the file is, such as _mask
READ = (*IMAGES, *PLAIN, ".json")
MAX_SIDES = 30
MIN_EVENNESS = 0.6


@dataclass(frozen=True)
class Layout:
    """The layout of a tool. keys: those of dataset.yaml that read it; what the user gives comes first."""

    tool: str
    keys: Keys


def find_layout(root: Path, with_classes: bool) -> Layout | None:
    """The layout of a folder; None if it is unknown, or has `images` and one of `MASK_PLACES` with equal names.

    with_classes: whether the tool's own list of classes is wanted. Raises DataError if it is unclear.
    """
    folders: Folders = defaultdict(list)
    for path in files_below(root, (*READ, ".txt", ".csv")):
        folders[path.parent].append(path)
    home = "images" if (root / "images").exists() else ""
    layout = None if home else _by_folders(root)
    kinds = [{path.suffix.lower() for path in paths} for paths in folders.values()]
    if not home and not layout and any(".json" in each and not each.isdisjoint(IMAGES) for each in kinds):
        layout = Layout("annotations beside the images", {"images": ".", "masks": "."})  # as LabelMe writes them
    below = [] if home or layout else [path for path in [*root.glob("*/"), *root.glob("*/*/")] if _by_folders(path)]
    if len(below) == 1:
        raise DataError(f"{root} holds a known layout in a folder below\n  → use {below[0]} instead (data.root)")
    layout = layout or _paired(root, folders, home)
    places = [] if home or layout else [p for p in MASK_PLACES if (root / p).exists()]
    if places and any(files_below(root / places[0], (".json",))):  # of COCO: train2017, val2017 and annotations
        layout = Layout("annotations of images in other folders", {"images": ".", "masks": places[0]})
    if layout and with_classes:
        layout.keys.update((_nnunet_classes(root) if layout.tool == "nnU-Net" else {}) or _class_table(root, folders))
    return None if layout and layout.keys in [{"masks": place} for place in MASK_PLACES] else layout


def _class_table(root: Path, folders: Folders) -> Keys:
    """The table of classes of CVAT, or that Roboflow writes into each sub-folder. Raises DataError if they differ."""
    files = [path for paths in folders.values() for path in paths if path.name in CLASS_TABLES]
    tables = {path.relative_to(root).as_posix(): read_text(path) for path in files}
    if len(set(tables.values())) > 1:
        raise DataError(f"{root}: {' and '.join(tables)} differ\n  → name the right one in dataset.yaml: classes: FILE")
    return {"classes": next(iter(tables))} if tables else {}


def _by_folders(root: Path) -> Layout | None:
    for tool, keys in FOLDERS:
        images, masks, ending = root / keys["images"], root / keys["masks"], keys.get("mask_suffix")
        if images.is_dir() and masks.is_dir() and (not ending or any(masks.rglob(f"*{ending}.*"))):
            if several := sorted(p.name for p in images.glob("*_0001.*") if tool == "nnU-Net"):
                raise DataError(
                    f"{images} holds images of several files, one for each channel, such as {several[0]}\n"
                    "  → save each image as one file with all channels (TIFF or .npy), and set data.channels"
                )
            return Layout(tool, keys | (_voc_lists(root) if tool == "PASCAL VOC" else {}))
    return None


def _voc_lists(root: Path) -> Keys:
    """The lists of VOC. CVAT writes default.txt, a list of the images that are finished."""
    names = {"default": "train", "train": "train", "val": "val", "test": "test"}
    lists = ((role, f"ImageSets/Segmentation/{name}.txt") for name, role in names.items())
    return {role: path for role, path in lists if (root / path).is_file()}


def _nnunet_classes(root: Path) -> Keys:
    """The labels in dataset.json: {name: value or values}, or {value: name} in nnU-Net's first version.

    Raises DataError for other labels, and for regions that overlap.
    """
    file = root / "dataset.json"
    content = read_json(file) if file.is_file() else {}
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        return {}
    if all(map(str.isdecimal, labels)):
        labels = {str(name): int(value) for value, name in labels.items()}
    pairs = [(n, v) for n, values in labels.items() for v in (values if isinstance(values, list) else [values])]
    values = [value for _, value in pairs if isinstance(value, int)]
    if len({*values}) < len(pairs):
        shown = ", ".join(f"{name} = {value}" for name, value in labels.items())
        classes = ", ".join(f"{value}: NAME" for value in sorted({*values}))
        raise DataError(
            f"the labels in {file} are not one class for each value, such as regions that overlap: {shown}\n"
            f"  → name the class of each value in dataset.yaml: classes: {{{classes or '0: NAME, 1: NAME'}}}"
        )
    named = {value: name for name, value in pairs}
    if len(named) > len(labels):
        return {"labels": named}  # in which "ignore" means 255
    return {"classes": named} | ({"ignore": ["ignore"]} if "ignore" in labels else {})


class Side(NamedTuple):
    """Files that may be the images, or the masks: a path for dataset.yaml, the end of their names, and {name: file}."""

    pattern: str
    ending: str
    files: dict[str, Path]


WAYS: list[Callable[[list[str]], list[str]]] = [
    lambda parts: parts[:1],  # with all folders below
    lambda parts: parts,
    lambda parts: ["*"] * (len(parts) - 1) + parts[-1:],
    lambda parts: ["*"] * len(parts),
    lambda parts: [],
]
"""How a path for dataset.yaml is made of the parts of a folder, in which the name of a split is * already."""


def _paired(root: Path, folders: Folders, home: str) -> Layout | None:
    """Images and masks, or annotations, with equal names but for an ending: train_images and train_masks, a and a_mask.

    home: where the images must be. Raises DataError if several files may be the masks.
    """
    choices: list[Keys] = []
    for with_ending, way in product((False, True), WAYS):
        sides = _sides(root, folders, way, with_ending)
        pairs = [(a, b) for a in sides for b in sides if a.pattern.startswith(home) and _fit(a, b)]
        masks = [b for _, b in pairs]
        choices = [_keys(a, b) for a, b in pairs if a not in masks] or choices
        if len({choice.get("images") for choice in choices}) == 1 or (choices and way is WAYS[-1]):
            break
    if len(choices) > 1:
        ask_which(root, choices)
    return Layout("images and masks of equal names", choices[0]) if choices else None


def _sides(root: Path, folders: Folders, way: Callable[[list[str]], list[str]], with_ending: bool) -> list[Side]:
    """with_ending: also the files of one folder that have an ending or a suffix in common."""
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for folder, paths in folders.items():
        parts = folder.relative_to(root).parts
        chosen = way([SPLIT.sub("*", part) for part in parts])
        there = [stands_for(part, pattern) for part, pattern in zip(parts, chosen, strict=False) if "*" in pattern]
        prefix, used = "/".join([*there, *parts[len(chosen) :], ""]), [p for p in paths if p.suffix.lower() in READ]
        found["/".join(chosen) or "."] += [(prefix + shared_name(path.name), path) for path in used]
    if len(found) > MAX_SIDES:  # folders that are named after images
        return []
    sides = [Side(place, "", dict(files)) for place, files in found.items() if 4 * len(dict(files)) > 3 * len(files)]
    for pattern, files in found.items() if with_ending else ():
        endings = Counter(match[0] for name, _ in files if (match := ENDING.search(name)))
        for ending in (ending for ending, number in endings.items() if number > 1 and 3 * number >= len(files)):
            own = {name.removesuffix(ending): path for name, path in files if name.endswith(ending)}
            sides.append(Side(pattern, ending, own))
        jpeg = {path.suffix for _, path in files if path.suffix.lower() in (".jpg", ".jpeg")}
        for ends in [jpeg, *({suffix} for suffix in {path.suffix for _, path in files} - jpeg)]:
            ending = "".join(ends) if len(ends) == 1 else ".[jJ][pP]*[gG]"
            own = {name: path for name, path in files if path.suffix in ends}
            if 0 < len(own) < len(files) and all("/" not in name or "*" in pattern for name in own):
                sides.append(Side(f"{pattern}/*{ending}".removeprefix("./"), "", own))
    return sides


def _fit(images: Side, masks: Side) -> bool:
    """Whether most masks have the names of images, and look like masks, the images less so."""
    common = sorted(images.files.keys() & masks.files.keys())
    if images == masks or 2 * len(common) < len(masks.files) or 20 * len(common) < len(images.files):
        return False
    if images.pattern == "images" and masks.pattern in MASK_PLACES:
        return True
    looks = [(_evenness(images.files[name]), _evenness(masks.files[name])) for name in common[:: len(common) // 3 + 1]]
    of_images, of_masks = (sorted(each)[len(looks) // 2] for each in zip(*looks, strict=True))
    return images.files[common[0]].suffix != ".json" and of_masks > max(MIN_EVENNESS, of_images)


def _keys(images: Side, masks: Side) -> Keys:
    paths = [images.pattern, masks.pattern]
    while all(path.rpartition("/")[2] == "*" for path in paths):
        paths = [path.rpartition("/")[0] or "." for path in paths]
    keys = {"images": paths[0], "masks": paths[1], "image_suffix": images.ending, "mask_suffix": masks.ending}
    return {key: value for key, value in keys.items() if value and (key, value) != ("images", "images")}


def _evenness(path: Path) -> float:
    """The share of a picture's pixels that equal the pixel above; 1 for annotations, 0 for other files."""
    if path.suffix.lower() == ".json":
        return float(form_of(path) in FORMS)
    try:
        values = np.asarray(open_picture(path))
    except DataError:
        return 0
    return float((values[1:] == values[:-1]).mean())


def form_of(path: Path) -> str | None:
    """The tool that a JSON file has the form of; "" if none is known, None if it cannot be read."""
    with suppress(DataError):
        content = read_json(path)
        return next((tool for tool, has_form in FORMS.items() if has_form(content)), "")
    return None

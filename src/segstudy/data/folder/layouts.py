"""Recognises the folders of other tools: each layout is said with the keys of dataset.yaml."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.folder.names import IMAGES, SPLIT_WORDS
from segstudy.data.images import open_picture
from segstudy.data.text import read_json, read_text
from segstudy.errors import DataError

Keys = dict[str, Any]

PLAIN = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Suffixes of pictures that may be masks: JPEG changes values."""

MASK_PLACES = ("masks", "labels", "annotations", "masks.json", "annotations.json")
"""Where masks are searched by default, in this order."""


FOLDERS: list[tuple[str, Keys]] = [
    ("PASCAL VOC", {"images": "JPEGImages", "masks": "SegmentationClassPNG"}),  # of labelme2voc
    ("PASCAL VOC", {"images": "JPEGImages", "masks": "SegmentationClass"}),
    ("mmsegmentation", {"images": "img_dir", "masks": "ann_dir"}),
    ("Cityscapes", {"images": "leftImg8bit", "masks": "gtFine", "image_suffix": "_leftImg8bit",
                    "mask_suffix": "_gtFine_labelTrainIds"}),
    ("Cityscapes", {"images": "leftImg8bit", "masks": "gtFine", "image_suffix": "_leftImg8bit",
                    "mask_suffix": "_gtFine_labelIds"}),
    ("nnU-Net", {"images": "imagesTr", "masks": "labelsTr", "image_suffix": "_0000"}),
]  # fmt: skip
"""Layouts that are known by the names of their folders, and by the ending of the masks."""


@dataclass(frozen=True)
class Layout:
    """The layout of a tool. keys: those of dataset.yaml that read it; what the user gives comes first."""

    tool: str
    keys: Keys


def find_layout(root: Path, with_classes: bool) -> Layout | None:
    """The layout of a folder; None if it has `images` of one kind, or is unknown.

    with_classes: whether the tool's own list of classes is wanted. Raises DataError if it cannot be used.
    """
    layouts = (
        _by_folders, _supervisely, _parts, _annotations_beside, _masks_beside, _two_folders, _in_one_folder
    )  # fmt: skip
    known = layouts[-1:] if (root / "images").exists() else layouts
    layout = next(filter(None, (find(root) for find in known)), None)
    if layout and with_classes and layout.tool in CLASSES:
        layout.keys.update(CLASSES[layout.tool](root))
    return layout


def _by_folders(root: Path) -> Layout | None:
    for tool, keys in FOLDERS:
        images, masks, ending = root / keys["images"], root / keys["masks"], keys.get("mask_suffix")
        if images.is_dir() and masks.is_dir() and (not ending or any(_below(masks, f"*{ending}.*"))):
            if several := sorted(p.name for p in images.glob("*_0001.*") if tool == "nnU-Net"):
                raise DataError(
                    f"{images} holds images of several files, one for each channel, such as {several[0]}\n"
                    "  → save each image as one file with all channels (TIFF or .npy), and set data.channels"
                )
            return Layout(tool, keys | (_voc_lists(root) if tool == "PASCAL VOC" else {}))
    return None


def _voc_lists(root: Path) -> Keys:
    """The lists of VOC. CVAT writes default.txt, a list of the images that are finished."""
    lists = Path("ImageSets/Segmentation")
    found = {path.stem: f"{lists}/{path.name}" for path in (root / lists).glob("*.txt")}
    keys = {role: found[role] for role in ("train", "val", "test") if role in found}
    return ({"train": found["default"]} if "default" in found else {}) | keys


def _voc_classes(root: Path) -> Keys:
    name = next((name for name in ("labelmap.txt", "class_names.txt") if (root / name).is_file()), None)
    if name is None:
        return {}
    labelme2voc = read_text(root / name).splitlines()[:1] == ["_background_"]
    return {"classes": name} | ({"background": "_background_"} if labelme2voc else {})


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


def _supervisely(root: Path) -> Layout | None:
    for prefix in ("", "*/"):  # a data set, or a project of several
        if any((path.parent / "img").is_dir() for path in root.glob(f"{prefix}ann")):
            return Layout("Supervisely", {"images": f"{prefix}img", "masks": f"{prefix}ann"})
    return None


def _parts(root: Path) -> Layout | None:
    """Sub-folders, such as train and val, that have images and masks each."""
    for masks in ("masks", "labels", "annotations"):
        if any((path / masks).is_dir() for path in root.glob("*") if (path / "images").is_dir()):
            keys = {"images": "*/images", "masks": f"*/{masks}"}
            return Layout("images and masks in each sub-folder", keys | _roles(root))
    return None


def _annotations_beside(root: Path) -> Layout | None:
    """Annotations beside the images, as LabelMe writes them."""
    if any(other.suffix.lower() in IMAGES for path in _below(root, "*.json") for other in path.parent.iterdir()):
        return Layout("annotations beside the images", {"images": ".", "masks": "."})
    return None


def _masks_beside(root: Path) -> Layout | None:
    """Masks beside the images, with an ending of their own, such as a.jpg and a_mask.png."""
    names = {path.with_suffix("").as_posix() for path in _below(root, "*.*") if path.suffix.lower() in IMAGES}
    endings: dict[str, list[Path]] = defaultdict(list)
    for path in _below(root, "*.*"):
        name = path.with_suffix("").as_posix()
        ends = [name[-len(path.stem) + match.start() :] for match in re.finditer(r"[ ._-]", path.stem)]
        if path.suffix.lower() in PLAIN and (own := [end for end in ends if name.removesuffix(end) in names]):
            endings[own[-1]].append(path)
    ending, masks = max(endings.items(), key=lambda item: len(item[1]), default=("", []))
    if 3 * len(masks) <= len(names) or not _looks_like_mask(masks[0]):
        return None
    return Layout("masks beside the images", {"images": ".", "masks": ".", "mask_suffix": ending} | _roles(root))


def _two_folders(root: Path) -> Layout | None:
    """Images in one folder, and masks of the same names in another one."""
    pictures = {
        p.name: [f for f in _below(p, "*.*") if f.suffix.lower() in IMAGES] for p in root.iterdir() if p.is_dir()
    }
    looks = {name: _looks_like_mask(files[0]) for name, files in pictures.items() if files}
    if sorted(looks.values()) != [False, True]:
        return None
    images, masks = sorted(looks, key=lambda name: looks[name])
    same = {path.stem for path in pictures[images]} & {path.stem for path in pictures[masks]}
    return Layout("a folder of images and one of masks", {"images": images, "masks": masks}) if same else None


def _looks_like_mask(path: Path) -> bool:
    """Whether most pixels of a picture equal the pixel above."""
    try:
        values = np.asarray(open_picture(path))
    except DataError:
        return False
    return bool((values[1:] == values[:-1]).mean() > 0.6)


def _roboflow_classes(root: Path) -> Keys:
    """The table of classes that Roboflow writes into each sub-folder. Raises DataError if they differ."""
    tables = {path.relative_to(root).as_posix(): read_text(path) for path in _below(root, "_classes.csv")}
    if len(set(tables.values())) > 1:
        raise DataError(f"{root}: {' and '.join(tables)} differ\n  → name the right one in dataset.yaml: classes: FILE")
    return {"classes": next(iter(tables))} if tables else {}


def _in_one_folder(root: Path) -> Layout | None:
    """Photos (JPEG) and masks of the same names, but of another kind, in the same folder: a.jpg, a.png."""
    if any((root / place).exists() for place in MASK_PLACES):
        return None
    for place in ("images/", "images/*/") if (root / "images").exists() else ("", "*/"):
        photos = [p for p in root.glob(f"{place}*") if p.suffix.lower() in (".jpg", ".jpeg")]
        names = {photo.with_suffix("") for photo in photos}
        for suffix in PLAIN:
            masks = [path for path in sorted(root.glob(f"{place}*{suffix}")) if path.with_suffix("") in names]
            if masks and _looks_like_mask(masks[0]):
                endings = {photo.suffix for photo in photos}
                ending = endings.pop() if len(endings) == 1 else ".[jJ][pP]*[gG]"
                keys: Keys = {"images": f"{place}*{ending}", "masks": f"{place}*{suffix}"}
                return Layout("photos and masks in one folder", keys | (_roles(root) if place == "*/" else {}))
    return None


def _roles(root: Path) -> Keys:
    """Sub-folders with the names of splits; `valid` is not recognised by its own name."""
    found = {role: name for name, role in SPLIT_WORDS.items() if (root / name).is_dir()}
    return found if "train" in found and len(found) > 1 else {}


def _below(root: Path, pattern: str) -> Iterator[Path]:
    """The files of this pattern that are not hidden."""
    found = ((path, path.relative_to(root).parts) for path in sorted(root.rglob(pattern)))
    return (path for path, parts in found if not any(part.startswith(".") for part in parts))


CLASSES = {"PASCAL VOC": _voc_classes, "nnU-Net": _nnunet_classes, "masks beside the images": _roboflow_classes}

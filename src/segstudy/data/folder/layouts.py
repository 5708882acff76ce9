"""Recognises the folders of other tools: each layout is said with the keys of dataset.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segstudy.data.folder.files import is_hidden
from segstudy.data.folder.names import IMAGES, SPLIT_WORDS
from segstudy.data.folder.text import read_json, read_text
from segstudy.errors import DataError

Keys = dict[str, Any]

MASK_PLACES = ("masks", "labels", "annotations", "masks.json", "annotations.json")
"""Where masks are searched by default, in this order."""


@dataclass(frozen=True)
class Layout:
    """The layout of a tool. keys: those of dataset.yaml that read it; what the user gives comes first."""

    tool: str
    keys: Keys


def find_layout(root: Path, with_classes: bool) -> Layout | None:
    """The layout of a folder; None if it has `images` of one kind, or is unknown.

    with_classes: whether the tool's own list of classes is wanted. Raises DataError if it cannot be used.
    """
    layouts = (_voc, _mmsegmentation, _cityscapes, _nnunet, _supervisely, _parts, _beside, _in_one_folder)
    known = layouts[-1:] if (root / "images").exists() else layouts
    layout = next(filter(None, (find(root) for find in known)), None)
    if layout and with_classes and layout.tool in CLASSES:
        layout.keys.update(CLASSES[layout.tool](root))
    return layout


def _voc(root: Path) -> Layout | None:
    """PASCAL VOC, as CVAT and labelme2voc write it too."""
    masks = next((n for n in ("SegmentationClassPNG", "SegmentationClass") if (root / n).is_dir()), None)
    if not masks or not (root / "JPEGImages").is_dir():
        return None
    lists = Path("ImageSets/Segmentation")
    keys: Keys = {"images": "JPEGImages", "masks": masks}
    keys |= {
        role: f"{lists}/{role}.txt" for role in ("train", "val", "test") if (root / lists / f"{role}.txt").is_file()
    }
    if "train" not in keys and (root / lists / "default.txt").is_file():
        keys["train"] = f"{lists}/default.txt"
    return Layout("PASCAL VOC", keys)


def _voc_classes(root: Path) -> Keys:
    name = next((name for name in ("labelmap.txt", "class_names.txt") if (root / name).is_file()), None)
    if name is None:
        return {}
    labelme2voc = read_text(root / name).splitlines()[:1] == ["_background_"]
    return {"classes": name} | ({"background": "_background_"} if labelme2voc else {})


def _mmsegmentation(root: Path) -> Layout | None:
    if not ((root / "img_dir").is_dir() and (root / "ann_dir").is_dir()):
        return None
    return Layout("mmsegmentation", {"images": "img_dir", "masks": "ann_dir"})


def _cityscapes(root: Path) -> Layout | None:
    if not ((root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()):
        return None
    kind = "labelTrainIds" if any(_below(root / "gtFine", "*_labelTrainIds.png")) else "labelIds"
    suffixes = {"image_suffix": "_leftImg8bit", "mask_suffix": f"_gtFine_{kind}"}
    return Layout("Cityscapes", {"images": "leftImg8bit", "masks": "gtFine"} | suffixes)


def _nnunet(root: Path) -> Layout | None:
    if not ((root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()):
        return None
    if several := sorted(p.name for p in (root / "imagesTr").glob("*_0001.*")):
        raise DataError(
            f"{root / 'imagesTr'} holds images of several files, one for each channel, such as {several[0]}\n"
            "  → save each image as one file with all channels (TIFF or .npy), and set data.channels"
        )
    return Layout("nnU-Net", {"images": "imagesTr", "masks": "labelsTr", "image_suffix": "_0000"})


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
            return Layout(
                "images and masks in each sub-folder", {"images": "*/images", "masks": f"*/{masks}"} | _roles(root)
            )
    return None


def _beside(root: Path) -> Layout | None:
    """Annotations or masks beside the images: LabelMe, and Roboflow's exports."""
    keys: Keys = {"images": ".", "masks": "."}
    if any(_has_image(path.parent) for path in _below(root, "*.json")):
        return Layout("annotations beside the images", keys)
    for mask in _below(root, "*_mask.png"):
        image = mask.name.removesuffix("_mask.png")
        if any((mask.parent / f"{image}{suffix}").is_file() for suffix in IMAGES):
            return Layout("masks beside the images", keys | {"mask_suffix": "_mask"} | _roles(root))
    return None


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
        for suffix in (".png", ".bmp", ".tif", ".tiff", ".gif"):
            masks = [path.with_suffix("") for path in root.glob(f"{place}*{suffix}")]
            if 2 * len(names.intersection(masks)) > len(masks):
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
    return (path for path in sorted(root.rglob(pattern)) if not is_hidden(path.relative_to(root)))


def _has_image(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGES for path in folder.iterdir())


CLASSES = {"PASCAL VOC": _voc_classes, "nnU-Net": _nnunet_classes, "masks beside the images": _roboflow_classes}

"""Recognises the folders of other tools: each layout is said with the keys of dataset.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segstudy.data.folder.files import is_hidden
from segstudy.data.folder.names import IMAGES
from segstudy.data.folder.text import read_json, read_text
from segstudy.errors import DataError

Keys = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The layout of a tool. keys: those of dataset.yaml that read it; what the user gives comes first."""

    tool: str
    keys: Keys = field(default_factory=dict)


def find_layout(root: Path) -> Layout | None:
    """The layout of a folder; None if it has `images`, or an unknown one."""
    if (root / "images").exists():
        return None
    found = (find(root) for find in (_voc, _mmsegmentation, _cityscapes, _nnunet, _supervisely, _parts, _beside))
    return next(filter(None, found), None)


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
    classes = next((name for name in ("labelmap.txt", "class_names.txt") if (root / name).is_file()), None)
    if classes:
        keys["classes"] = classes
        if read_text(root / classes).splitlines()[:1] == ["_background_"]:  # labelme2voc
            keys["background"] = "_background_"
    return Layout("PASCAL VOC", keys)


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
    keys: Keys = {"images": "imagesTr", "masks": "labelsTr", "image_suffix": "_0000"}
    if (root / "dataset.json").is_file():
        content = read_json(root / "dataset.json")
        found = content.get("labels") if isinstance(content, dict) else None
        labels = found if isinstance(found, dict) else {}
        if labels and all(isinstance(value, int) for value in labels.values()):
            keys["classes"] = {value: name for name, value in labels.items()}
        elif labels and all(
            str(value).isdigit() for value in labels
        ):  # {"0": "background"}, of nnU-Net's first version
            keys["classes"] = {int(value): name for value, name in labels.items()}
    return Layout("nnU-Net", keys)


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
            return Layout(
                "masks beside the images", keys | {"mask_suffix": "_mask"} | _roboflow_classes(root) | _roles(root)
            )
    return None


def _roboflow_classes(root: Path) -> Keys:
    """The table of classes that Roboflow writes into each sub-folder. Raises DataError if they differ."""
    tables = {path.relative_to(root).as_posix(): read_text(path) for path in _below(root, "_classes.csv")}
    if len(set(tables.values())) > 1:
        raise DataError(f"{root}: {' and '.join(tables)} differ\n  → name the right one in dataset.yaml: classes: FILE")
    return {"classes": next(iter(tables))} if tables else {}


def _roles(root: Path) -> Keys:
    """Sub-folders with the names of splits; `valid` is not recognised by its own name."""
    names = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}
    found = {role: name for name, role in names.items() if (root / name).is_dir()}
    return found if "train" in found and len(found) > 1 else {}


def _below(root: Path, pattern: str) -> Iterator[Path]:
    return (path for path in sorted(root.rglob(pattern)) if not is_hidden(path.relative_to(root)))


def _has_image(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGES for path in folder.iterdir())

"""Masks in COCO files of object annotations."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segstudy.data.folder.mask_format import BACKGROUND, IndexedMask, MaskFormat
from segstudy.data.folder.names import ImageNames
from segstudy.data.folder.shapes import NO_OUTLINE, AnnotatedObject, Canvas, is_line
from segstudy.data.folder.text import read_json
from segstudy.data.images import Sample, header_shape
from segstudy.errors import DataError, first_few

ROLES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Words in the name of a file or of its folder, and the split that they mean."""


KEY_POINTS = "key points"


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file has COCO's form, whatever its annotations are."""
    return isinstance(content, dict) and "images" in content and isinstance(content["images"], list)


@dataclass
class CocoFile:
    """A COCO file of object annotations. faults: what contradicts itself in it, with the reason."""

    path: Path
    names: dict[Any, str]  # category id → label
    images: dict[Any, dict]  # image id → entry
    annotations: dict[Any, list[dict]]  # image id → its annotations
    faults: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        """The words in the name of the file and of its folder: `instances_val2017.json` gives instances, val2017."""
        return [*re.split(r"[^A-Za-z0-9]+", self.path.stem), self.path.parent.name]

    def orphans(self) -> dict[Any, list[dict]]:
        """The annotations of images that are not listed, by image id."""
        return {number: each for number, each in self.annotations.items() if number not in self.images}

    def role(self) -> str:
        """The split whose name the file or its folder has, or ""."""
        return next(filter(None, map(_role, self.words())), "")


def _role(word: str) -> str:
    """The split that a word such as val2017 means, or ""."""
    return ROLES.get(word.lower().rstrip("0123456789"), "")


def read_coco(path: Path, content: Any = None) -> CocoFile:
    """Read a COCO file. Raises DataError if it has another format. content: of the file, if it is read already."""
    content = read_json(path) if content is None else content
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        images, annotations = content["images"], content["annotations"]
        faults = [
            *_used_twice("category", [(each["id"], str(each["name"])) for each in categories]),
            *_used_twice("image", [(each["id"], str(each["file_name"])) for each in images]),
        ]
        file = CocoFile(path, {c["id"]: str(c["name"]) for c in categories}, {i["id"]: i for i in images}, {}, faults)
        file.annotations = defaultdict(list)
        for each in annotations:
            file.annotations[each["image_id"]].append(each)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a COCO file of objects: {error!r} is missing or has another form\n"
            "  expected: {images: [{id, file_name, height, width}], categories: [{id, name}], "
            "annotations: [{image_id, category_id, segmentation}]}"
        ) from error
    unknown = Counter(a.get("category_id") for a in annotations if a.get("category_id") not in file.names)
    faults += [f"{count} annotations have the category {key!r}, which has no name" for key, count in unknown.items()]
    return file


def _used_twice(kind: str, pairs: Sequence[tuple[Any, str]]) -> list[str]:
    """A line for each id that has several names."""
    names: dict[Any, set[str]] = defaultdict(set)
    for number, name in pairs:
        names[number].add(name)
    return [
        f"the {kind} id {number!r} is used for {' and '.join(sorted(several))}: whose are its annotations?"
        for number, several in names.items()
        if len(several) > 1
    ]


def object_files(contents: Mapping[Path, Any]) -> tuple[list[CocoFile], list[str]]:
    """(the files of object annotations, why each other file is left out).

    Files of key points repeat the objects of another file: they are used only if there is no other.
    Raises DataError if there is none.
    """
    reasons = {path: _why_left_out(content) for path, content in contents.items()}
    if not (chosen := [path for path, reason in reasons.items() if not reason]):
        chosen = [path for path, reason in reasons.items() if reason == KEY_POINTS]
    left_out = [f"{path.name} ({reason})" for path, reason in reasons.items() if path not in chosen]
    if not chosen:
        raise DataError(f"no COCO file of objects: {first_few(left_out)}\n  expected: annotations with a segmentation")
    return [read_coco(path, contents[path]) for path in chosen], left_out


def _why_left_out(content: Any) -> str:
    """Why a COCO file is not one of objects, or ""."""
    if "annotations" not in content:
        return "no annotations"
    keys = {key for each in content["annotations"][:100] for key in each}
    if "segments_info" in keys:
        return "panoptic: its masks are PNG pictures"
    if "caption" in keys:
        return "captions"
    return KEY_POINTS if "keypoints" in keys else ""


@dataclass
class CocoMatch:
    """The annotations of each image. entries: {name: [(file, image id)]}."""

    entries: dict[str, list[tuple[CocoFile, Any]]] = field(default_factory=lambda: defaultdict(list))
    without_image: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)

    def roles(self) -> dict[str, str]:
        """{name: split}, if each image is in one file, and all of these have the name of a split."""
        roles = {name: {file.role() for file, _ in entries} for name, entries in self.entries.items()}
        if any(len(each) > 1 or "" in each for each in roles.values()):
            return {}
        return {name: role for name, each in roles.items() for role in each}


def match_images(files: Sequence[CocoFile], images: Mapping[str, Path]) -> CocoMatch:
    """Find the image that each entry means. images: {name: file}.

    Where several images end with the same path, the one is meant that lies below the file's own folder, or in a folder
    with a name that is part of the file's, or of the same split: `instances_val2017.json` describes `val2017/a.jpg`.
    """
    match, names = CocoMatch(), ImageNames(images)
    for file in files:
        written: dict[str, list[str]] = defaultdict(list)
        for number, entry in file.images.items():
            text = str(entry["file_name"])
            found = names.find(text)
            if len(found) > 1:
                found = _closest(file, found, images)
            if len(found) > 1:
                match.ambiguous.append(f"{file.path.name}: {text} may be {first_few(found)}")
            elif not found:
                match.without_image.append(text)
            else:
                match.entries[found[0]].append((file, number))
                written[found[0]].append(text)
        match.joined += [f"{file.path.name}: {name}" for name, texts in written.items() if len(texts) > 1]
    return match


def _closest(file: CocoFile, found: list[str], images: Mapping[str, Path]) -> list[str]:
    """Of images that a file may mean, those in its folder, in a folder that its name holds, or of its split."""
    folders = {name: set(name.lower().split("/")[:-1]) for name in found}
    words = {word.lower() for word in file.words()}
    for chosen in (
        [name for name in found if images[name].is_relative_to(file.path.parent)],
        [name for name in found if folders[name] & words],
        [name for name in found if file.role() and file.role() in map(_role, folders[name])],
    ):
        if 0 < len(chosen) < len(found):
            return chosen
    return found


def coco_format(match: CocoMatch, files: Sequence[CocoFile], line_width: float | None) -> MaskFormat:
    """The format of COCO files. Categories become classes in the order of their ids, file by file."""

    def read(sample: Sample) -> IndexedMask:
        return read_objects(sample, match.entries[sample.name], line_width)

    keys = tuple(dict.fromkeys([BACKGROUND, *(name for file in files for name in file.names.values())]))
    where = first_few([file.path.name for file in files], 3)
    summary = f"{where}: COCO annotations of {len(match.entries)} images and {len(keys) - 1} categories"
    states = [(file.path.name, file.path.stat().st_size, file.path.stat().st_mtime_ns) for file in files]
    version = f"line_width {line_width} {states}"
    return MaskFormat("COCO", summary, read, on_upright_image=False, keys=keys, version=version)


def read_objects(
    sample: Sample, entries: Sequence[tuple[CocoFile, Any]], line_width: float | None = None
) -> IndexedMask:
    """The mask of an image, from its annotations in all files; for overlaps see `Canvas.paint`.

    A crowd (iscrowd) counts as its class and is painted below all single objects.
    """
    sizes = [(entry.get("height"), entry.get("width")) for entry in (file.images[number] for file, number in entries)]
    given = {(int(height), int(width)) for height, width in sizes if height and width}
    if len(given) > 1:
        raise DataError(f"{sample.name} has several sizes in its COCO annotations: {sorted(given)} (height, width)")
    canvas = Canvas(*(given.pop() if given else header_shape(sample.file("image"))), line_width)
    return canvas.paint([_object(a, file, canvas) for file, number in entries for a in file.annotations[number]])


def _object(annotation: dict, file: CocoFile, canvas: Canvas) -> AnnotatedObject:
    label = file.names.get(annotation.get("category_id"))
    try:
        if label is None:
            raise ValueError(f"the category {annotation.get('category_id')!r} has no name")
        outline, is_crowd = annotation.get("segmentation"), bool(annotation.get("iscrowd"))
        if not outline:
            return AnnotatedObject(label, None, NO_OUTLINE)
        if isinstance(outline, dict):
            return AnnotatedObject(label, _from_run_lengths(outline, canvas), is_crowd=is_crowd)
        parts = [canvas.area([part]) for part in outline if not is_line(part)]
        lines = [canvas.line(label, part).pixels for part in outline if is_line(part)]
        parts += [line for line in lines if line]
        return AnnotatedObject(label, canvas.union(parts) if parts else None, is_crowd=is_crowd)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        number = annotation.get("id", "without id")
        raise DataError(f"{file.path}: annotation {number} is invalid: {error}") from error


def _from_run_lengths(outline: dict, canvas: Canvas) -> dict[str, Any]:
    from pycocotools import mask as run_lengths

    size, counts = list(outline["size"]), outline["counts"]
    if size != [canvas.height, canvas.width]:
        raise ValueError(f"its mask has the size {size}, the image {[canvas.height, canvas.width]}")
    if isinstance(counts, str):
        run_lengths.decode(outline)  # raises ValueError for text that is none
        return {"size": size, "counts": counts.encode()}
    if sum(counts) != canvas.height * canvas.width:  # pycocotools accepts them
        raise ValueError(f"the runs cover {sum(counts)} pixels, the image has {canvas.height}×{canvas.width}")
    return run_lengths.frPyObjects(outline, canvas.height, canvas.width)

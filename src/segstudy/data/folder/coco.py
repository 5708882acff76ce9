"""Masks in COCO files of object annotations."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pycocotools import mask as run_lengths
from pydantic import BaseModel, BeforeValidator, ValidationError

from segstudy.data.folder.mask_format import BACKGROUND, IndexedMask, MaskFormat
from segstudy.data.folder.names import ImageNames, role_of
from segstudy.data.folder.shapes import NO_OUTLINE, AnnotatedObject, Canvas, is_line
from segstudy.data.images import Sample, header_shape
from segstudy.data.text import read_json
from segstudy.errors import DataError, first_few
from segstudy.formatting import counted

KEY_POINTS = "key points"
OTHER_FILES = {"segments_info": "panoptic: its masks are PNG pictures", "caption": "captions", "keypoints": KEY_POINTS}
"""Keys of annotations that are no objects, and what they are."""


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file has COCO's form, whatever its annotations are."""
    return isinstance(content, dict) and "images" in content and isinstance(content["images"], list)


Number = Annotated[int | str, BeforeValidator(lambda value: int(value) if str(value).isdecimal() else value)]
"""An ID. Some tools write numbers as text in one place, and as numbers in another."""


class CocoImage(BaseModel):  # an entry in `images`
    id: Number
    file_name: str
    height: int | None = None
    width: int | None = None


class CocoCategory(BaseModel, coerce_numbers_to_str=True, str_strip_whitespace=True):
    id: Number
    name: str
    supercategory: str | None = None


class CocoAnnotation(BaseModel):
    image_id: Number
    category_id: Number
    segmentation: Any = None
    iscrowd: Any = 0
    id: Any = "without id"


class CocoContent(BaseModel):
    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoAnnotation]


@dataclass
class CocoFile:
    """A COCO file of object annotations.

    groups: categories that have no object and only group others, as Roboflow's category 0. faults: contradictions.
    """

    path: Path
    names: dict[Number, str]  # category id → label
    images: dict[Number, CocoImage]  # image id → entry
    annotations: dict[Number, list[CocoAnnotation]]  # image id → its annotations
    groups: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        """The words in the name of the file and of its folder: `instances_val2017.json` gives instances, val2017."""
        return [*re.split(r"[^A-Za-z0-9]+", self.path.stem), self.path.parent.name]

    def objects(self, number: Number) -> list[tuple[str, str]]:
        """The label and the outline of each object in an image."""
        return sorted((self.names.get(a.category_id, ""), json.dumps(a.segmentation)) for a in self.annotations[number])

    def role(self) -> str:
        """The split whose name the file or its folder has, or ""."""
        return next(filter(None, map(role_of, self.words())), "")


def read_coco(path: Path, content: Any = None) -> CocoFile:
    """Read a COCO file. Raises DataError if it has another format. content: of the file, if it is read already."""
    try:
        given = CocoContent.model_validate(read_json(path) if content is None else content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False)]
        raise DataError(
            f"{path} is not a COCO file of objects: {first_few(wrong, 3)}\n"
            "  expected: {images: [{id, file_name, height, width}], categories: [{id, name}], "
            "annotations: [{image_id, category_id, segmentation}]}"
        ) from error
    categories = sorted(given.categories, key=lambda category: (isinstance(category.id, str), category.id))
    file = CocoFile(path, {c.id: c.name for c in categories}, {i.id: i for i in given.images}, defaultdict(list))
    for each in given.annotations:
        file.annotations[each.image_id].append(each)
    used = {each.category_id for each in given.annotations}
    parents = {child.supercategory for child in categories if child.supercategory != child.name}
    file.groups = {each.name for each in categories if each.id not in used and each.name in parents}
    unknown = Counter(a.category_id for a in given.annotations if a.category_id not in file.names)
    file.faults = _used_twice("category", [(each.id, each.name) for each in categories])
    file.faults += _used_twice("image", [(each.id, each.file_name) for each in given.images])
    file.faults += [f"{counted(n, 'annotation')} of the category {c!r}, which has no name" for c, n in unknown.items()]
    return file


def _used_twice(kind: str, pairs: Sequence[tuple[Number, str]]) -> list[str]:
    """A line for each id that has several names."""
    names: dict[Number, set[str]] = defaultdict(set)
    for number, name in pairs:
        names[number].add(name)
    twice = {number: " and ".join(sorted(several)) for number, several in names.items() if len(several) > 1}
    return [f"the {kind} id {n!r} is used for {several}: whose are its annotations?" for n, several in twice.items()]


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
    annotations = content["annotations"] if isinstance(content["annotations"], list) else []
    keys = {key for each in annotations[:100] if isinstance(each, dict) for key in each}
    return next((reason for key, reason in OTHER_FILES.items() if key in keys), "")


Entry = tuple[CocoFile, Number]  # an image in a file, by its id


@dataclass
class CocoMatch:
    """The annotations of each image. entries: {name: [(file, image id)]}."""

    entries: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    without_image: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    repeated: Counter[str] = field(default_factory=Counter)

    def roles(self) -> dict[str, str]:
        """{name: split} of images in a file with the name of a split, if there are files for train and another one."""
        roles = {name: role for name, each in self.entries.items() for file, _ in each if (role := file.role())}
        return roles if {"train"} < {*roles.values()} else {}

    def leave_out_repeated(self) -> None:
        """Of files that describe an image alike, such as instances_all and instances_train, keep that of a split.

        Files of the same labels, but other objects, or of two splits, are `differing`; files of other labels are kept.
        """
        for name, entries in self.entries.items():
            kept: list[Entry] = []
            for file, number in sorted(entries, key=lambda entry: not entry[0].role()) if len(entries) > 1 else ():
                objects = file.objects(number)
                others = [(other, other.objects(n)) for other, n in kept if other is not file]
                if any(each == objects and file.role() in ("", other.role()) for other, each in others):
                    self.repeated[file.path.name] += 1
                    continue
                for other, each in others:
                    if file.role() not in ("", other.role()) or {*dict(objects)} & {*dict(each)}:
                        self.differing.append(f"{name}: {other.path.name} and {file.path.name}")
                kept.append((file, number))
            self.entries[name] = kept or entries


def match_images(files: Sequence[CocoFile], images: Mapping[str, Path]) -> CocoMatch:
    """Find the image that each entry means. images: {name: file}.

    Where several images end with the same path, the one is meant that lies below the file's own folder, or in a folder
    with a name that is part of the file's, or of the same split: `instances_val2017.json` describes `val2017/a.jpg`.
    """
    match, names = CocoMatch(), ImageNames(images)
    for file in files:
        written: dict[str, list[str]] = defaultdict(list)
        for number, entry in file.images.items():
            text = entry.file_name
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
    match.leave_out_repeated()
    return match


def _closest(file: CocoFile, found: list[str], images: Mapping[str, Path]) -> list[str]:
    """Of images that a file may mean, those in its folder, in a folder that its name holds, or of its split."""
    folders = {name: set(name.lower().split("/")[:-1]) for name in found}
    words = {word.lower() for word in file.words()}
    for chosen in (
        [name for name in found if images[name].is_relative_to(file.path.parent)],
        [name for name in found if folders[name] & words],
        [name for name in found if file.role() and file.role() in map(role_of, folders[name])],
    ):
        if 0 < len(chosen) < len(found):
            return chosen
    return found


def coco_format(match: CocoMatch, files: Sequence[CocoFile], line_width: float | None) -> MaskFormat:
    """The format of COCO files. Categories become classes in the order of their ids, file by file."""

    def read(sample: Sample) -> IndexedMask:
        return read_objects(sample, match.entries[sample.name], line_width)

    names = [name for file in files for name in file.names.values() if name not in file.groups]
    keys = tuple(dict.fromkeys([BACKGROUND, *names]))
    where = first_few([file.path.name for file in files], 3)
    summary = f"{where}: COCO annotations of {counted(len(match.entries), 'image')}; categories: {len(keys) - 1}"
    contents = [hashlib.sha256(file.path.read_bytes()).hexdigest()[:24] for file in files]
    version = f"line_width {line_width} {contents}"
    return MaskFormat("COCO", summary, read, on_upright_image=False, keys=keys, version=version)


def read_objects(sample: Sample, entries: Sequence[Entry], line_width: float | None = None) -> IndexedMask:
    """The mask of an image, from its annotations in all files; for overlaps see `Canvas.paint`.

    A crowd (iscrowd) counts as its class and is painted below all single objects.
    """
    images = [file.images[number] for file, number in entries]
    given = {(image.height, image.width) for image in images if image.height and image.width}
    if len(given) > 1:
        raise DataError(f"{sample.name} has several sizes in its COCO annotations: {sorted(given)} (height, width)")
    height, width = given.pop() if given else header_shape(sample.file("image"))
    try:
        canvas = Canvas(int(height or 0), int(width or 0), line_width)
    except ValueError as error:
        raise DataError(f"{entries[0][0].path}: {sample.name}: {error}") from error
    return canvas.paint([_object(a, file, canvas) for file, number in entries for a in file.annotations[number]])


def _object(annotation: CocoAnnotation, file: CocoFile, canvas: Canvas) -> AnnotatedObject:
    try:
        label = file.names.get(annotation.category_id)
        if label is None:
            raise ValueError(f"the category {annotation.category_id!r} has no name")
        outline, is_crowd = annotation.segmentation, bool(annotation.iscrowd)
        if not outline:
            return AnnotatedObject(label, None, NO_OUTLINE)
        if isinstance(outline, dict):
            return AnnotatedObject(label, _from_run_lengths(outline, canvas), is_crowd=is_crowd)
        parts = [canvas.area([part]) for part in outline if not is_line(part)]
        lines = [canvas.line(label, part).pixels for part in outline if is_line(part)]
        parts += [line for line in lines if line]
        return AnnotatedObject(label, canvas.union(parts) if parts else None, is_crowd=is_crowd)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file.path}: annotation {annotation.id} is invalid: {error}") from error


def _from_run_lengths(outline: dict, canvas: Canvas) -> dict[str, Any]:
    size, counts = list(outline["size"]), outline["counts"]
    if size != [canvas.height, canvas.width]:
        raise ValueError(f"its mask has the size {size}, the image {[canvas.height, canvas.width]}")
    if isinstance(counts, str):
        run_lengths.decode(outline)  # raises ValueError for text that is none
        return {"size": size, "counts": counts.encode()}
    if sum(counts) != canvas.height * canvas.width:  # pycocotools accepts them
        raise ValueError(f"the runs cover {sum(counts)} pixels, the image has {canvas.height}×{canvas.width}")
    return run_lengths.frPyObjects(outline, canvas.height, canvas.width)

"""Detects the format of the masks in the user's folder."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segstudy.data.folder.coco import is_coco
from segstudy.data.folder.description import Description
from segstudy.data.folder.labelme import VOID, is_labelme, read_labelme
from segstudy.data.folder.mask_format import IndexedMask, MaskFormat
from segstudy.data.folder.pictures import has_color, open_mask, read_picture
from segstudy.data.folder.supervisely import is_supervisely, read_supervisely
from segstudy.data.folder.text import read_json, read_text
from segstudy.errors import DataError, first_few

FORMS: dict[str, Callable[[Any], bool]] = {
    "LabelMe": is_labelme, "Supervisely": is_supervisely, "COCO": is_coco,
}  # fmt: skip

NUMBER = re.compile(r"-?\d*\.?\d+([eE][-+]?\d+)?")

READERS: dict[str, Callable[..., IndexedMask]] = {"LabelMe": read_labelme, "Supervisely": read_supervisely}
"""Of annotations with a file for each image."""


def detect_format(paths: Sequence[Path], description: Description) -> MaskFormat:
    """The format of mask files, detected from up to 20 of them. Raises DataError if none of them can be read."""
    sample = [paths[i * len(paths) // min(20, len(paths))] for i in range(min(20, len(paths)))]
    where = f"{paths[0].parent.name}/ ({len(paths)} files; format read from {len(sample)})"
    annotated = paths[0].suffix.lower() == ".json"
    opened, broken = {}, []
    for path in sample:
        try:
            opened[path] = read_json(path) if annotated else open_mask(path)
        except DataError as error:  # each file is reported later
            broken.append(error)
    if not opened:
        raise broken[0]
    if annotated:
        kind = _known_tool(opened)
        read = partial(READERS[kind], line_width=description.line_width)
        version = f"line_width {description.line_width}"
        void = (VOID,) if kind == "LabelMe" else ()
        return MaskFormat(kind, f"{where}: {kind} annotations", read, on_upright_image=True, void=void, version=version)
    modes = ", ".join(sorted({p.mode for p in opened.values()}))
    three_channels = any(len(p.getbands()) > 2 for p in opened.values())
    # grey values in three channels are class numbers, unless the classes have colours
    by_colour = any(map(has_color, opened.values())) or (three_channels and bool(description.declared.colours))
    kind, what = ("colours", "colours are classes") if by_colour else ("numbers", "values are class numbers")
    return MaskFormat(kind, f"{where}: pictures ({modes}) whose {what}", partial(read_picture, kind=kind))


def _known_tool(contents: Mapping[Path, Any]) -> str:
    """The tool that wrote JSON files of an image each. Raises DataError if it is not known, or not one."""
    kinds: dict[str, Path] = {}
    for path, content in contents.items():
        found = f"the keys {first_few(list(content), 8)}" if isinstance(content, dict) else type(content).__name__
        kinds.setdefault(next((k for k, has_form in FORMS.items() if has_form(content)), f"unknown: {found}"), path)
    if len(kinds) == 1 and READERS.keys() & kinds:
        return next(iter(kinds))
    found = "\n  ".join(f"{path.name}: {kind}" for kind, path in kinds.items())
    raise DataError(
        f"the annotations in {next(iter(contents)).parent} are not of one known format\n  {found}\n"
        "  expected: a file of LabelMe or Supervisely for each image, or COCO files for many\n"
        "  → export the annotations as COCO, or as masks (PNG)"
    )


def unread_annotations(places: Iterable[Path]) -> str:
    """Lines that name the first file of a known kind that is not read, and what to do; or ""."""
    for path in sorted(path for place in places for ending in ("txt", "xml") for path in place.rglob(f"*.{ending}")):
        try:
            text = read_text(path)
        except DataError:
            continue
        if path.suffix == ".txt":
            numbers = (
                len(words) if (words := text.partition("\n")[0].split()) and all(map(NUMBER.fullmatch, words)) else 0
            )
            kind = "boxes of YOLO" if numbers == 5 else "outlines of YOLO" if numbers > 6 and numbers % 2 else ""
        else:
            root = re.search(r"<(annotations?)\b", text)
            kind = {"annotations": "CVAT for images", "annotation": "boxes of PASCAL VOC"}[root[1]] if root else ""
        if kind.startswith("boxes"):
            return f"\n  {path.name} holds {kind}\n  → boxes are no masks: the outlines of the objects must be drawn"
        if kind:
            how = (
                "export them from CVAT as"
                if "CVAT" in kind
                else "import them into CVAT or Roboflow, and export them as"
            )
            return f"\n  {path.name} holds {kind}, which are not read\n  → {how} COCO (in CVAT: COCO 1.0), or as masks"
    return ""

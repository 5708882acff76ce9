"""Detects the format of the masks in the user's folder."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from segstudy.data.folder.description import Description
from segstudy.data.folder.labelme import VOID, read_labelme
from segstudy.data.folder.layouts import FORMS
from segstudy.data.folder.mask_format import IndexedMask, MaskFormat
from segstudy.data.folder.pictures import has_color, open_mask, read_picture
from segstudy.data.folder.supervisely import read_supervisely
from segstudy.data.text import read_json, read_text
from segstudy.errors import DataError, first_few
from segstudy.formatting import counted

BOXES = "boxes are no masks: draw the outlines of the objects"
NUMBERS = r"\d+(?:[ \t]+[-+.\deE]+)"

UNREAD = {
    "boxes of YOLO": (".txt", NUMBERS + r"{4}\s*(\n|$)", BOXES),
    "outlines of YOLO": (".txt", NUMBERS + r"{6,}\s*(\n|$)", "import them into CVAT or Roboflow; export COCO or masks"),
    "Labelbox's export": (".ndjson", r'\{"data_row"', "convert them to COCO, or to masks (PNG), with Labelbox's tools"),
    "boxes of PASCAL VOC": (".xml", r"(?s).{0,500}<annotation>", BOXES),
    "CVAT for images": (".xml", r"(?s).{0,500}<annotations>", "export them again as COCO 1.0 or Segmentation mask 1.1"),
}
"""Annotations that are not read: the suffix of the file, how it begins, and what to do."""

READERS: dict[str, Callable[..., IndexedMask]] = {"LabelMe": read_labelme, "Supervisely": read_supervisely}
"""Of annotations with a file for each image."""


def detect_format(paths: Sequence[Path], description: Description) -> MaskFormat:
    """The format of mask files, detected from up to 20 of them. Raises DataError if none of them can be read."""
    sample = [paths[i * len(paths) // min(20, len(paths))] for i in range(min(20, len(paths)))]
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    where = f"{folder.name}/ ({counted(len(paths), 'file')}; format read from {len(sample)})"
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
    paths = sorted(p for place in places for suffix in (".txt", ".xml", ".ndjson") for p in place.rglob(f"*{suffix}"))
    for path in paths[:100]:
        with suppress(DataError):
            text = read_text(path)
            for kind, (suffix, pattern, advice) in UNREAD.items():
                if path.suffix == suffix and re.match(pattern, text):
                    return f"\n  {path.name} holds {kind}, which are not read\n  → {advice}"
    return ""

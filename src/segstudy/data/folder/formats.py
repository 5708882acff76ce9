"""Detects the format of the masks in the user's folder."""

from collections.abc import Sequence
from pathlib import Path

from segstudy.data.folder.coco import is_coco
from segstudy.data.folder.labelme import is_labelme, labelme_format
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.pictures import has_color, open_mask, read_color_mask, read_index_mask
from segstudy.data.folder.supervisely import is_supervisely, supervisely_format
from segstudy.data.folder.text import read_json
from segstudy.errors import DataError, first_few


def detect_format(paths: Sequence[Path], has_palette: bool, line_width: float | None = None) -> MaskFormat:
    """The format of mask files, detected from up to 20 of them. has_palette: whether the classes have colours.

    line_width: of annotated lines and points.

    Raises DataError if none of them can be read.
    """
    sample = [paths[i * len(paths) // min(20, len(paths))] for i in range(min(20, len(paths)))]
    where = f"{paths[0].parent.name}/ ({len(paths)} files; format read from {len(sample)})"
    if paths[0].suffix.lower() == ".json":
        return _detect_annotations(sample, where, line_width)
    pictures, broken = [], []
    for path in sample:
        try:
            pictures.append(open_mask(path))
        except DataError as error:  # each file is reported later
            broken.append(error)
    if not pictures:
        raise broken[0]
    modes = ", ".join(sorted({p.mode for p in pictures}))
    three_channels = any(len(p.getbands()) > 2 for p in pictures)
    # grey values in three channels are class numbers, unless the classes have colours
    if any(map(has_color, pictures)) or (three_channels and has_palette):
        return MaskFormat("colours", f"{where}: pictures ({modes}) whose colours are classes", read_color_mask)
    summary = f"{where}: pictures ({modes}) whose values are class numbers"
    return MaskFormat("numbers", summary, read_index_mask)


def _detect_annotations(paths: Sequence[Path], where: str, line_width: float | None) -> MaskFormat:
    """The format of JSON files that belong to an image each. Raises DataError if it is not known, or not one."""
    kinds: dict[str, list[Path]] = {}
    known = {"LabelMe": is_labelme, "Supervisely": is_supervisely, "COCO": is_coco}
    broken = []
    for path in paths:
        try:
            content = read_json(path)
        except DataError as error:  # each file is reported later
            broken.append(error)
            continue
        kind = next((name for name, has_form in known.items() if has_form(content)), "")
        found = f"the keys {first_few(list(content), 8)}" if isinstance(content, dict) else type(content).__name__
        kinds.setdefault(kind or f"unknown: {found}", []).append(path)
    if not kinds:
        raise broken[0]
    if kinds.keys() == {"LabelMe"}:
        return labelme_format(where, line_width)
    if kinds.keys() == {"Supervisely"}:
        return supervisely_format(where, line_width)
    found = "\n  ".join(f"{path.name}: {kind}" for kind, (path, *_) in kinds.items())
    raise DataError(
        f"the annotations in {paths[0].parent} are not of one known format\n  {found}\n"
        "  expected: a file of LabelMe or Supervisely for each image, or COCO files for many\n"
        "  → export the annotations as COCO, or as masks (PNG)"
    )

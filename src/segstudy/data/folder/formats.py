"""Detects the format of the masks in the user's folder."""

from collections.abc import Sequence
from pathlib import Path

from segstudy.data.folder.labelme import read_labelme
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.pictures import has_color, open_mask, read_color_mask, read_index_mask
from segstudy.errors import DataError


def detect_format(paths: Sequence[Path], has_palette: bool) -> MaskFormat:
    """The format of mask files, detected from up to 20 of them. has_palette: whether the classes have colours.

    Raises DataError if none of them can be read.
    """
    sample = [paths[i * len(paths) // min(20, len(paths))] for i in range(min(20, len(paths)))]
    where = f"{paths[0].parent.name}/ ({len(paths)} files; format read from {len(sample)})"
    if paths[0].suffix.lower() == ".json":
        return MaskFormat("LabelMe", f"{where}: LabelMe annotations", read_labelme, on_upright_image=True)
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

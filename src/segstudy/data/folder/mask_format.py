"""What all mask formats have in common: each mask is decoded to an indexed mask.

A key is the name of a class in the file: "7", "128,0,0" or "dog". classes.py maps keys to classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from segstudy.data.images import Sample, apply_orientation


class IndexedMask(NamedTuple):
    """A mask (H,W) of indices into a list of keys.

    lost: of annotations, {why they leave no pixel: {label: number of objects}}.
    """

    indices: np.ndarray
    keys: list[str]
    lost: dict[str, dict[str, int]] = {}


Rgb = tuple[int, int, int]

BACKGROUND = "background"
"""Key of the pixels that no annotation covers."""


@dataclass(frozen=True)
class MaskFormat:
    """How the masks of a folder are decoded. summary: the recognised format, in one line.

    on_upright_image: for annotations whose size fits both, whether they are drawn on the image after EXIF rotation;
    None for pictures. keys: all possible keys, if the file lists them. palette: {key: colour} of an indexed picture.
    by_grey: whether the grey value in the palette of an indexed picture is the number, not the index.
    void: keys that are ignored unless dataset.yaml says otherwise. version: of everything outside the mask's own file
    that changes what is decoded; part of the names of caches.
    """

    name: str
    summary: str
    read: Callable[[Sample], IndexedMask]
    on_upright_image: bool | None = None
    keys: tuple[str, ...] = ()
    palette: Mapping[str, Rgb] = field(default_factory=dict)
    by_grey: bool = False
    void: tuple[str, ...] = ()
    version: str = ""

    @property
    def kind(self) -> str:
        """The name, or grey."""
        return "grey" if self.by_grey else self.name

    @property
    def annotated(self) -> bool:
        """Whether the masks are annotations (outlines of objects), not pictures."""
        return self.on_upright_image is not None

    def orient(self, mask: np.ndarray, orientation: int, shape: tuple[int, ...]) -> np.ndarray:
        """The mask (H,W) rotated like its image. orientation: its EXIF orientation; shape: its size, rotated.

        A mask is drawn on the stored or the rotated image, by its size; a picture that fits both, on the stored one.
        """
        fits_stored = mask.shape == (shape[::-1] if orientation > 4 else shape)
        if mask.shape == shape and (self.on_upright_image or not fits_stored):
            return mask
        return apply_orientation(mask, orientation)

"""What all mask formats have in common: each mask is decoded to an indexed mask.

A key is the name of a class in the file: "7", "128,0,0" or "dog". classes.py maps keys to classes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from segstudy.data.images import Sample, apply_orientation


class IndexedMask(NamedTuple):
    """A mask (H,W) of indices into a list of keys.

    lost: of annotations, {why they leave no pixel: {label: number of objects}}. mode: that of a picture in Pillow, ""
    for annotations. colours: {key: colour} of an indexed picture that is read by index.
    """

    indices: np.ndarray
    keys: list[str]
    lost: dict[str, dict[str, int]] = {}
    mode: str = ""
    colours: dict[str, str] = {}


Rgb = tuple[int, int, int]
BACKGROUND = "background"  # key of the pixels that no annotation covers


@dataclass(frozen=True)
class MaskFormat:
    """How the masks of a folder are decoded.

    kind: of annotations, their tool; of pictures, what the classes are: numbers (values; in indexed pictures the
    indices), grey (numbers, in indexed pictures the grey values of the palette) or colours.
    summary: the recognised format, in one line. on_upright_image: for annotations whose size fits both, whether they
    are drawn on the image after EXIF rotation; None for pictures. keys: all possible keys, if the file lists them.
    palette: {key: colour} of an indexed picture. void: keys that are ignored unless dataset.yaml says otherwise.
    version: of everything outside the mask's own file that changes what is decoded; part of the names of caches.
    """

    kind: str
    summary: str
    read: Callable[[Sample], IndexedMask]
    on_upright_image: bool | None = None
    keys: tuple[str, ...] = ()
    palette: Mapping[str, Rgb] = field(default_factory=dict)
    void: tuple[str, ...] = ()
    version: str = ""

    @property
    def annotated(self) -> bool:
        """Whether the masks are annotations (outlines of objects), not pictures."""
        return self.on_upright_image is not None

    @property
    def numbered(self) -> bool:
        """Whether the keys are numbers."""
        return self.kind in ("numbers", "grey")

    def orient(self, mask: np.ndarray, orientation: int, shape: tuple[int, ...]) -> np.ndarray:
        """The mask (H,W) rotated like its image. orientation: its EXIF orientation; shape: its size, rotated.

        A mask is drawn on the stored or the rotated image, by its size; a picture that fits both, on the stored one.
        """
        fits_stored = mask.shape == (shape[::-1] if orientation > 4 else shape)
        if mask.shape == shape and (self.on_upright_image or not fits_stored):
            return mask
        return apply_orientation(mask, orientation)


def color_key(rgb: Iterable[int]) -> str:
    """The key of a colour, such as "128,0,0"."""
    return ",".join(map(str, rgb))


def rgb_of_key(key: str) -> Rgb:
    """The colour of a key."""
    red, green, blue = map(int, key.split(","))
    return red, green, blue

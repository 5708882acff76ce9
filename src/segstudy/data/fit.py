"""At which height and width the network sees an image: squashed to one size, its own, or scaled to fit."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from segstudy.errors import ConfigError
from segstudy.ranges import Side, Size, checked

Mode = Literal["squash", "crop", "keep"]

LARGE = 512
"""Sides in pixels that are far above the default of data.size, 256."""


@checked
@dataclass(frozen=True)
class Fit:
    """The rule that gives an image's shape (H,W) in the cache and in tests; training may see windows of it.

    size (H,W): data.size. mode: squash (every image is resized to `size`, its aspect ratio is lost), crop (images keep
    their own size; training sees windows of `size`) or keep (resized to `size` with their aspect ratio kept).
    max_side: with crop, images with a longer side are reduced to it; None: none is. keep_side: with keep, whether the
    long side fits into `size` (then training pads) or the short side fills it (then training crops).
    Raises ConfigError for other values, and for settings that another mode would need.
    """

    size: tuple[Side, Side]
    mode: Mode = "squash"
    max_side: Side | None = None
    keep_side: Literal["long", "short"] = "long"

    def __post_init__(self) -> None:
        if self.max_side is not None and self.mode != "crop":
            raise ConfigError(
                f"data.max_side={self.max_side} has no effect with data.fit={self.mode}\n"
                "  → data.fit=crop, or leave it out"
            )
        if self.keep_side == "short" and self.mode != "keep":
            raise ConfigError(
                f"data.keep_side=short has no effect with data.fit={self.mode}\n  → data.fit=keep, or leave it out"
            )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Fit":
        """From the `data` of a config or a record. Older ones have a size alone: all images were squashed."""
        mode, max_side, keep_side = data.get("fit", "squash"), data.get("max_side"), data.get("keep_side", "long")
        return cls(sides(data["size"]), mode, max_side, keep_side)

    def at(self, size: str, tiled: bool = False) -> "Fit":
        """The rule for --size. train: as in the run's test; original: each image's own size; N or HEIGHTxWIDTH: resized
        to it, with the aspect ratio kept if the run's test keeps it.

        tiled: with --tiles, which cut images of their own size unless a size is given: train is then original for a run
        that resizes all images. Raises ConfigError for any other text.
        """
        if size == "train" and (self.mode == "crop" or not tiled):
            return self
        if size in ("train", "original"):
            return replace(self, mode="crop", max_side=None, keep_side="long")
        mode: Mode = "squash" if self.mode == "squash" else "keep"
        return replace(self, size=parse_size(size), mode=mode, max_side=None)

    @property
    def is_uniform(self) -> bool:
        """Whether all images get the same shape."""
        return self.mode == "squash"

    @property
    def keeps_sizes(self) -> bool:
        """Whether every image keeps its own size."""
        return self.mode == "crop" and self.max_side is None

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(H,W) at which the network sees an image of this size; a side is at least 1 pixel."""
        if self.mode == "squash":
            return self.size
        if self.mode == "crop":
            factor = 1.0 if self.max_side is None else min(1.0, self.max_side / max(height, width))
        else:
            factors = self.size[0] / height, self.size[1] / width
            factor = min(factors) if self.keep_side == "long" else max(factors)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def values(self) -> dict[str, Any]:
        """The settings that matter with this mode, as JSON values, for a run's record."""
        values: dict[str, Any] = {"fit": self.mode, "size": list(self.size)}
        if self.mode == "crop":
            values["max_side"] = self.max_side
        if self.mode == "keep":
            values["keep_side"] = self.keep_side
        return values

    def recipe(self) -> list[Any]:
        """What the shapes depend on, as JSON values: part of the cache's key. Windows of any size share a cache."""
        return [self.mode, self.max_side] if self.mode == "crop" else [self.mode, *self.size, self.keep_side]

    @property
    def seen(self) -> str:
        """What the network sees in a test, in words: original size; 256×256; 256×256, aspect kept."""
        if self.mode == "crop":
            return "original size" + (f", long side at most {self.max_side}" if self.max_side else "")
        kept = ", aspect kept" + ", short side" * (self.keep_side == "short")
        return "×".join(map(str, self.size)) + kept * (self.mode == "keep")

    @property
    def instruction(self) -> str:
        """What to do with an image before the network sees it, in words."""
        size = "×".join(map(str, self.size)) + " (height × width)"
        if self.mode == "squash":
            return f"resized to {size}, bilinear, aspect ratio not kept"
        if self.mode == "keep":
            until = "it fits into" if self.keep_side == "long" else "it covers"
            return f"resized until {until} {size}, bilinear, aspect ratio kept"
        return "seen at its own size" + (
            f"; if its long side has more than {self.max_side} pixels, resized to that, bilinear, aspect ratio kept"
            if self.max_side
            else ""
        )

    def __str__(self) -> str:
        return self.seen + (f", crops of {'×'.join(map(str, self.size))}" if self.mode == "crop" else "")


@checked
def sides(size: Size) -> tuple[int, int]:
    """(H,W) of data.size: one side in pixels, or [height, width]."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


def parse_size(text: str) -> tuple[int, int]:
    """(H,W) of --size N or --size HEIGHTxWIDTH. Raises ConfigError for any other text."""
    found = [int(side) for side in re.split("[x×]", text) if side.isdecimal()]
    if not re.fullmatch(r"\d+([x×]\d+)?", text) or min(found) < 1:
        raise ConfigError(f"--size {text}: not train, original, a side (256) or HEIGHTxWIDTH (384x512)")
    return found[0], found[-1]


def sizes_note(shapes: set[tuple[int, ...]]) -> list[str]:
    """A line with the sizes of the images if they differ or are large, since by default all are squashed to a square.

    shapes: (H,W) of the images.
    """
    if len(shapes) < 2 and all(max(shape) <= LARGE for shape in shapes):
        return []
    small, *_, large = [f"{width}×{height}" for height, width in sorted(shapes, key=math.prod)] * 2
    return [
        f"images of {small}{f' to {large}' * (large != small)} pixels (width×height): data.fit=squash, the "
        "default, resizes all to data.size; data.fit=crop keeps their size, data.fit=keep their aspect ratio"
    ]

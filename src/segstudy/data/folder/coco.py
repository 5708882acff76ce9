"""Masks in a COCO file of object annotations."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.folder.mask_format import BACKGROUND, IndexedMask, MaskFormat
from segstudy.data.folder.shapes import AnnotatedObject, fill_polygon, paint_objects, polygon_area
from segstudy.data.folder.text import read_json
from segstudy.data.images import Sample, image_name
from segstudy.errors import DataError


def rle_counts(text: str) -> list[int]:
    """The run lengths in a compressed string of COCO.

    A character minus 48 has 5 bits of a number, the lowest first, and a sixth bit if more follow; the fifth bit of the
    last character is the sign. From the fourth number on, each is the difference to the number two before.
    Hand-written because pycocotools accepts runs that do not fill the image.
    Source: the COCO API's mask format (Lin et al. 2014).
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def rle_mask(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Mask bool (H,W) from run lengths (outside first, column by column). Raises ValueError unless they fill it."""
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"the runs cover {sum(counts)} pixels, the image has {height}×{width}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


class Coco:
    """A COCO file of object annotations. The polygons of an object are joined; for overlaps see `paint_objects`.

    A crowd (iscrowd) counts as its class and is painted below all single objects. Categories become classes in the
    order of their ids. Raises DataError if the file has another format.
    """

    def __init__(self, path: Path):
        self.path = path
        content = read_json(path)
        try:
            categories = sorted(content["categories"], key=lambda c: c["id"])
            self.names = {c["id"]: str(c["name"]) for c in categories}
            self.images = {image_name(i["file_name"]): i for i in content["images"]}
            self.objects: dict[Any, list[dict]] = defaultdict(list)
            for each in content["annotations"]:
                self.objects[each["image_id"]].append(each)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path} is not a COCO file of objects: {error!r} is missing or has another form\n"
                "  expected: {images: [{id, file_name, height, width}], categories: [{id, name}], "
                "annotations: [{image_id, category_id, segmentation}]}"
            ) from error
        bases = defaultdict(list)
        for name in self.images:
            bases[Path(name).name].append(name)
        self.bases = {base: names[0] for base, names in bases.items() if len(names) == 1}

    def find(self, name: str) -> dict | None:
        """The entry of an image, by its path below the images, or by its file name if that is unique; or None."""
        return self.images.get(name) or self.images.get(self.bases.get(Path(name).name, ""))

    def read(self, sample: Sample) -> IndexedMask:
        image = self.find(sample.name)
        if image is None:
            raise DataError(f"{self.path} has no image {sample.name!r}")
        height, width = int(image["height"]), int(image["width"])
        return paint_objects(height, width, [self._object(a, height, width) for a in self.objects[image["id"]]])

    def _object(self, annotation: dict, height: int, width: int) -> AnnotatedObject:
        try:
            label, outline = self.names[annotation["category_id"]], annotation["segmentation"]
            if isinstance(outline, dict):
                if list(outline["size"]) != [height, width]:
                    raise ValueError(f"its mask has the size {outline['size']}, the image {[height, width]}")
                counts = outline["counts"]
                counts = rle_counts(counts) if isinstance(counts, str) else counts
                mask, area = rle_mask(counts, height, width), float(sum(counts[1::2]))
                return AnnotatedObject(label, math.inf if annotation.get("iscrowd") else area, lambda: mask)
            parts = [np.array(part, float).reshape(-1, 2) for part in outline]
            if not parts:
                raise ValueError("it has no segmentation, only a box")
        except (KeyError, TypeError, ValueError) as error:
            number = annotation.get("id", "without id")
            raise DataError(f"{self.path}: annotation {number} is invalid: {error}") from error
        area = math.inf if annotation.get("iscrowd") else sum(map(polygon_area, parts))
        return AnnotatedObject(label, area, lambda: np.any([fill_polygon(p, height, width) for p in parts], 0))


def coco_format(coco: Coco) -> MaskFormat:
    """The format of a COCO file."""
    content = f"COCO annotations of {len(coco.images)} images and {len(coco.names)} categories"
    keys = tuple(dict.fromkeys([BACKGROUND, *coco.names.values()]))
    return MaskFormat("COCO", f"{coco.path.name}: {content}", coco.read, on_upright_image=False, keys=keys)

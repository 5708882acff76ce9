"""Masks as people keep them: class numbers, colours, COCO and LabelMe outlines, each decoded to regions with keys.

A key is what the file itself calls a class: "7", "128,0,0" or "dog". What class a key means is said in description.py.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.images import Sample, apply_orientation, open_picture
from segstudy.errors import DataError

IndexedMask = tuple[np.ndarray, list[str]]
"""Positions uint8 (H,W) in a list of keys."""

BACKGROUND = "background"
"""The key of what no outline covers."""


@dataclass(frozen=True)
class MaskFormat:
    """A kind of masks: how a sample's is decoded, and the one line that says what was recognised.

    upright: of outlines, whether they lie on the photo as EXIF turns it, where their stated size does not tell.
    keys: all that can occur, in the file's order, where the file itself lists them.
    """

    name: str
    said: str
    draw: Callable[[Sample], IndexedMask]
    upright: bool | None = None
    keys: tuple[str, ...] = ()

    def seen(self, drawn: np.ndarray, turn: int, shape: tuple[int, ...]) -> np.ndarray:
        """The mask (H,W) on the upright photo of `shape`; turn: EXIF orientation that was applied to the photo.

        A picture lies on the stored pixels. An outline on what its stated size fits.
        """
        if self.upright is not None:
            fits_stored = drawn.shape == (shape[::-1] if turn > 4 else shape)
            if drawn.shape == shape and (self.upright or not fits_stored):
                return drawn
        return apply_orientation(drawn, turn)


def mask_picture(path: Path) -> Any:
    """The decoded picture of a mask. Raises DataError for JPEG, which changes the values of pixels."""
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise DataError(
            f"{path} is a JPEG: its compression changes the colours of pixels, so that classes cannot be told apart\n"
            "  → export the masks as PNG from where they were drawn; converting the JPEG does not bring them back"
        )
    if picture.mode == "F":
        raise DataError(f"{path} holds floating-point values, not classes\n  → save the class numbers as 8-bit PNG")
    return picture


def is_coloured(picture: Any) -> bool:
    """Whether the channels of a decoded picture differ (an indexed picture has one channel)."""
    values = np.asarray(picture)
    return values.ndim == 3 and values.shape[2] > 2 and bool((values[..., :1] != values[..., 1:3]).any())


def read_index_mask(sample: Sample) -> IndexedMask:
    """A picture whose values are class numbers: indexed, greyscale, or RGB with three equal channels."""
    path = _path(sample)
    picture = mask_picture(path)
    if is_coloured(picture):
        raise DataError(
            f"{path} is a colour picture ({picture.mode}), the other masks hold class numbers\n"
            "  → save it as they are: the class number of each pixel, not its colour"
        )
    values = np.asarray(picture)
    return _keyed(path, values if values.ndim == 2 else values[..., 0], str, "values")


def read_color_mask(sample: Sample) -> IndexedMask:
    """A picture whose colours are classes; transparency is dropped."""
    path = _path(sample)
    red, green, blue = np.moveaxis(np.asarray(mask_picture(path).convert("RGB")).astype(np.int64), 2, 0)
    return _keyed(path, red << 16 | green << 8 | blue, lambda v: f"{v >> 16},{v >> 8 & 255},{v & 255}", "colours")


def _keyed(path: Path, values: np.ndarray, key: Callable[[int], str], what: str) -> IndexedMask:
    found, positions = np.unique(values, return_inverse=True)
    if len(found) > 256:
        raise DataError(
            f"{path} holds {len(found):,} {what}: too many for a mask of classes\n"
            "  → are these numbers of objects, or was the mask resized or saved with smoothed edges?"
        )
    return positions.reshape(values.shape).astype(np.uint8), [key(int(v)) for v in found]


@dataclass(frozen=True)
class Object:
    """One object: its label, its area in pixels (inf for what lies under everything), and how it is drawn."""

    label: str
    area: float
    draw: Callable[[], np.ndarray]


def paint(height: int, width: int, objects: Sequence[Object]) -> IndexedMask:
    """Objects over background: the larger first, so that smaller ones lie on top; of equal ones the later on top."""
    keys = list(dict.fromkeys([BACKGROUND, *(o.label for o in objects)]))
    drawn = np.zeros((height, width), np.uint8)
    for each in sorted(objects, key=lambda o: -o.area):
        drawn[each.draw()] = keys.index(each.label)
    return drawn, keys


def fill(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose centre is inside a polygon: bool (H,W). points (N,2): x, y; pixel (0,0) covers [0,1)×[0,1).

    A pixel is inside if a ray to its left crosses an odd number of edges; so a crossing outline leaves holes.
    """
    crossed = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        # rows whose centre lies in [top, bottom): a corner belongs to one of its two edges
        top, bottom = (min(max(math.ceil(y - 0.5), 0), height) for y in sorted((y0, y1)))
        if top < bottom:
            rows = np.arange(top, bottom)
            x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            crossed[rows, np.ceil(x - 0.5).clip(0, width).astype(int)] ^= 1
    return np.bitwise_xor.accumulate(crossed, 1)[:, :width].astype(bool)


def polygon_area(points: np.ndarray) -> float:
    """Area of a polygon (N,2) that does not cross itself, by the shoelace formula."""
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def rle_counts(text: str) -> list[int]:
    """The run lengths of COCO's compressed string.

    Each character holds 5 bits above 48, lowest first, and a sixth that says whether more follow; the last one's fifth
    bit is the sign. From the fourth number on, it is the difference to the number two before.
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
    """Run lengths (outside first, column by column) as bool (H,W). Raises ValueError if they do not fill the image."""
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"the runs cover {sum(counts)} pixels, the image has {height}×{width}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


class Coco:
    """A COCO JSON of objects. Several polygons of one object are joined; where objects overlap, see `paint`.

    A crowd (iscrowd) is of its class and lies under every single object. Categories become classes by the order of
    their ids. Raises DataError if the file is not of that format.
    """

    def __init__(self, path: Path):
        self.path = path
        content = read_json(path)
        try:
            categories = sorted(content["categories"], key=lambda c: c["id"])
            self.names = {c["id"]: str(c["name"]) for c in categories}
            self.images = {str(Path(i["file_name"]).with_suffix("").as_posix()): i for i in content["images"]}
            self.objects: dict[Any, list[dict]] = defaultdict(list)
            for each in content["annotations"]:
                self.objects[each["image_id"]].append(each)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no COCO file of objects: {error!r} is missing or of another form\n"
                "  expected: {images: [{id, file_name, height, width}], categories: [{id, name}], "
                "annotations: [{image_id, category_id, segmentation}]}"
            ) from error
        bases = defaultdict(list)
        for name in self.images:
            bases[Path(name).name].append(name)
        self.bases = {base: names[0] for base, names in bases.items() if len(names) == 1}

    def find(self, name: str) -> dict | None:
        """The image's entry, by its path below the images or, where only one has it, by its bare name."""
        return self.images.get(name) or self.images.get(self.bases.get(Path(name).name, ""))

    def draw(self, sample: Sample) -> IndexedMask:
        image = self.find(sample.name)
        if image is None:
            raise DataError(f"{self.path} has no image {sample.name!r}")
        height, width = int(image["height"]), int(image["width"])
        return paint(height, width, [self._object(a, height, width) for a in self.objects[image["id"]]])

    def _object(self, annotation: dict, height: int, width: int) -> Object:
        try:
            label, outline = self.names[annotation["category_id"]], annotation["segmentation"]
            if isinstance(outline, dict):
                if list(outline["size"]) != [height, width]:
                    raise ValueError(f"its mask is of size {outline['size']}, the image of {[height, width]}")
                counts = outline["counts"]
                counts = rle_counts(counts) if isinstance(counts, str) else counts
                mask, area = rle_mask(counts, height, width), float(sum(counts[1::2]))
                return Object(label, math.inf if annotation.get("iscrowd") else area, lambda: mask)
            parts = [np.array(part, float).reshape(-1, 2) for part in outline]
            if not parts:
                raise ValueError("it has no outline, only a box")
        except (KeyError, TypeError, ValueError) as error:
            number = annotation.get("id", "without id")
            raise DataError(f"{self.path}: annotation {number} cannot be drawn: {error}") from error
        area = math.inf if annotation.get("iscrowd") else sum(map(polygon_area, parts))
        return Object(label, area, lambda: np.any([fill(p, height, width) for p in parts], 0))


def read_labelme(sample: Sample) -> IndexedMask:
    """Polygons, rectangles and circles of a LabelMe JSON; where they overlap, see `paint`."""
    path = _path(sample)
    content = read_json(path)
    try:
        height, width = int(content["imageHeight"]), int(content["imageWidth"])
        return paint(height, width, [_shape(s, height, width) for s in content["shapes"]])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be drawn: {error}\n"
            "  expected: LabelMe's {imageHeight, imageWidth, shapes: [{label, shape_type, points}]}"
        ) from error


def _shape(shape: dict, height: int, width: int) -> Object:
    label, kind, points = str(shape["label"]), shape.get("shape_type", "polygon"), np.array(shape["points"], float)
    if kind == "circle":
        (x, y), edge = points
        radius = math.hypot(edge[0] - x, edge[1] - y)
        rows, columns = np.ogrid[:height, :width]
        return Object(label, math.pi * radius**2, lambda: np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= radius)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind not in ("polygon", "rectangle"):
        raise ValueError(f"the shape {kind!r} of {label!r} is no area (known: polygon, rectangle, circle)")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"the points of {label!r} are no list of [x, y]")
    return Object(label, polygon_area(points), lambda: fill(points, height, width))


def coco_format(coco: Coco) -> MaskFormat:
    """The kind of a COCO file."""
    said = f"COCO outlines of {len(coco.images)} images and {len(coco.names)} categories"
    keys = tuple(dict.fromkeys([BACKGROUND, *coco.names.values()]))
    return MaskFormat("COCO", f"{coco.path.name}: {said}", coco.draw, upright=False, keys=keys)


def detect_format(paths: Sequence[Path], colours_known: bool) -> MaskFormat:
    """The kind of masks in files of their own, from up to 20 of them. colours_known: the classes have colours.

    Raises DataError if none of them can be read.
    """
    looked = [paths[i * len(paths) // min(20, len(paths))] for i in range(min(20, len(paths)))]
    where = f"{paths[0].parent.name}/ (looked at {len(looked)} of {len(paths)})"
    if paths[0].suffix.lower() == ".json":
        return MaskFormat("LabelMe", f"{where}: LabelMe outlines", read_labelme, upright=True)
    pictures, broken = [], []
    for path in looked:
        try:
            pictures.append(mask_picture(path))
        except DataError as error:  # said of each file later, unless none is better
            broken.append(error)
    if not pictures:
        raise broken[0]
    modes = ", ".join(sorted({p.mode for p in pictures}))
    three = any(len(p.getbands()) > 2 for p in pictures)
    # three equal channels are greys, which are class numbers unless the classes have been given colours
    if any(map(is_coloured, pictures)) or (three and colours_known):
        return MaskFormat("colours", f"{where}: pictures ({modes}) whose colours are classes", read_color_mask)
    return MaskFormat("numbers", f"{where}: pictures ({modes}) whose values are class numbers", read_index_mask)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but not there") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _path(sample: Sample) -> Path:
    if sample.mask is None:
        raise DataError(f"{sample.name} has no mask")
    return sample.mask

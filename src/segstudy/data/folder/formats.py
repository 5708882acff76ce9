"""Mask formats: class numbers, colours, COCO and LabelMe annotations; each is decoded to an indexed mask.

A key is the name of a class in the file: "7", "128,0,0" or "dog". classes.py maps keys to classes.
"""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.images import Sample, apply_orientation, image_name, open_picture
from segstudy.errors import DataError

IndexedMask = tuple[np.ndarray, list[str]]
"""(indices uint8 (H,W), list of keys that they index)."""

Rgb = tuple[int, int, int]

BACKGROUND = "background"
"""Key of the pixels that no annotation covers."""


@dataclass(frozen=True)
class MaskFormat:
    """How the masks of a folder are decoded. summary: the recognised format, in one line.

    on_upright_image: for annotations whose size fits both, whether they are drawn on the image after EXIF rotation;
    None for pictures. keys: all possible keys, if the file lists them. palette: {key: colour} of an indexed picture.
    """

    name: str
    summary: str
    read: Callable[[Sample], IndexedMask]
    on_upright_image: bool | None = None
    keys: tuple[str, ...] = ()
    palette: Mapping[str, Rgb] = field(default_factory=dict)

    @property
    def annotated(self) -> bool:
        """Whether the masks are annotations (outlines of objects), not pictures."""
        return self.on_upright_image is not None

    def orient(self, mask: np.ndarray, orientation: int, shape: tuple[int, ...]) -> np.ndarray:
        """The mask (H,W) rotated like its image. orientation: its EXIF orientation; shape: its size, rotated.

        A picture is drawn on the stored pixels; annotations are on the stored or the rotated image, by their size.
        """
        if self.annotated:
            fits_stored = mask.shape == (shape[::-1] if orientation > 4 else shape)
            if mask.shape == shape and (self.on_upright_image or not fits_stored):
                return mask
        return apply_orientation(mask, orientation)


def open_mask(path: Path) -> Any:
    """The decoded picture of a mask. Raises DataError for JPEG, whose compression changes values."""
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise DataError(
            f"{path} is a JPEG: compression has changed its pixels, so that classes cannot be distinguished\n"
            "  → export PNG masks from the program they were drawn in; converting the JPEG does not restore them"
        )
    if picture.mode == "F":
        raise DataError(f"{path} holds floating-point values, not classes\n  → save the class numbers as 8-bit PNG")
    return picture


def has_color(picture: Any) -> bool:
    """Whether the channels of a picture differ (an indexed picture has only one)."""
    values = np.asarray(picture)
    return values.ndim == 3 and values.shape[2] > 2 and bool((values[..., :1] != values[..., 1:3]).any())


def read_index_mask(sample: Sample) -> IndexedMask:
    """Read a mask of class numbers: an indexed or greyscale picture, or RGB with three equal channels."""
    path = sample.file("mask")
    picture = open_mask(path)
    if has_color(picture):
        raise DataError(
            f"{path} is a colour picture ({picture.mode}), but the other masks hold class numbers\n"
            "  → save the class number of each pixel, not its colour"
        )
    values = np.asarray(picture)
    return _index_values(path, values if values.ndim == 2 else values[..., 0], str, "values")


def read_color_mask(sample: Sample) -> IndexedMask:
    """Read a mask whose colours are classes; transparency is dropped."""
    path = sample.file("mask")
    red, green, blue = np.moveaxis(np.asarray(open_mask(path).convert("RGB")).astype(np.int64), 2, 0)
    return _index_values(
        path, red << 16 | green << 8 | blue, lambda v: f"{v >> 16},{v >> 8 & 255},{v & 255}", "colours"
    )


def _index_values(path: Path, values: np.ndarray, key: Callable[[int], str], what: str) -> IndexedMask:
    unique, positions = np.unique(values, return_inverse=True)
    if len(unique) > 256:
        raise DataError(
            f"{path} holds {len(unique):,} {what}: too many for a mask of classes\n"
            "  → does it number single objects, or was it resized or saved with smooth edges?"
        )
    return positions.reshape(values.shape).astype(np.uint8), [key(int(v)) for v in unique]


@dataclass(frozen=True)
class AnnotatedObject:
    """An object: its label, its area in pixels (inf: painted below all others), and its pixels, bool (H,W)."""

    label: str
    area: float
    pixels: Callable[[], np.ndarray]


def paint_objects(height: int, width: int, objects: Sequence[AnnotatedObject]) -> IndexedMask:
    """Paint objects on background: smaller over larger ones; of equal size, later over earlier ones."""
    keys = list(dict.fromkeys([BACKGROUND, *(o.label for o in objects)]))
    mask = np.zeros((height, width), np.uint8)
    for each in sorted(objects, key=lambda o: -o.area):
        mask[each.pixels()] = keys.index(each.label)
    return mask, keys


def fill_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centre is inside a polygon, by the even-odd rule: bool (H,W).

    points (N,2): x, y; pixel (0,0) covers [0,1)×[0,1). Hand-written because libraries draw the border differently:
    scikit-image gives a pixel on a shared edge to both neighbours (and takes 0.8 s instead of 25 ms), Pillow adds the
    outline, pycocotools draws on a grid of fifths of a pixel (1.5 % of the pixels of 24×20 polygons differ).
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
    """Area of a polygon (N,2) without self-crossings: the shoelace formula."""
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


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


def read_labelme(sample: Sample) -> IndexedMask:
    """Read polygons, rectangles and circles from a LabelMe file; for overlaps see `paint_objects`."""
    path = sample.file("mask")
    content = read_json(path)
    try:
        height, width = int(content["imageHeight"]), int(content["imageWidth"])
        return paint_objects(height, width, [_labelme_object(s, height, width) for s in content["shapes"]])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is invalid: {error}\n"
            "  expected: LabelMe's {imageHeight, imageWidth, shapes: [{label, shape_type, points}]}"
        ) from error


def _labelme_object(shape: dict, height: int, width: int) -> AnnotatedObject:
    label, kind, points = str(shape["label"]), shape.get("shape_type", "polygon"), np.array(shape["points"], float)
    if kind == "circle":
        (x, y), edge = points
        radius = math.hypot(edge[0] - x, edge[1] - y)
        rows, columns = np.ogrid[:height, :width]
        return AnnotatedObject(
            label, math.pi * radius**2, lambda: np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= radius
        )
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind not in ("polygon", "rectangle"):
        raise ValueError(f"the shape {kind!r} of {label!r} is not an area (known: polygon, rectangle, circle)")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"the points of {label!r} are not a list of [x, y]")
    return AnnotatedObject(label, polygon_area(points), lambda: fill_polygon(points, height, width))


def coco_format(coco: Coco) -> MaskFormat:
    """The format of a COCO file."""
    content = f"COCO annotations of {len(coco.images)} images and {len(coco.names)} categories"
    keys = tuple(dict.fromkeys([BACKGROUND, *coco.names.values()]))
    return MaskFormat("COCO", f"{coco.path.name}: {content}", coco.read, on_upright_image=False, keys=keys)


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
    return MaskFormat("numbers", summary, read_index_mask, palette=_palette(pictures[0]))


def _palette(picture: Any) -> dict[str, Rgb]:
    """{key: colour} of an indexed picture, {} of another one."""
    values = picture.getpalette("RGB") or [] if picture.mode == "P" else []
    return {str(i): (r, g, b) for i, (r, g, b) in enumerate(zip(*[iter(values)] * 3, strict=False))}


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, with or without a byte-order mark. Raises DataError if unreadable."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} is listed but missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}\n  → save it as UTF-8 text") from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV: {column: value}."""
    return list(csv.DictReader(io.StringIO(read_text(path))))


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError if unreadable."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error

"""Masks in LabelMe files."""

import math

import numpy as np

from segstudy.data.folder.mask_format import IndexedMask
from segstudy.data.folder.shapes import AnnotatedObject, fill_polygon, paint_objects, polygon_area
from segstudy.data.folder.text import read_json
from segstudy.data.images import Sample
from segstudy.errors import DataError


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

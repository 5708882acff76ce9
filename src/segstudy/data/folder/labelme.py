"""Masks in LabelMe files."""

import math
from typing import Any

from segstudy.data.folder.mask_format import BACKGROUND, IndexedMask
from segstudy.data.folder.shapes import AnnotatedObject, Canvas, decode_picture, is_line, read_annotations, required
from segstudy.data.images import Sample, header_shape

LINES = ("line", "linestrip", "point")
VOID = "__ignore__"  # labelMe's label of areas that are to be ignored


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file has LabelMe's form."""
    return isinstance(content, dict) and "shapes" in content


def read_labelme(sample: Sample, line_width: float | None = None) -> IndexedMask:
    """Read the shapes in a LabelMe file; for overlaps see `Canvas.paint`. line_width: of lines and points."""

    def paint(content: Any) -> IndexedMask:
        height, width = content.get("imageHeight"), content.get("imageWidth")
        if height is None or width is None:
            height, width = header_shape(sample.file("image"))
        canvas = Canvas(int(height), int(width), line_width)
        return canvas.paint([_object(shape, canvas) for shape in required(content, "shapes")])

    expected = "LabelMe's {imageHeight, imageWidth, shapes: [{label, shape_type, points}]}"
    return read_annotations(sample.file("mask"), paint, expected)


def _object(shape: dict, canvas: Canvas) -> AnnotatedObject:
    label, kind = str(required(shape, "label")).strip(), shape.get("shape_type") or "polygon"
    label, points = BACKGROUND if label == "_background_" else label, required(shape, "points")
    try:
        if kind == "mask":
            x, y = map(int, points[0])
            return AnnotatedObject(label, canvas.bitmap(decode_picture(required(shape, "mask")), x, y))
        if kind == "circle":
            centre, edge = points
            return AnnotatedObject(label, canvas.stroke([centre], 2 * math.dist(centre, edge)))
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        elif kind in LINES or (kind == "polygon" and is_line(points)):
            return canvas.line(label, points)
        elif kind not in ("polygon", "rectangle", "oriented_rectangle", "rotation"):
            raise ValueError(f"the shape {kind!r} is not known (polygon, rectangle, circle, mask, {', '.join(LINES)})")
        return AnnotatedObject(label, canvas.area([points]))
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"the {kind} {label!r}: {error}") from error

"""Masks in Supervisely's annotation files."""

import zlib
from typing import Any

import numpy as np

from segstudy.data.folder.mask_format import IndexedMask
from segstudy.data.folder.shapes import AnnotatedObject, Canvas, decode_picture, is_line, read_annotations, required
from segstudy.data.images import Sample


def is_supervisely(content: Any) -> bool:
    """Whether the content of a JSON file has Supervisely's form."""
    return isinstance(content, dict) and isinstance(content.get("size"), dict) and "objects" in content


def read_supervisely(sample: Sample, line_width: float | None = None) -> IndexedMask:
    """Read the objects in a file of Supervisely; for overlaps see `Canvas.paint`. line_width: of lines and points."""

    def paint(content: Any) -> IndexedMask:
        size = required(content, "size")
        canvas = Canvas(int(size["height"]), int(size["width"]), line_width)
        return canvas.paint([_object(each, canvas) for each in required(content, "objects")])

    expected = "Supervisely's {size: {height, width}, objects: [{classTitle, geometryType, points or bitmap}]}"
    return read_annotations(sample.file("mask"), paint, expected)


def _object(each: dict, canvas: Canvas) -> AnnotatedObject:
    label, kind = str(required(each, "classTitle")).strip(), each.get("geometryType", "polygon")
    try:
        if kind == "bitmap":
            bitmap = required(each, "bitmap")
            x, y = map(int, required(bitmap, "origin"))
            pixels = decode_picture(required(bitmap, "data"), zlib.decompress)
            return AnnotatedObject(label, canvas.bitmap(pixels, x, y))
        points = required(each, "points")
        exterior = np.array(required(points, "exterior"), float) + 0.5  # they name pixels, and mean their centres
        if kind in ("line", "point") or (kind == "polygon" and is_line(exterior)):
            return canvas.line(label, exterior)
        if kind == "rectangle":
            (x0, y0), (x1, y1) = exterior.min(0) - 0.5, exterior.max(0) + 0.5
            return AnnotatedObject(label, canvas.area([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]))
        if kind != "polygon":
            raise ValueError("the geometry is not known (polygon, rectangle, bitmap, line, point)")
        holes = [np.array(hole, float) + 0.5 for hole in points.get("interior", [])]
        border = canvas.stroke([*exterior, exterior[0]], 1)  # its pixels belong to the object
        return AnnotatedObject(label, canvas.union([canvas.area([exterior], holes), border]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"the {kind} {label!r}: {error}") from error

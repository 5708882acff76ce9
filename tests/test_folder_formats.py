"""Masks of every kind: run lengths and outlines by hand, colours, COCO and LabelMe files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from segstudy.data.folder.coco import CocoFile, read_coco, read_objects
from segstudy.data.folder.description import Description
from segstudy.data.folder.formats import detect_format
from segstudy.data.folder.labelme import read_labelme
from segstudy.data.folder.mask_format import IndexedMask, MaskFormat
from segstudy.data.folder.pictures import read_picture
from segstudy.data.folder.shapes import Canvas, decode
from segstudy.data.images import Sample, apply_orientation
from segstudy.errors import DataError


def inside(points: np.ndarray, x: float, y: float) -> bool:
    """Whether a point is in a polygon, by the angles under which its edges are seen: 2π inside, 0 outside."""
    a = points - (x, y)
    b = np.roll(a, -1, 0)
    angle = np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1)).sum()
    return abs(angle) > np.pi


def labelled(drawn: IndexedMask) -> list[list[str]]:
    indices, keys = drawn[:2]
    return np.array(keys)[indices].tolist()


def draw(file: CocoFile) -> IndexedMask:
    return read_objects(Sample("a"), [(file, 7)])


def coco(path: Path, annotations: list[dict], size: tuple[int, int] = (4, 4)) -> CocoFile:
    images = [{"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}]
    categories = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    annotations = [{"image_id": 7, "id": i, "iscrowd": 0} | a for i, a in enumerate(annotations)]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return read_coco(path)


# Shapes


def pixels(canvas: Canvas, points: Any, *more: Any) -> np.ndarray:
    return decode(canvas.area([points], *more))


def test_a_polygon_covers_the_pixels_whose_centre_is_inside() -> None:
    square = [(1, 1), (4, 1), (4, 4), (1, 4)]
    expected = np.zeros((6, 6), bool)
    expected[1:4, 1:4] = True
    np.testing.assert_array_equal(pixels(Canvas(6, 6), square), expected)
    np.testing.assert_array_equal(pixels(Canvas(6, 6), square[::-1]), expected)
    expected[2, 2] = False
    np.testing.assert_array_equal(pixels(Canvas(6, 6), square, [[(2, 2), (3, 2), (3, 3), (2, 3)]]), expected)
    # neighbours that share an edge share no pixel and leave none out
    halves = [pixels(Canvas(5, 5), points) for points in ([(0, 0), (5, 0), (0, 5)], [(5, 0), (5, 5), (0, 5)])]
    assert (halves[0] ^ halves[1]).all()
    assert pixels(Canvas(3, 4), [(-9, -9), (20, -9), (20, 20), (-9, 20)]).all()


@pytest.mark.parametrize("seed", range(4))
def test_polygons_against_angles(seed: int) -> None:
    """pycocotools draws on a grid of fifths of a pixel: only pixels with the border near their centre differ."""
    rng = np.random.default_rng(seed)
    turns = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(40, 140, 9)
    points = np.stack([120 + radius * np.cos(turns), 100 + radius * np.sin(turns)], 1)
    expected = np.array([[inside(points, x + 0.5, y + 0.5) for x in range(240)] for y in range(200)])
    assert (pixels(Canvas(200, 240), points) != expected).mean() < 0.003


def test_strokes_and_bitmaps_are_cut_off_at_the_border() -> None:
    canvas = Canvas(4, 5)
    row, column = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    row[1, :3] = True
    np.testing.assert_array_equal(decode(canvas.stroke([(-50, 1.5), (2.5, 1.5)], 1)), row)
    column[0:3, 4] = True
    np.testing.assert_array_equal(decode(canvas.stroke([(4.5, 0.5), (4.5, 1.5), (4.5, 2.5)], 1)), column)
    assert decode(canvas.stroke([(2.5, 1.5)], 3)).sum() == 9  # the corners are 1.41 away
    assert not decode(canvas.stroke([(90, 90)], 3)).any()
    corner = np.zeros((4, 5), bool)
    corner[:2, :1] = True
    np.testing.assert_array_equal(decode(canvas.bitmap(np.ones((3, 3), bool), -2, -1)), corner)
    np.testing.assert_array_equal(decode(canvas.bitmap(np.ones((9, 9), bool), 4, 3)), np.arange(20).reshape(4, 5) == 19)
    assert not decode(canvas.bitmap(np.ones((2, 2), bool), 7, 0)).any()


@pytest.mark.parametrize("points", [[(0, 0), (1e9, 0), (0, 5)], [(0, 0), (float("nan"), 0), (0, 5)], [1, 2, 3], "ab"])
def test_points_that_are_none(points: Any) -> None:
    with pytest.raises(ValueError, match=r"within ±100,000|list of x and y|could not convert"):
        Canvas(5, 5).area([points])


# COCO


def box(x: int, y: int, side: int) -> list[int]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def test_smaller_objects_lie_over_larger_ones_and_crowds_under_all(tmp_path: Path) -> None:
    objects = [
        {"category_id": 9, "segmentation": [box(0, 0, 1), box(3, 3, 1)]},  # one object of two parts, the smallest
        {"category_id": 3, "segmentation": [box(0, 0, 3)]},
        {"category_id": 9, "segmentation": {"size": [4, 4], "counts": [1, 1, 14]}, "iscrowd": 1},  # pixel (1,0)
        {"category_id": 9, "segmentation": {"size": [4, 4], "counts": "<13"}},  # 12 out, 1 in, 3 out: pixel (0,3)
    ]
    drawn = labelled(draw(coco(tmp_path / "a.json", objects)))
    b, c, d = "background", "cat", "dog"
    assert drawn == [[d, c, c, d], [c, c, c, b], [c, c, c, b], [b, b, b, d]]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 4, "segmentation": [box(0, 0, 1)]}, "annotation 0 is invalid: the category 4 has no name"),
        ({"category_id": 3, "segmentation": [[1, 2, 3]]}, "list of x and y"),
        ({"category_id": 3, "segmentation": {"size": [4, 4], "counts": "<1999"}}, "Invalid RLE"),
        ({"category_id": 3, "segmentation": {"size": [4, 4], "counts": [-1, 17]}}, "out of bounds"),
        ({"category_id": 3, "segmentation": {"size": [2, 2], "counts": [4]}}, r"the size \[2, 2\]"),
        ({"category_id": 3, "segmentation": {"size": [4, 4], "counts": [9]}}, "cover 9 pixels"),
    ],
)
def test_annotations_that_cannot_be_drawn_are_named(tmp_path: Path, annotation: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw(coco(tmp_path / "a.json", [annotation]))


def test_files_that_are_no_coco(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"not a COCO file of objects: .*categories"):
        read_coco(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path / "a.json")


# LabelMe


def labelme(path: Path, shapes: list[dict], height: int = 5, width: int = 5) -> Sample:
    path.write_text(json.dumps({"imageHeight": height, "imageWidth": width, "shapes": shapes}))
    return Sample("a", mask=path)


def test_labelme_shapes(tmp_path: Path) -> None:
    shapes = [
        {"label": "disc", "shape_type": "circle", "points": [[2.5, 2.5], [2.5, 3.6]]},  # radius 1.1: a plus
        {"label": "box", "shape_type": "rectangle", "points": [[5, 5], [0, 3]]},
        {"label": "dot", "points": [[0, 0], [1, 0], [1, 1], [0, 1]]},
    ]
    drawn = labelled(read_labelme(labelme(tmp_path / "a.json", shapes)))
    assert drawn == [
        ["dot", *["background"] * 4],
        ["background", "background", "disc", "background", "background"],
        ["background", "disc", "disc", "disc", "background"],
        ["box", "box", "disc", "box", "box"],
        ["box"] * 5,
    ]


# Pictures


def test_numbers_and_colours(tmp_path: Path) -> None:
    values = np.array([[0, 7], [255, 7]], np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([values] * 3, 2)).save(tmp_path / "equal.png")
    colours = np.array([[(0, 0, 0), (128, 64, 1)], [(0, 0, 255), (128, 64, 1)]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")

    def read(name: str, kind: str = "numbers") -> list[list[str]]:
        return labelled(read_picture(Sample("a", mask=tmp_path / f"{name}.png"), kind))

    for name in ("grey", "equal"):
        assert read(name) == [["0", "7"], ["255", "7"]]
    assert read("deep") == [["0", "700"], ["25500", "700"]]
    assert read("colours", "colours") == [["0,0,0", "128,64,1"], ["0,0,255", "128,64,1"]]
    with pytest.raises(DataError, match="is a colour picture"):
        read("colours")
    kinds = {
        n: detect_format([tmp_path / f"{n}.png"], Description()).kind for n in ("grey", "deep", "equal", "colours")
    }
    assert kinds == {"grey": "numbers", "deep": "numbers", "equal": "numbers", "colours": "colours"}
    coloured = Description(classes=["a", "b"], palette=[[0, 0, 0], [7, 7, 7]])
    assert detect_format([tmp_path / "equal.png"], coloured).kind == "colours"


def test_jpeg_and_smoothed_masks_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="JPEG: compression has changed its pixels"):
        detect_format([tmp_path / "a.jpg"], Description())
    with pytest.raises(DataError, match=r"holds 1,600 colours: too many"):
        read_picture(Sample("a", mask=tmp_path / "a.png"), "colours")


# Orientation


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_is_what_pillow_does(turn: int) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = Image.fromarray(values)
    picture.getexif()[274] = turn
    np.testing.assert_array_equal(apply_orientation(values, turn), np.asarray(ImageOps.exif_transpose(picture)))


def test_outlines_lie_on_what_their_size_fits() -> None:
    stored, on_upright_image = np.arange(12).reshape(3, 4), np.zeros((4, 3), int)
    coco_kind, labelme_kind = (MaskFormat("", "", read_labelme, on_upright_image=u) for u in (False, True))
    for kind in (coco_kind, labelme_kind):
        assert kind.orient(on_upright_image, 6, (4, 3)) is on_upright_image
        np.testing.assert_array_equal(kind.orient(stored, 6, (4, 3)), np.rot90(stored, -1))
    # half a turn: the size does not tell
    np.testing.assert_array_equal(coco_kind.orient(stored, 3, (3, 4)), stored[::-1, ::-1])
    assert labelme_kind.orient(stored, 3, (3, 4)) is stored

"""Masks of every kind: run lengths and outlines by hand, colours, COCO and LabelMe files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from segstudy.data.folder.coco import Coco, rle_counts, rle_mask
from segstudy.data.folder.formats import detect_format
from segstudy.data.folder.labelme import read_labelme
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.pictures import read_color_mask, read_index_mask
from segstudy.data.folder.shapes import fill_polygon, polygon_area
from segstudy.data.images import Sample, apply_orientation
from segstudy.errors import DataError


def inside(points: np.ndarray, x: float, y: float) -> bool:
    """Whether a point is in a polygon, by the angles under which its edges are seen: 2π inside, 0 outside."""
    a = points - (x, y)
    b = np.roll(a, -1, 0)
    angle = np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1)).sum()
    return abs(angle) > np.pi


def labelled(drawn: tuple[np.ndarray, list[str]]) -> list[list[str]]:
    return np.array(drawn[1])[drawn[0]].tolist()


def coco(path: Path, annotations: list[dict], size: tuple[int, int] = (4, 4)) -> Coco:
    images = [{"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}]
    categories = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    annotations = [{"image_id": 7, "id": i, "iscrowd": 0} | a for i, a in enumerate(annotations)]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return Coco(path)


# Run lengths


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1231", [1, 2, 3, 3]),  # the fourth is 2 + 1
        ("123N", [1, 2, 3, 0]),  # N: −2, five bits 11110 with the sign, and 2 − 2
        ("d00", [20, 0]),  # 20 = 10100 would look negative in five bits: d says that more follow
        ("PP100", [1024, 0, 0]),  # P = 100000: five zeros, and more; again; then 1 · 2¹⁰
    ],
)
def test_compressed_run_lengths_by_hand(text: str, counts: list[int]) -> None:
    assert rle_counts(text) == counts


@pytest.mark.parametrize("seed", range(3))
def test_compressed_run_lengths_of_any_size(seed: int) -> None:
    """Written by the rule of the format, with Python's own shift of negative numbers, and read back."""
    counts = np.random.default_rng(seed).integers(0, 10 ** (seed + 2), 50).tolist()
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while not -16 <= value < 16:
            text, value = text + chr(48 + (value & 31 | 32)), value >> 5
        text += chr(48 + (value & 31))
    assert rle_counts(text) == counts


def test_a_mask_of_3_by_3_by_hand() -> None:
    # columns: [0 1 1] [0 0 0] [1 1 1]
    expected = [[0, 0, 1], [1, 0, 1], [1, 0, 1]]
    assert rle_mask([1, 2, 3, 3], 3, 3).astype(int).tolist() == expected
    assert rle_mask(rle_counts("1231"), 3, 3).astype(int).tolist() == expected
    assert rle_mask([0, 2, 4], 2, 3).astype(int).tolist() == [[1, 0, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="cover 8 pixels"):
        rle_mask([1, 2, 3, 2], 3, 3)


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_of_pycocotools(seed: int) -> None:
    pycocotools = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((17, 23)) < 0.5 if seed else np.zeros((17, 23), bool)
    counts = pycocotools.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    np.testing.assert_array_equal(rle_mask(rle_counts(counts), 17, 23), mask)


# Polygons


def test_a_polygon_covers_the_pixels_whose_centre_is_inside() -> None:
    square = np.array([(1, 1), (4, 1), (4, 4), (1, 4)], float)
    expected = np.zeros((6, 6), bool)
    expected[1:4, 1:4] = True
    np.testing.assert_array_equal(fill_polygon(square, 6, 6), expected)
    np.testing.assert_array_equal(fill_polygon(square[::-1], 6, 6), expected)
    # neighbours that share an edge share no pixel and leave none out
    halves = [fill_polygon(np.array(p, float), 5, 5) for p in ([(0, 0), (5, 0), (0, 5)], [(5, 0), (5, 5), (0, 5)])]
    assert (halves[0] ^ halves[1]).all()
    assert fill_polygon(np.array([(-9, -9), (20, -9), (20, 20), (-9, 20)], float), 3, 4).all()


@pytest.mark.parametrize("seed", range(4))
def test_polygons_against_angles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turns = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(4, 14, 9)
    points = np.stack([12 + radius * np.cos(turns), 10 + radius * np.sin(turns)], 1)
    expected = [[inside(points, x + 0.5, y + 0.5) for x in range(24)] for y in range(20)]
    np.testing.assert_array_equal(fill_polygon(points, 20, 24), expected)
    big = fill_polygon(points * 20 + 100, 600, 700)
    assert abs(big.sum() / 400 / polygon_area(points) - 1) < 0.005


def test_area_by_hand() -> None:
    assert polygon_area(np.array([(0, 0), (4, 0), (4, 3)], float)) == 6
    assert polygon_area(np.array([(0, 0), (0, 2), (3, 2), (3, 0)], float)) == 6


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
    drawn = labelled(coco(tmp_path / "a.json", objects).read(Sample("a")))
    b, c, d = "background", "cat", "dog"
    assert drawn == [[d, c, c, d], [c, c, c, b], [c, c, c, b], [b, b, b, d]]


def test_coco_finds_images_by_path_or_bare_name(tmp_path: Path) -> None:
    file = coco(tmp_path / "a.json", [])
    assert file.find("sub/a") == file.find("a") == {"id": 7, "file_name": "a.jpg", "height": 4, "width": 4}
    assert file.find("b") is None
    assert labelled(file.read(Sample("a"))) == [["background"] * 4] * 4


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 4, "segmentation": [box(0, 0, 1)]}, "annotation 0 is invalid: 4"),
        ({"category_id": 3, "segmentation": []}, "no segmentation, only a box"),
        ({"category_id": 3, "segmentation": {"size": [2, 2], "counts": [4]}}, r"the size \[2, 2\]"),
        ({"category_id": 3, "segmentation": {"size": [4, 4], "counts": [9]}}, "cover 9 pixels"),
        ({"category_id": 3}, "segmentation"),
    ],
)
def test_annotations_that_cannot_be_drawn_are_named(tmp_path: Path, annotation: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        coco(tmp_path / "a.json", [annotation]).read(Sample("a"))


def test_files_that_are_no_coco(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"not a COCO file of objects: .*categories"):
        Coco(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Coco(tmp_path / "a.json")


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


def test_labelme_lines_and_missing_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'line' of 'x' is not an area"):
        read_labelme(labelme(tmp_path / "a.json", [{"label": "x", "shape_type": "line", "points": [[0, 0], [1, 1]]}]))
    (tmp_path / "a.json").write_text('{"shapes": []}')
    with pytest.raises(DataError, match="imageHeight"):
        read_labelme(Sample("a", mask=tmp_path / "a.json"))


# Pictures


def test_numbers_and_colours(tmp_path: Path) -> None:
    values = np.array([[0, 7], [255, 7]], np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([values] * 3, 2)).save(tmp_path / "equal.png")
    colours = np.array([[(0, 0, 0), (128, 64, 1)], [(0, 0, 255), (128, 64, 1)]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    for name in ("grey", "equal"):
        assert labelled(read_index_mask(Sample("a", mask=tmp_path / f"{name}.png"))) == [["0", "7"], ["255", "7"]]
    assert labelled(read_index_mask(Sample("a", mask=tmp_path / "deep.png"))) == [["0", "700"], ["25500", "700"]]
    drawn = labelled(read_color_mask(Sample("a", mask=tmp_path / "colours.png")))
    assert drawn == [["0,0,0", "128,64,1"], ["0,0,255", "128,64,1"]]
    with pytest.raises(DataError, match="is a colour picture"):
        read_index_mask(Sample("a", mask=tmp_path / "colours.png"))
    kinds = {n: detect_format([tmp_path / f"{n}.png"], False).name for n in ("grey", "deep", "equal", "colours")}
    assert kinds == {"grey": "numbers", "deep": "numbers", "equal": "numbers", "colours": "colours"}
    assert detect_format([tmp_path / "equal.png"], has_palette=True).name == "colours"


def test_jpeg_and_smoothed_masks_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="JPEG: compression has changed its pixels"):
        detect_format([tmp_path / "a.jpg"], False)
    with pytest.raises(DataError, match=r"holds 1,600 colours: too many"):
        read_color_mask(Sample("a", mask=tmp_path / "a.png"))


# Orientation


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_is_what_pillow_does(turn: int) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = Image.fromarray(values)
    picture.getexif()[274] = turn
    np.testing.assert_array_equal(apply_orientation(values, turn), np.asarray(ImageOps.exif_transpose(picture)))


def test_outlines_lie_on_what_their_size_fits() -> None:
    stored, on_upright_image = np.arange(12).reshape(3, 4), np.zeros((4, 3), int)
    coco_kind, labelme_kind = (MaskFormat("", "", read_index_mask, on_upright_image=u) for u in (False, True))
    for kind in (coco_kind, labelme_kind):
        assert kind.orient(on_upright_image, 6, (4, 3)) is on_upright_image
        np.testing.assert_array_equal(kind.orient(stored, 6, (4, 3)), np.rot90(stored, -1))
    # half a turn: the size does not tell
    np.testing.assert_array_equal(coco_kind.orient(stored, 3, (3, 4)), stored[::-1, ::-1])
    assert labelme_kind.orient(stored, 3, (3, 4)) is stored

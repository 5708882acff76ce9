"""Folders as they occur: what `segstudy data check` says of each, and which labels come out of the others."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segstudy.cli.main import app
from segstudy.data.bands import Bands
from segstudy.data.folder.check import FolderReport, check_folder
from segstudy.data.folder.datamodule import Folder
from segstudy.data.folder.problems import yaml_line
from segstudy.errors import DataError

SIDE, COUNT = 32, 10

Draw = Callable[[int], Image.Image]
RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


def scene(i: int) -> np.ndarray:
    """A disc of class 1, in every other image a square of class 2, and in every tenth a border of void around both."""
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[np.hypot(y - 10 - i % 3, x - 10) < 6] = 1
    labels[20:28, 18:28] = 2 * (i % 2)
    return labels


def values(*table: int) -> Draw:
    """Greyscale masks in which class k has the value table[k]."""
    return lambda i: Image.fromarray(np.array(table, np.uint8)[scene(i)])


def with_void(i: int) -> Image.Image:
    """As VOC: a border of 255 around the objects, in one mask instead of the objects."""
    labels = scene(i)
    grown = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(labels, step, axis) > 0
    labels[grown & (labels == 0)] = 255
    return Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8) if i == 3 else labels)


def void_share(i: int) -> Image.Image:
    labels = scene(i)
    labels[:, 22:] = 255
    return Image.fromarray(labels)


def mixed_binary(i: int) -> Image.Image:
    """Half of the masks 0 and 255, the others 0 and 1."""
    return Image.fromarray((scene(i) > 0).astype(np.uint8) * (255 if i % 2 else 1))


def through_jpeg(i: int) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray((scene(i) > 0).astype(np.uint8) * 255).save(file, "JPEG", quality=75)
    return Image.open(file).convert("L")


def interpolated(i: int) -> Image.Image:
    return Image.fromarray((scene(i) > 0).astype(np.uint8) * 255).resize((SIDE * 2, SIDE * 2), Image.Resampling.BICUBIC)


def colours_interpolated(i: int) -> Image.Image:
    picture = Image.fromarray(np.array([BLACK, RED, GREEN], np.uint8)[scene(i)])
    return picture.resize((SIDE * 2, SIDE * 2), Image.Resampling.BILINEAR)


def instance_ids(i: int) -> Image.Image:
    return Image.fromarray(np.array([0, 1000 + i, 2000 + i], np.uint16)[scene(i)])


def squares(*numbers: int) -> np.ndarray:
    """A square of each of these numbers, of at most eight."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for place, number in enumerate(numbers):
        y, x = 8 * (place // 4) + 1, 8 * (place % 4) + 1
        labels[y : y + 6, x : x + 6] = number
    return labels


def numbered_cells(i: int) -> Image.Image:
    """Two to seven cells, numbered from 1 in each mask."""
    return Image.fromarray(squares(*range(1, 3 + i % 6)))


def coloured_cells(i: int) -> Image.Image:
    """Three cells, each with a colour of its own."""
    colours = np.random.default_rng(i).integers(1, 256, (4, 3), dtype=np.uint8)
    colours[0] = 0
    return Image.fromarray(colours[squares(1, 2, 3)])


def nested_classes(i: int) -> Image.Image:
    """One to five classes, always the first ones, of which each has two areas."""
    labels = squares(*range(1, 2 + i % 5))
    labels[16:] = labels[:16]
    return Image.fromarray(labels)


def thin_lines(i: int) -> Image.Image:
    """Four classes that are lines of one pixel."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[[4, 11, 18, 25], i : i + 20] = [[1], [2], [3], [4]]
    return Image.fromarray(labels)


def neighbouring_numbers_through_jpeg(i: int) -> Image.Image:
    """Classes 0, 6 and 12, each also shifted by the number of the mask: the traces of one are the others' values."""
    labels = np.array([i % 4, 6 + i % 4, 12 + i % 4], np.uint8)[scene(i)].repeat(4, 0).repeat(4, 1)
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "JPEG", quality=90)
    return Image.open(file).convert("L")


def many_ids(i: int) -> Image.Image:
    labels = np.repeat(np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4), 8, 0), 8, 1)
    return Image.fromarray(labels + np.uint8(16 * (i % 6)))


def indexed(labels: np.ndarray, *palette: tuple[int, int, int]) -> Image.Image:
    picture = Image.fromarray(labels, "P")
    picture.putpalette([v for rgb in palette for v in rgb])
    return picture


def by_frequency(i: int) -> Image.Image:
    """Red discs and green squares; the order of the palette differs between files, as pngquant writes it."""
    order = [0, 1, 2] if i % 2 == 0 else [2, 0, 1]
    colours = np.array([BLACK, RED, GREEN])
    position = np.argsort(order).astype(np.uint8)
    return indexed(position[scene(i)], *(tuple(colours[k]) for k in order))


def grey_by_frequency(i: int) -> Image.Image:
    """Class numbers whose palette of grey values was ordered by frequency."""
    order = [0, 1, 2] if i % 2 == 0 else [2, 0, 1]
    return indexed(np.argsort(order).astype(np.uint8)[scene(i)], *((k, k, k) for k in order))


def indexed_and_grey(i: int) -> Image.Image:
    """Indexed red and green discs, and greyscale pictures with other values."""
    return indexed(scene(i), BLACK, RED, GREEN) if i % 2 else values(0, 7, 9)(i)


def indexed_and_numbers(i: int) -> Image.Image:
    return indexed(scene(i), BLACK, RED, GREEN) if i % 2 else values(0, 1, 2)(i)


def bilevel_and_grey(i: int) -> Image.Image:
    picture = Image.fromarray((scene(i) == 1).astype(np.uint8) * 255)
    return picture.convert("1") if i % 2 else picture


def colours_and_grey(i: int) -> Image.Image:
    return Image.fromarray(np.array([BLACK, RED, GREEN], np.uint8)[scene(i)]) if i % 2 else values(0, 1, 2)(i)


def make(root: Path, draw: Draw, yaml: str = "", count: int = COUNT) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        mask = draw(i)
        mask.save(root / "masks" / f"{i}.png")
        image = np.random.default_rng(i).integers(0, 256, (*mask.size[::-1], 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{i}.png")
    if yaml:
        (root / "dataset.yaml").write_text(yaml)
    return root


def text_of(report: FolderReport) -> str:
    return "\n".join([*report.notes, *map(str, report.problems)])


ASKED = {
    "0 and 255": (values(0, 255, 255), "", "is 255 an object or void?.*the only other value is 0"),
    "0 and 255 with names": (values(0, 255, 255), "classes: [a, b]", r"the only other value .*labels: \{255: CLASS\}"),
    "some 0 and 255, others 0 and 1": (
        mixed_binary,
        "",
        r"of them have only 0 and 255.*1: object, 255: object",
    ),
    "0, 128, 255": (values(0, 128, 255), "", r"the other values are spread, too: 0, 128.*ignore: \[255\]"),
    "much 255": (void_share, "", "10 masks, 10 with 255, on 31.25% of the pixels: void rarely covers more than 20%"),
    "a JPEG saved as PNG": (through_jpeg, "", r"scattered pixels.*JPEG.*areas have .*\b0\b"),
    "resized with interpolation": (interpolated, "", r"scattered pixels.*areas have (0 \| 255|255 \| 0)\s"),
    "resized colours": (colours_interpolated, "", r"scattered pixels.*areas have 0,0,0 \| (255,0,0|0,255,0)"),
    "resized, with names": (interpolated, "classes: {0: a, 255: b}", "labels that are not classes.*scattered pixels"),
    "object ids in 16 bits": (
        instance_ids,
        "",
        r"number single objects\? They are used in one mask each.*labels: \{0: background, 1000: object, ",
    ),
    "cells that are numbered": (
        numbered_cells,
        "",
        r"number single objects\? They count up from 1 in every mask, up to 7, .*labels: \{0: background, 1: object, ",
    ),
    "cells of one colour each": (coloured_cells, "", r"used in one mask each.*labels: \{'0,0,0': background, '"),
    "thin lines": (
        thin_lines,
        "",
        r"thin lines, in dataset.yaml: classes: \{0: NAME, 1: NAME, 2: NAME, .*4: NAME\}",
    ),
    "numbers through JPEG": (neighbouring_numbers_through_jpeg, "", "scattered pixels.*JPEG"),
    "many values": (many_ids, "", "the masks have 96 values, from 0 to 95: which of them are classes"),
    "palettes by frequency, with names": (
        by_frequency,
        "classes: [a, b, c]",
        r"index 0 is .*mask_values: numbers.*palette",
    ),
    "indexed and other grey": (indexed_and_grey, "", "indexed masks have .*without a palette have the values 0, 7"),
    "colours and grey": (colours_and_grey, "", "5 of 10 masks are grey pictures, .*mask_values: colours"),
}


@pytest.mark.parametrize("kind", ASKED)
def test_what_can_be_read_in_two_ways_is_asked(tmp_path: Path, kind: str) -> None:
    draw, yaml, message = ASKED[kind]
    report = check_folder(make(tmp_path / "mine", draw, yaml))
    assert not report.trainable
    assert re.search(message, text_of(report), re.DOTALL), text_of(report)


CSV = "index,name,red,green,blue\n0,ground,0,0,0\n1,grass,0,255,0\n2,fire,255,0,0\n"

SETTLED = {
    "numbers": (values(0, 1, 2), "", [0, 1, 2], "the values 0, 1, 2 that occur"),
    "cells that are numbered, as objects": (
        numbered_cells, "labels: {0: background, 1: o, 2: o, 3: o, 4: o, 5: o, 6: o, 7: o}", None, ""
    ),
    "classes in order": (nested_classes, "", None, "the values 0, 1, 2, 3, 4 … and 1 more that occur"),
    "thin lines, by name": (
        thin_lines, "classes: [a, b, c, d, e]", None, "only scattered pixels in most masks (4)"
    ),
    "numbers from 1": (values(1, 2, 3), "", [0, 1, 2], "the values 1, 2, 3 that occur"),
    "0 and 255, an object": (values(0, 255, 255), "labels: {0: background, 255: object}", [0, 1, 1], ""),
    "0, 128, 255": (values(0, 128, 255), "labels: {0: background, 128: a, 255: b}", [0, 1, 2], ""),
    "0, 128, void": (values(0, 128, 255), "ignore: [255]", [0, 1, 255], "ignored: 255, in 5 of 10 masks"),
    "a smoothed mask, by name": (values(0, 3, 3), "labels: {0: ground, 3: disc}", [0, 1, 1], ""),
    "palettes by frequency": (by_frequency, "", [0, 2, 1], "read by colour, not by index: index 0 is 0,0,0 in 5 masks"),
    "palettes by frequency, by index": (by_frequency, "mask_values: numbers", None, ""),
    "palettes by frequency, in a table": (by_frequency, "classes: classes.csv", [0, 2, 1], "index 0 is"),
    "grey palettes by frequency": (grey_by_frequency, "classes: [a, b, c]", [0, 1, 2], "by grey value"),
    "one palette, another table": (
        lambda i: indexed(scene(i), BLACK, RED, GREEN), "classes: classes.csv", [0, 2, 1], "the colour of fire"
    ),
    "one palette, colours of no class": (
        lambda i: indexed(scene(i), BLACK, (9, 9, 8), (7, 7, 6)), "classes: classes.csv", [0, 1, 2], ""
    ),
    "indexed and the same numbers": (indexed_and_numbers, "", [0, 1, 2], ""),
    "1 bit and 8 bits": (bilevel_and_grey, "labels: {0: a, 255: b}", [0, 1, 0], "read by grey value"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETTLED)
def test_the_others_give_these_labels(tmp_path: Path, kind: str) -> None:
    draw, yaml, table, note = SETTLED[kind]
    root = make(tmp_path / "mine", draw, yaml)
    (root / "classes.csv").write_text(CSV) if "classes.csv" in yaml else None
    report = check_folder(root)
    assert report.trainable, text_of(report)
    assert note in text_of(report)
    data = Folder(str(root), size=SIDE, batch_size=2, cache_dir=str(tmp_path / "arrays"))
    data.setup()
    assert note in "\n".join(data.notes)
    for sample in data.pool if table else ():
        np.testing.assert_array_equal(data.read(sample)[1], np.array(table)[scene(int(sample.name))], sample.name)
    proposed = report.proposed_yaml
    if proposed:
        (root / "dataset.yaml").write_text(proposed)
        again = Folder(str(root), size=SIDE, batch_size=2, cache_dir=str(tmp_path / "arrays"))
        again.setup()
        assert [again.read(s)[1].tolist() for s in data.pool] == [data.read(s)[1].tolist() for s in data.pool]


def test_void_as_in_voc_is_told_and_ignored(tmp_path: Path) -> None:
    report = check_folder(make(tmp_path / "mine", with_void))
    assert report.trainable
    assert [note for note in report.notes if note.startswith("ignored: 255, in 10 of 10 masks, ")]
    assert report.label_map is not None
    assert report.label_map.classes == ["class 0", "class 1", "class 2"]
    assert "ignore: [255]" in (report.proposed_yaml or "")


def test_wholly_void_masks_are_named(tmp_path: Path) -> None:
    root = make(tmp_path / "mine", with_void, "classes: [ground, disc, square]")
    Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(root / "masks" / "4.png")
    report = check_folder(root)
    assert report.trainable
    named = [p for p in report.problems if p.title == "masks in which every pixel is ignored"]
    assert [(p.severity, p.items) for p in named] == [("warning", ["4"])]


NAMES = ["a [x] b", "no", "yes, or [/bold]", "grün", "on", "1e3", "2020-01-02", "${a", "null", "true", "#1", "a: b"]


def blocks(i: int) -> Image.Image:
    """A class in each of twelve blocks."""
    return Image.fromarray(np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4), 8, 0), 8, 1))


def test_odd_names_of_classes_are_printed_and_read_back(tmp_path: Path) -> None:
    root = make(tmp_path / "mine", blocks)
    (root / "classes.txt").write_text("\n".join(NAMES))
    report = check_folder(root)
    assert report.label_map is not None
    assert report.label_map.classes == NAMES
    result = CliRunner().invoke(app, ["data", "check", str(root)], env={"COLUMNS": "150"})
    assert [name for name in NAMES if name not in result.output] == []
    assert yaml_line("classes", NAMES[:3]) == "classes: ['a [x] b', 'no', 'yes, or [/bold]']"
    (root / "classes.txt").unlink()
    (root / "dataset.yaml").write_text(yaml_line("classes", NAMES))
    assert check_folder(root).label_map == replace(report.label_map, notes=[])
    (root / "dataset.yaml").write_text("classes: [on, no, true, 2020-01-02, e, f, g, h, i, j, k, l]")
    label_map = check_folder(root).label_map
    assert label_map is not None
    assert label_map.classes[:4] == ["on", "no", "true", "2020-01-02"]
    (root / "dataset.yaml").write_text("val: 0.2\nval: 0.3\n")
    assert "the key 'val' occurs twice" in text_of(check_folder(root))


def test_the_report_as_json(tmp_path: Path) -> None:
    root = make(tmp_path / "mine", values(0, 1, 2))
    (root / "masks" / "extra.png").write_bytes((root / "masks" / "1.png").read_bytes())
    result = CliRunner().invoke(app, ["data", "check", str(root), "--json"])
    report = json.loads(result.output)
    assert result.exit_code == 3  # a mask without image is a warning
    assert report["trainable"]
    assert [(p["severity"], p["title"], p["items"]) for p in report["problems"]] == [
        ("warning", "masks without image", ["extra"])
    ]
    assert [c["name"] for c in report["classes"]] == ["class 0", "class 1", "class 2"]
    assert sum(report["classes"][2]["pixels"].values()) == 5 * 8 * 10
    assert report["images"] == {"train": 8, "val": 2}
    assert "classes: [class 0, class 1, class 2]" in report["proposed_yaml"]


def test_images_of_12_bits_are_asked_for_once_and_of_16_bits_read_alike(tmp_path: Path) -> None:
    root = make(tmp_path / "mine", values(0, 1, 2))

    def write(*ranges: tuple[int, int]) -> None:
        for i in range(COUNT):
            image = np.random.default_rng(i).integers(*ranges[i % len(ranges)], (SIDE, SIDE), dtype=np.uint16)
            image[0, 0] = ranges[i % len(ranges)][1]
            Image.fromarray(image).save(root / "images" / f"{i}.png")

    write((480, 900), (700, 2560), (0, 200))
    report = check_folder(root)
    assert [(p.title, p.severity, len(p.items)) for p in report.problems] == [
        ("images whose range of values is not known", "error", 1)
    ]
    asked = "10 images with 16 bits per channel: 12-bit values 0…2560"
    assert asked in text_of(report)
    assert "data.value_range=[0,2560], or all 12 bits: data.value_range=[0,4095]" in text_of(report)
    assert check_folder(root, bands=Bands(None, (0, 4095))).trainable
    data = Folder(str(root), size=SIDE, batch_size=2, cache_dir=str(tmp_path / "arrays"))
    with pytest.raises(DataError, match=r"images with 16 bits .*12-bit values 0…2560"):
        data.setup()
    write((0, 200), (30000, 60000))
    report = check_folder(root)
    assert report.trainable
    assert "images are read as RGB; 10 images: 16-bit; they hold 16-bit values 0…60000 in uint16" in report.notes
    data = Folder(str(root), size=SIDE, batch_size=2, cache_dir=str(tmp_path / "more"))
    data.setup()
    assert [data.read(s)[0].max() for s in sorted(data.pool, key=lambda s: s.name)[:2]] == [1, 233]


@pytest.mark.parametrize(
    ("draw", "count", "text"),
    [
        (lambda i: values(0, 1, 2)(i + 1), 1, "val=0.2 of 1 image (1 group)"),
        (values(0, 0, 0), 4, "the only class that occurs: there is nothing to learn"),
        (values(1, 1, 255), 1, "the only class that occurs"),
    ],
)
def test_images_that_cannot_be_trained_on_can_be_shown(tmp_path: Path, draw: Draw, count: int, text: str) -> None:
    root = make(tmp_path / "mine", draw, "classes: [a, b, c]\nignore: [255]", count=count)
    out = tmp_path / "shown [red].png"
    settings = ["data.size=32", f"data.cache_dir={tmp_path / 'arrays'}", "--out", str(out)]
    result = CliRunner().invoke(app, ["data", "folder", "--root", str(root), *settings])
    assert result.exit_code == 0, result.output
    assert text in result.output
    assert f"fit: {count} image" in result.output
    assert f"picture: {out}\n" in result.output  # brackets are no markup
    assert out.is_file()


def test_masks_that_all_cannot_be_read_are_one_problem(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    report = check_folder(make(tmp_path / "mine", lambda i: Image.fromarray(noise)))
    assert [(p.title, len(p.items)) for p in report.problems] == [("masks that cannot be read", COUNT)]
    assert "holds 1,024 colours: too many for a mask of classes" in text_of(report)


def test_mask_values_are_for_pictures(tmp_path: Path) -> None:
    root = make(tmp_path / "mine", values(0, 1, 2), "mask_values: colors")
    assert "mask_values: 'colors' is not numbers, colours or grey" in text_of(check_folder(root))
    for path in (root / "masks").iterdir():
        path.unlink()
        content = {"imageHeight": SIDE, "imageWidth": SIDE, "shapes": []}
        path.with_suffix(".json").write_text(json.dumps(content))
    (root / "dataset.yaml").write_text("mask_values: colours")
    assert "mask_values: colours is for pictures, not for masks/" in text_of(check_folder(root))


def transparent(mode: str) -> Draw:
    """White pictures in which only transparency shows the objects."""
    alpha = values(0, 255, 128)
    return lambda i: Image.merge(mode, [Image.new("L", (SIDE, SIDE), 255)] * (len(mode) - 1) + [alpha(i)])


def erased(i: int) -> Image.Image:
    """Red discs on transparent black, as drawing programs save them."""
    return Image.fromarray(np.array([(0, 0, 0, 0), (255, 0, 0, 255), (0, 255, 0, 128)], np.uint8)[scene(i)])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_objects_that_only_transparency_shows_are_refused(tmp_path: Path, mode: str) -> None:
    report = check_folder(make(tmp_path / mode, transparent(mode)))
    assert "has areas of one colour that differ only in transparency" in text_of(report)
    assert not report.trainable


def test_transparent_backgrounds_of_another_colour_are_read(tmp_path: Path) -> None:
    report = check_folder(make(tmp_path, erased))
    assert report.trainable
    assert report.label_map is not None
    assert report.label_map.classes == ["0,0,0", "0,255,0", "255,0,0"]


@pytest.mark.parametrize("yaml", ["", "classes: [background, car]"])
def test_masks_of_one_class_are_an_error(tmp_path: Path, yaml: str) -> None:
    report = check_folder(make(tmp_path, values(0, 0, 0), yaml))
    assert not report.trainable
    assert re.search("the only class that occurs|1 classes", text_of(report))


def test_classes_that_differ_only_in_case_are_named(tmp_path: Path) -> None:
    report = check_folder(make(tmp_path, values(0, 1, 2), "classes: [background, car, Car]"))
    assert (
        "upper and lower case (1)\n  car, Car\n  → if they are one class, in dataset.yaml: labels: {car: Car}"
        in text_of(report)
    )
    assert check_folder(make(tmp_path / "b", values(0, 1, 2), "classes: [a, b, c]")).problems == []


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, SIDE // 2)], ids=["square", "oblong"])
def test_masks_of_the_upright_photo_fit_by_size_or_are_told(tmp_path: Path, size: tuple[int, int]) -> None:
    root = make(tmp_path / "mine", values(0, 1, 2))
    tags = Image.Exif()
    tags[274] = 6
    for i in range(COUNT):
        image, mask = (Image.open(root / kind / f"{i}.png").crop((0, 0, *size)) for kind in ("images", "masks"))
        image.save(root / "images" / f"{i}.png", exif=tags)
        mask.transpose(Image.Transpose.ROTATE_270).save(root / "masks" / f"{i}.png")
    report = check_folder(root)
    assert report.trainable
    asked = [p for p in report.problems if p.title.startswith("rotated photos whose masks fit")]
    assert [len(p.items) for p in asked] == ([COUNT] if size == (SIDE, SIDE) else [])
    if not asked:
        data = Folder(str(root), size=SIDE, batch_size=2, cache_dir=str(tmp_path / "arrays"))
        data.setup()
        sample = next(s for s in data.pool if s.name == "1")
        np.testing.assert_array_equal(data.read(sample)[1], np.rot90(scene(1)[: size[1]], -1))


def test_two_folders_of_masks_are_asked_which(tmp_path: Path) -> None:
    root = make(tmp_path, values(0, 1, 2))
    (root / "labels").mkdir()
    (root / "labels" / "0.txt").write_text("0 .1 .1 .2 .2")  # YOLO's are no masks
    assert check_folder(root).trainable
    Image.fromarray(scene(0)).save(root / "labels" / "0.png")
    report = check_folder(root)
    assert "labels or masks?\n    → in dataset.yaml, masks: labels or masks: masks" in text_of(report)
    (root / "dataset.yaml").write_text("masks: masks")
    assert check_folder(root).trainable


def test_masks_and_annotations_beside_the_images_are_asked_which(tmp_path: Path) -> None:
    root = make(tmp_path, values(0, 1, 2))
    (root / "images" / "0.json").write_text('{"camera": "left"}')
    assert check_folder(root).trainable
    shape = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]]}
    for i in range(COUNT):
        (root / "images" / f"{i}.json").write_text(json.dumps({"shapes": [shape]}))
    report = check_folder(root)
    assert "masks or images/*.json?\n    → in dataset.yaml, images: images/*.png, masks: masks\n" in text_of(report)
    for place, classes in (("masks", ["class 0", "class 1", "class 2"]), ("images", ["background", "cat"])):
        (root / "dataset.yaml").write_text(f"masks: {place}")
        label_map = check_folder(root).label_map
        assert label_map is not None
        assert label_map.classes == classes


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("classes: [background, null, car]", "classes: ['background', None, 'car'] is not a list of names"),
        ("classes: [background, car: red, b]", "is not a list of names"),
        ("classes: {0: a, 1: [b], 2: c}", "is not a list of names"),
    ],
)
def test_names_of_classes_are_text(tmp_path: Path, yaml: str, message: str) -> None:
    assert message in text_of(check_folder(make(tmp_path, values(0, 1, 2), yaml)))


def test_tables_that_may_name_the_classes_are_told(tmp_path: Path) -> None:
    root = make(tmp_path, values(0, 1, 2))
    for name in ("train.txt", "Legende.csv"):
        (root / name).write_text("Nr;Klasse\n0;a\n")
    line = "the classes have no names: if Legende.csv has them, in dataset.yaml: classes: Legende.csv"
    assert line in check_folder(root).notes
    (root / "dataset.yaml").write_text("classes: Legende.csv")
    assert "it has no column 'name'\n    expected: index,name" in text_of(check_folder(root))


def test_an_index_of_two_classes_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, values(0, 1, 2))
    (root / "classes.csv").write_text("index,name\n0,background\n1,car\n1,tree\n2,road\n")
    assert "lists an index twice: 1 car" in text_of(check_folder(root))


@pytest.mark.parametrize("lines", ["a\n\nb\nc\n", "\na\nb\nc"])
def test_an_empty_line_between_classes_is_asked_for(tmp_path: Path, lines: str) -> None:
    root = make(tmp_path, values(0, 1, 2))
    (root / "classes.txt").write_text(lines)
    number = lines.split("\n").index("") + 1
    assert f"line {number} is empty, between names of classes: has class {number - 1} no" in text_of(check_folder(root))
    (root / "classes.txt").write_text("a\nb\nc\n\n")
    assert check_folder(root).trainable


def test_a_description_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    root = make(tmp_path, values(0, 1, 2))
    (root / "dataset.yaml").mkdir()
    assert "dataset.yaml is a folder, not a description" in text_of(check_folder(root))
    (root / "dataset.yaml").rmdir()
    (root / "dataset.yaml").symlink_to(root / "nowhere.yaml")
    assert "dataset.yaml is a link to a file that does not exist" in text_of(check_folder(root))


def test_dataset_yml_is_read(tmp_path: Path) -> None:
    root = make(tmp_path, values(0, 1, 2))
    (root / "dataset.yml").write_text("classes: [a, b, c]")
    report = check_folder(root)
    assert report.label_map is not None
    assert report.label_map.classes == ["a", "b", "c"]
    (root / "dataset.yaml").write_text("classes: [a, b, c]")
    assert "has both dataset.yaml and dataset.yml" in text_of(check_folder(root))

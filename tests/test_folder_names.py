"""Lists, tables and paths as tools and people write them: a line means what a reader would say, or it is asked for."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segstudy.data.folder.check import FolderReport, check_folder
from segstudy.data.folder.description import read_description
from segstudy.data.folder.names import ImageNames, columns
from segstudy.data.folder.scan import scan_folder
from segstudy.data.folder.split import ROLES, make_split
from segstudy.data.text import read_rows, read_text
from segstudy.errors import DataError

NAMES = ["train/a", "train/b", "val/a", "c", "my photo", "x.y", "1", "2", "ä", "my dir/scan"]
FLAT = [f"p{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("train/a", ["train/a"]),
        ("train/a.JPG", ["train/a"]),
        ("./images/train/b.png", ["train/b"]),
        (r"C:\set\images\val\a.png ", ["val/a"]),
        ("/home/me/set/c.jpg", ["c"]),
        ("b", ["train/b"]),  # without its folder, but unique
        ("a", ["train/a", "val/a"]),
        ("test/b", []),  # of another folder
        ("x.y", ["x.y"]),
        ("x.y.jpg", ["x.y"]),
        ("x", []),
        ('"my photo.jpg"', ["my photo"]),
        ("a\u0308.jpg", ["ä"]),  # as macOS writes it
        ("", []),
        ("/", []),
        (".jpg", []),
    ],
)
def test_a_path_means_the_image_whose_name_ends_it(text: str, found: list[str]) -> None:
    assert ImageNames(NAMES).find(text) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("images/1.jpg masks/2.png", ["1"]),
        ("1.jpg,2.png", ["1"]),
        ("1.jpg\t0", ["1"]),
        ("c -1", ["c"]),
        ("1 2 3", ["1"]),
        ("my photo", ["my photo"]),
        ("my photo.jpg my photo.png", ["my photo"]),
        ("my photo 1", ["my photo"]),
        ("/my files/my dir/scan.tif 1", ["my dir/scan"]),
        ("images/gone.jpg masks/1.png", []),  # never the image of the mask's name
        ("train/gone masks/1", []),
        ("a 1", ["train/a", "val/a"]),
    ],
)
def test_a_line_may_have_columns_after_the_image(line: str, found: list[str]) -> None:
    assert ImageNames(NAMES).find_in_line(line) == found


def test_columns_are_the_files_of_a_line() -> None:
    assert columns('"images/my photo.jpg", masks/1.png') == ["images/my photo.jpg", "masks/1.png"]
    assert columns("c -1") == []


def save(root: Path, images: list[str], masks: list[str]) -> None:
    """Images of noise and masks with classes 0 and 1, in which the first row tells the number of the mask."""
    for folder, names in (("images", images), ("masks", masks)):
        for i, name in enumerate(names):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            if folder == "masks":
                pixels = np.zeros((8, 8), np.uint8)
                pixels[0, : i + 1] = 1
            Image.fromarray(pixels).save(path)


def split_of(root: Path) -> tuple[dict[str, list[str]], str]:
    """({role: names in its list}, all problems of lists and pairs)."""
    description, _ = read_description(root)
    scan = scan_folder(description)
    plan = make_split(scan, description, dict.fromkeys(ROLES))
    lists = {role: [s.name for s in samples] for role, samples in plan.lists.items()}
    return lists, "\n".join(map(str, [*scan.problems, *plan.problems]))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["p0", "p1.png", "./p2.png", "images/p3.png", r"images\p4.png  "], ""),
        (["images/p0.png masks/p0.png", "images/p1.png masks/p1.png", "p2 1", "p3,1", "/old/place/images/p4.png"], ""),
        (
            ["p0", "p1", "p2", "p3", "p4", "images/p11.png 1"],
            r"without image or mask \(1\)\n  train: images/p11.png 1$",
        ),
        (["p0", "p1", "p2", "p3", "p4", "images/p5.png masks/p6.png"], r"not of their image's name(.|\n)*pairs: "),
        (["one/p0.png", "two/p0.png", "p1", "p2", "p3", "p4"], r"two/p0.png and one/p0.png both mean p0"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_are_read_as_they_are_written(tmp_path: Path, lines: list[str], problem: str, encoding: str) -> None:
    save(tmp_path, FLAT, FLAT)
    (tmp_path / "train.txt").write_text("\r\n".join(lines), encoding)
    (tmp_path / "val.txt").write_text("\n".join(FLAT[7:]), encoding)
    lists, found = split_of(tmp_path)
    assert lists["val"] == FLAT[7:]
    assert lists["train"][:5] == FLAT[:5]
    assert re.search(problem, found) if problem else found == ""


@pytest.mark.parametrize("header", ["", "image,mask", "file_name;split"])
@pytest.mark.parametrize(
    "names", [("train_list.txt", "val_list.txt"), ("train.csv", "valid.csv"), ("splits/train.lst", "splits/test.lst")]
)
def test_lists_are_recognised_by_a_part_of_their_name(tmp_path: Path, names: tuple[str, str], header: str) -> None:
    save(tmp_path, FLAT, FLAT)
    (tmp_path / "splits").mkdir()
    for name, images in zip(names, (FLAT[:7], FLAT[7:]), strict=True):
        lines = [header] * (header != "" and name.endswith("csv")) + [f"images/{each}.png" for each in images]
        (tmp_path / name).write_text("\n".join(lines))
    lists, found = split_of(tmp_path)
    assert found == ""
    assert sorted(map(len, lists.values())) == [3, 7]
    report = check_folder(tmp_path)
    assert not any("the classes have no names" in note for note in report.notes)
    assert f"train: {names[0]}\n" in str(report.proposed_yaml)
    (tmp_path / "dataset.yaml").write_text(str(report.proposed_yaml))
    assert split_of(tmp_path) == (lists, "")


def test_of_several_lists_of_one_split_none_is_used(tmp_path: Path) -> None:
    save(tmp_path, FLAT, FLAT)
    (tmp_path / "test_classes.csv").write_text("index,name\np0,ground\np1,disc")
    for name in ("train_1.txt", "train_2.txt"):
        (tmp_path / name).write_text("\n".join(FLAT[:7]))
    lists, found = split_of(tmp_path)
    assert lists == {}
    assert "none of them is used (1)\n  train: train_1.txt, train_2.txt\n  → in dataset.yaml, " in found


def test_a_name_in_two_folders_is_asked_for(tmp_path: Path) -> None:
    names = ["day/a", "night/a", "day/b", "night/c", "day/d"]
    save(tmp_path, names, names)
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("c\n")
    lists, found = split_of(tmp_path)
    assert lists == {"train": ["day/b"], "val": ["night/c"]}
    assert "train: a may mean day/a or night/a" in found


def test_an_image_without_mask_is_not_called_unknown_by_its_masks_line(tmp_path: Path) -> None:
    save(tmp_path, FLAT, FLAT[1:])
    (tmp_path / "train.txt").write_text("images/p0.png masks/p1.png\np2\n")
    assert split_of(tmp_path)[0]["train"] == ["p2"]


PAIRS = {
    "commas": "image,mask,split\nimages/p0.png,masks/m0.png,train\nimages/p1.png,masks/m1.png,val\n",
    "semicolons": "image;mask;split\nimages/p0.png;masks/m0.png;train\nimages/p1.png;masks/m1.png;val\n",
    "tabs": "Image\tMask\tsplit\nimages/p0.png\tmasks/m0.png\ttrain\nimages/p1.png\tmasks/m1.png\tval\n",
    "blanks": "image, mask, split\n images/p0.png , masks/m0.png , train\nimages/p1.png, masks/m1.png, val\n\n",
    "windows": "image,mask,split\r\nD:\\images\\p0.png,D:\\masks\\m0.png,train\r\nimages\\p1.png,masks\\m1.png,val\r\n",
    "bare": "image,mask,split\np0.png,m0.png,train\np1.png,m1.png,val\n",
    "another machine": "image,mask,split\n/x/images/p0.png,/x/masks/m0.png,train\n/images/p1.png,/masks/m1.png,val\n",
    "quotes": 'image,mask,split\n"images/p0.png","masks/m0.png",train\n"images/p1.png","masks/m1.png",val\n',
}


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_are_found_however_their_paths_are_written(tmp_path: Path, kind: str) -> None:
    save(tmp_path, ["p0", "p1"], ["m0", "m1"])
    (tmp_path / "pairs.csv").write_bytes(PAIRS[kind].encode())
    (tmp_path / "dataset.yaml").write_text("pairs: pairs.csv")
    lists, found = split_of(tmp_path)
    assert (lists, found) == ({"train": ["images/p0"], "val": ["images/p1"]}, "")


def test_lists_of_two_columns_pair_images_and_masks_of_other_names(tmp_path: Path) -> None:
    save(tmp_path, ["p0", "p1", "p2"], ["m0", "m1", "m2"])
    (tmp_path / "train.txt").write_text("images/p0.png masks/m2.png\nimages/p1.png masks/m0.png\n")
    (tmp_path / "val.txt").write_text("images/p2.png masks/m1.png\n")
    (tmp_path / "dataset.yaml").write_text("pairs: [train.txt, val.txt]")
    assert split_of(tmp_path) == ({"train": ["images/p0", "images/p1"], "val": ["images/p2"]}, "")
    description, _ = read_description(tmp_path)
    assert {s.name: s.mask.name for s in scan_folder(description).samples if s.mask} == {
        "images/p0": "m2.png", "images/p1": "m0.png", "images/p2": "m1.png",
    }  # fmt: skip


def cp1252(root: Path) -> None:
    (root / "train.txt").write_bytes("p0\nStraße\n".encode("cp1252"))


def without_masks(root: Path) -> None:
    (root / "pairs.csv").write_text("image,mask\np0.png\n,\n,p1.png\n")
    (root / "dataset.yaml").write_text("pairs: pairs.csv")


def other_columns(root: Path) -> None:
    (root / "pairs.csv").write_text("photo;truth\np0.png;p0.png\n")
    (root / "dataset.yaml").write_text("pairs: pairs.csv")


def too_many_values(root: Path) -> None:
    (root / "pairs.csv").write_text("image,mask\np0.png,p0.png,train\n")
    (root / "dataset.yaml").write_text("pairs: pairs.csv")


def two_masks(root: Path) -> None:
    (root / "pairs.csv").write_text("image,mask\np0.png,p0.png\np0.png,p1.png\n")
    (root / "dataset.yaml").write_text("pairs: pairs.csv")


def yaml_in_cp1252(root: Path) -> None:
    (root / "dataset.yaml").write_bytes("classes: [Straße, b]".encode("cp1252"))


def classes_in_cp1252(root: Path) -> None:
    (root / "classes.csv").write_bytes("index;name\n0;Straße\n1;b\n".encode("cp1252"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cp1252, r"train\.txt is not UTF-8 text: byte 0xdf in line 2"),
        (without_masks, r"no pair in pairs\.csv exists: row without mask, "),
        (other_columns, r"pairs\.csv needs the columns image and mask(.|\n)*found: photo;truth"),
        (too_many_values, r"pairs\.csv, line 2: 3 values for 2 columns \(image, mask\)"),
        (two_masks, r"images with two masks(.|\n)*images/p0 with masks/p0\.png and masks/p1\.png"),
        (yaml_in_cp1252, r"dataset\.yaml is not UTF-8 text: byte 0xdf in line 1"),
        (classes_in_cp1252, r"classes\.csv is not UTF-8 text: byte 0xdf in line 2"),
    ],
)
def test_check_names_what_it_cannot_read(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    save(tmp_path, FLAT, FLAT)
    damage(tmp_path)
    report: FolderReport = check_folder(tmp_path)
    assert not report.trainable
    assert re.search(message, "\n".join(map(str, report.problems)))


def test_tables_and_texts(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes('a;b c\n1;"x;y"\n2\n'.encode("utf-16"))
    assert read_rows(file) == [{"a": "1", "b c": "x;y"}, {"a": "2", "b c": ""}]
    file.write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match="is not UTF-16 text"):
        read_text(file)


def test_links_to_nothing_are_told_and_linked_folders_are_read(tmp_path: Path) -> None:
    root, other = tmp_path / "mine", tmp_path / "other"
    save(root, FLAT, FLAT)
    save(other, ["x"], ["x"])
    for kind in ("images", "masks"):
        (root / kind / "more").symlink_to(other / kind)
        (other / kind / "loop").symlink_to(root / kind)
    assert sorted(s.name for s in scan_folder(read_description(root)[0]).samples) == ["more/x", *FLAT]
    for kind in ("images", "masks"):  # both, so that neither lacks its partner
        (root / kind / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"(masks|images) has links to files that do not exist: gone"):
        scan_folder(read_description(root)[0])


def test_a_broken_link_is_called_so(tmp_path: Path) -> None:
    save(tmp_path, FLAT, [])
    (tmp_path / "masks").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"found: images, masks \(a broken link\)"):
        scan_folder(read_description(tmp_path)[0])


def test_images_in_no_list_and_repeated_lines_are_told(tmp_path: Path) -> None:
    save(tmp_path, FLAT, FLAT)
    (tmp_path / "train.txt").write_text("p0\np1\nimages/p1.png\np2\n")
    (tmp_path / "val.txt").write_text("p3\n")
    report = check_folder(tmp_path)
    assert "left out, in no list: 6 of 10 images (p4, p5, p6 … and 3 more)" in report.notes
    assert "a list names several times: they are used once (1)\n  train: 2 times p1" in "\n".join(
        map(str, report.problems)
    )
    (tmp_path / "train.txt").write_text("\n".join(FLAT[:3]))
    (tmp_path / "val.txt").write_text("\n".join(FLAT[3:]))
    report = check_folder(tmp_path)
    assert not any("left out" in note for note in report.notes)
    assert not any("several times" in problem.title for problem in report.problems)


def test_a_list_that_cannot_be_read_stays_in_the_proposal(tmp_path: Path) -> None:
    save(tmp_path, FLAT, FLAT)
    for role in ("train", "val"):
        (tmp_path / f"{role}.txt").write_text("p1\np2\n# für alle", "cp1252")
    report = check_folder(tmp_path)
    assert "train: train\nval: val" in str(report.proposed_yaml)
    assert not any("left out" in note for note in report.notes)


@pytest.mark.parametrize("ending", ["_mask", ".jpg", "_GT"])
@pytest.mark.parametrize("longer", ["masks", "images"])
def test_endings_of_names_are_read(tmp_path: Path, ending: str, longer: str) -> None:
    names = {"images": FLAT, "masks": FLAT} | {longer: [name + ending for name in FLAT]}
    save(tmp_path, names["images"], names["masks"])
    scan = scan_folder(read_description(tmp_path)[0])
    assert [sample.name for sample in scan.samples] == FLAT
    assert f"{longer.removesuffix('s')}_suffix: {ending}" in scan.notes[0]


@pytest.mark.parametrize(
    ("images", "masks", "line"),
    [
        ("data/mine/photos", "data/mine/truth", "images: data/mine/photos, masks: data/mine/truth"),
        ("data/train/images", "data/train/masks", "images: data/*/images, masks: data/*/masks"),
    ],
)
def test_a_layout_in_a_folder_below_is_read(tmp_path: Path, images: str, masks: str, line: str) -> None:
    save(tmp_path / "all", FLAT, FLAT)
    for source, target in (("images", images), ("masks", masks)):
        (tmp_path / "root" / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / source).rename(tmp_path / "root" / target)
    scan = scan_folder(read_description(tmp_path / "root")[0])
    assert len(scan.samples) == len(FLAT)
    assert line in scan.notes[0]


def test_a_layout_of_a_tool_in_a_folder_below_is_named(tmp_path: Path) -> None:
    save(tmp_path, FLAT, FLAT)
    for source, target in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        (tmp_path / "root" / "data" / "mine").mkdir(parents=True, exist_ok=True)
        (tmp_path / source).rename(tmp_path / "root" / "data" / "mine" / target)
    with pytest.raises(DataError, match=r"→ use \S+/root/data/mine instead"):
        read_description(tmp_path / "root")

"""`segstudy compare`: folders of masks from anywhere."""

from pathlib import Path

import numpy as np
import pytest
from archetypes import predictors, scene
from PIL import Image

from segstudy.errors import ConfigError, DataError
from segstudy.study.analysis.plan import Plan
from segstudy.study.masks import compare_masks, match_masks, read_classes, read_groups
from segstudy.study.results import from_masks


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, list[Path]]:
    for i in range(12):
        truth = scene(i, 48)
        told = predictors(truth, 6, i)
        for folder, labels in (("truth", truth), ("a/out", told["core only"]), ("b/out", told["perfect"])):
            path = tmp_path / folder / "town" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(path)
    return tmp_path / "truth", [tmp_path / "a" / "out", tmp_path / "b" / "out"]


def test_folders_of_masks_give_findings(folders: tuple[Path, list[Path]]) -> None:
    truth, predictions = folders
    findings = compare_masks(truth, predictions, read_classes(truth, None, None), Plan(min_images=3))
    group = findings.groups[0]
    assert [v.name for v in group.variants] == ["a/out", "b/out"]
    assert [v.miou_all.value for v in group.variants][1] == 1
    assert group.variants[0].metrics["missed"].value > 0.25
    assert [d.verdict for d in group.differences] == ["ahead"]
    assert any("12 images" in w for w in group.warnings)


def test_miou_equals_numpys(folders: tuple[Path, list[Path]]) -> None:
    truth, predictions = folders
    findings = compare_masks(truth, predictions, read_classes(truth, None, None), Plan(min_images=1))
    inter, union = np.zeros(6), np.zeros(6)
    for path in truth.rglob("*.png"):
        t, p = np.asarray(Image.open(path)), np.asarray(Image.open(predictions[0] / "town" / path.name))
        for c in range(6):
            inter[c] += ((t == c) & (p == c)).sum()
            union[c] += (((t == c) | (p == c)) & (t != 255)).sum()
    assert findings.groups[0].variants[0].miou.value == pytest.approx((inter / union).mean(), abs=1e-12)


def test_all_that_is_wrong_is_said_at_once(folders: tuple[Path, list[Path]]) -> None:
    truth, (a, b) = folders
    (a / "town" / "3.png").unlink()
    (b / "town" / "4.png").unlink()
    with pytest.raises(DataError, match=r"(?s)lacks 1 of the 12.*town/3.*lacks 1.*town/4"):
        match_masks(truth, [a, b])


def test_odd_masks_are_named(folders: tuple[Path, list[Path]]) -> None:
    truth, (a, b) = folders
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(a / "town" / "1.png")
    Image.fromarray(np.full((48, 48), 77, np.uint8)).save(a / "town" / "2.png")
    Image.fromarray(np.full((48, 48), 255, np.uint8)).save(a / "town" / "3.png")
    with pytest.raises(DataError) as error:
        compare_masks(truth, [a, b], read_classes(truth, None, None), Plan())
    said = str(error.value)
    assert "3 masks" in said
    assert "is 7×5, its truth 48×48" in said
    assert "77" in said
    assert "holds 255 where the truth has a class" in said


def test_transparency_is_not_dropped(folders: tuple[Path, list[Path]], tmp_path: Path) -> None:
    truth, predictions = folders
    for path in truth.parent.rglob("*.png"):  # a palette that only --classes can explain
        picture = Image.open(path)
        picture.putpalette([v for i in range(6) for v in (0, 0, 9 * (5 - i))])
        picture.save(path)
    mask = np.full((48, 48, 4), 255, np.uint8)
    mask[:9, :, 3] = 0
    mask[..., :3] = 0, 0, 9
    Image.fromarray(mask).save(predictions[0] / "town" / "3.png")
    table = tmp_path / "classes.csv"
    table.write_text("index,name,red,green,blue\n" + "".join(f"{i},n{i},0,0,{9 * i}\n" for i in range(6)))
    with pytest.raises(DataError, match=r"3\.png has areas of one colour that differ only in transparency"):
        compare_masks(truth, predictions, read_classes(truth, table, None), Plan(min_images=3))


def test_classes_come_from_a_table(folders: tuple[Path, list[Path]], tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_text("index,name,red,green,blue\n" + "".join(f"{i},n{i},{i},0,0\n" for i in range(6)))
    legend = read_classes(folders[0], table, None, ["n5"])
    assert list(legend.classes) == ["n0", "n1", "n2", "n3", "n4"]
    assert legend.background is None
    assert list(legend.ignored) == [5]
    assert legend.palette[4] == (4, 0, 0)
    assert read_classes(folders[0], table, "n1").background == 1
    for background, ignore, said in (("n9", [], "no such class"), (None, ["n2"], "only the last")):
        with pytest.raises(ConfigError, match=said):
            read_classes(folders[0], table, background, ignore)
    table.write_text("index,name\n0,a\n2,b\n")
    with pytest.raises(DataError, match=r"the classes' numbers are not 0, 1, 2, …: 0, 2"):
        read_classes(folders[0], table, None)


def test_groups_come_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "utf16.csv").write_text("a.png,Straße\n", "utf-16")
    assert read_groups(tmp_path / "utf16.csv") == {"a": "Straße"}
    file = tmp_path / "groups.csv"
    file.write_text("name,group\ntown/1.png,x\ntown/2,y\nframe.001,z\n")
    assert read_groups(file) == {"town/1": "x", "town/2": "y", "frame.001": "z"}
    file.write_text("only one column\n")
    with pytest.raises(DataError, match="NAME,GROUP"):
        read_groups(file)


def test_the_same_folder_twice_is_a_mistake(folders: tuple[Path, list[Path]]) -> None:
    truth, (a, _) = folders
    with pytest.raises(ConfigError, match="twice"):
        compare_masks(truth, [a, a], read_classes(truth, None, None), Plan())


def test_a_mask_without_a_group_stands_alone() -> None:
    truth = scene(0, 48)
    pairs = [(name, truth, predictors(truth, 6, 0)["perfect"]) for name in ("a", "b", "c")]
    test = from_masks("x", pairs, [str(c) for c in range(6)], 0, {"a": "", "b": "town"})
    assert test.groups == ["a", "town", "c"]


def test_255_in_a_prediction_draws_no_edges(tmp_path: Path) -> None:
    truth = np.where(scene(0, 96) == 0, 3, scene(0, 96)).astype(np.uint8)
    for folder, mask in {"truth": truth, "a": truth, "b": np.full_like(truth, 1)}.items():
        (tmp_path / folder).mkdir()
        Image.fromarray(mask).save(tmp_path / folder / "1.png")
        Image.fromarray(np.full_like(truth, 255) if folder != "b" else mask).save(tmp_path / folder / "2.png")
    legend = read_classes(tmp_path / "truth", None, "none")
    findings = compare_masks(tmp_path / "truth", [tmp_path / "a", tmp_path / "b"], legend, Plan())
    assert findings.groups[0].variants[0].metrics["roughness"].value == 1
    assert findings.groups[0].variants[0].metrics["class_pieces"].value == 1


def test_two_masks_of_one_name_are_refused(folders: tuple[Path, list[Path]]) -> None:
    truth, predictions = folders
    Image.open(truth / "town" / "3.png").save(truth / "town" / "3.tif")
    with pytest.raises(DataError, match=r"3\.png and .*3\.tif are two masks of one name"):
        match_masks(truth, predictions)


def save_indexed(path: Path, labels: np.ndarray, order: list[int], colours: list[tuple[int, int, int]]) -> None:
    """An indexed picture whose palette has the classes' colours in this order."""
    path.parent.mkdir(exist_ok=True)
    picture = Image.fromarray(np.argsort(order).astype(np.uint8)[labels], "P")
    picture.putpalette([v for k in order for v in colours[k]])
    picture.save(path)


@pytest.mark.parametrize("grey", [False, True])
def test_palettes_that_differ_between_files_are_read_by_colour(tmp_path: Path, grey: bool) -> None:
    """Predictions whose palettes a program has ordered by frequency are as good as those of class numbers."""
    colours = [(k, k, k) if grey else (k * 40, 200, 255 - k) for k in range(6)]
    for i in range(4):
        truth = scene(i, 48) % 255
        save_indexed(tmp_path / "truth" / f"{i}.png", truth, [0, 1, 2, 3, 4, 5], colours)
        order = np.random.default_rng(i).permutation(6).tolist()
        save_indexed(tmp_path / "a" / f"{i}.png", truth, order, colours)
    table = tmp_path / "classes.csv"
    rows = [",".join(map(str, (k, f"n{k}", *(() if grey else colours[k])))) for k in range(6)]
    table.write_text("index,name" + ",red,green,blue" * (not grey) + "\n" + "\n".join(rows) + "\n")
    legend = read_classes(tmp_path / "truth", table, "n0")
    findings = compare_masks(tmp_path / "truth", [tmp_path / "a"], legend, Plan(min_images=1))
    assert findings.groups[0].variants[0].miou.value == 1
    assert ("read by grey value" if grey else "read by colour") in findings.groups[0].warnings[0]
    if not grey:
        legend = read_classes(tmp_path / "truth", None, None)
        with pytest.raises(DataError, match=r"(?s)index \d is .*--classes FILE"):
            compare_masks(tmp_path / "truth", [tmp_path / "a"], legend, Plan(min_images=1))

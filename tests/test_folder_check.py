"""`segstudy data check`: every planted fault is found, all at once, and the exit code says whether one can train."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_folder import HEIGHT, WIDTH, names_of, save_images, save_masks, scene
from typer.testing import CliRunner

from segstudy.cli.main import app
from segstudy.data.fit import sizes_note
from segstudy.data.folder.check import NO_BACKGROUND, FolderReport, check_folder
from segstudy.data.folder.datamodule import Folder

CLASSES = "classes: [background, car, tree]\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """40 images and masks in 10 drives, described, with nothing wrong."""
    root = tmp_path / "mine"
    save_images(root, names_of(40))
    save_masks(root, names_of(40))
    (root / "dataset.yaml").write_text(CLASSES)
    return root


def found(checked: FolderReport) -> dict[str, tuple[str, list[str]]]:
    return {f.title: (f.severity, f.items) for f in checked.problems}


def plant(home: Path) -> None:
    """One fault of each kind that lies in the files."""
    images, masks = home / "images", home / "masks"
    (masks / "drive0_000.png").unlink()
    Image.fromarray(scene(0)).save(masks / "lonely.png")
    (images / "drive0_001.png").write_bytes(b"no picture")
    (masks / "drive0_002.png").write_bytes(b"no picture")
    Image.fromarray(scene(3)[:-1]).save(masks / "drive0_003.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(masks / "drive1_004.png")
    Image.fromarray(scene(0)).convert("RGB").save(masks / "drive1_005.jpg")
    (masks / "drive1_005.png").unlink()
    (images / "drive1_006.jpg").write_bytes(b"a second one")


def test_a_good_folder_has_no_findings(home: Path) -> None:
    checked = check_folder(home)
    assert checked.problems == []
    assert checked.trainable
    assert checked.proposed_yaml is None
    assert {r: len(c) for r, c in checked.counts.items()} == {"train": 32, "val": 8}
    cars = sum(c[:, 1].sum() for c in checked.counts.values())
    trees = sum(c[:, 2].sum() for c in checked.counts.values())
    assert (cars, trees) == (40 * 12, 20 * 15)


def test_a_missing_background_is_told(home: Path) -> None:
    assert NO_BACKGROUND not in check_folder(home).notes
    (home / "dataset.yaml").write_text("classes: [ground, car, tree]")
    assert NO_BACKGROUND in check_folder(home).notes
    (home / "dataset.yaml").write_text("classes: [ground, car, tree]\nbackground: ground")
    assert NO_BACKGROUND not in check_folder(home).notes


def test_all_faults_of_files_are_found_at_once(home: Path) -> None:
    plant(home)
    checked = check_folder(home)
    assert not checked.trainable
    found_problems = {kind: (severity, " | ".join(items)) for kind, (severity, items) in found(checked).items()}
    assert found_problems["images without mask"] == ("error", "drive0_000")
    assert found_problems["masks without image"] == ("warning", "lonely")
    assert found_problems["files of the same name"] == ("error", "drive1_006.jpg and drive1_006.png")
    assert "drive0_001.png cannot be read" in found_problems["images that cannot be read"][1]
    assert "drive0_002.png cannot be read" in found_problems["masks that cannot be read"][1]
    assert "drive1_005.jpg is a JPEG" in found_problems["masks that cannot be read"][1]
    assert "drive0_003: the image is 16×12, the mask 16×11" in found_problems["sizes that differ"][1]
    assert found_problems["labels that are not classes"] == ("error", "9: in 1 mask, e.g. drive1_004")
    assert len(found_problems) == 7


def test_both_files_of_a_pair_may_be_broken(home: Path) -> None:
    for folder in ("images", "masks"):
        (home / folder / "drive0_001.png").write_bytes(b"no picture")
    assert set(found(check_folder(home))) == {"images that cannot be read", "masks that cannot be read"}


def test_faults_of_lists(home: Path) -> None:
    names = names_of(40)
    picture = (home / "images" / f"{names[0]}.png").read_bytes()
    (home / "images" / f"{names[30]}.png").write_bytes(picture)
    (home / "train.txt").write_text("\n".join([*names[:22], "nowhere"]))
    (home / "val.txt").write_text("\n".join([*names[21:31]]))
    (home / "dataset.yaml").write_text(CLASSES + "train: train\nval: val\ntest: tset\ngroup: '^[^_]+'\n")
    found_problems = found(check_folder(home))
    assert found_problems["names in lists without image or mask"] == ("error", ["train: nowhere"])
    assert found_problems["lists that are missing or empty"][0] == "error"
    assert "no list 'tset'" in found_problems["lists that are missing or empty"][1][0]
    assert found_problems["images in two splits"] == ("warning", [f"{names[21]}: train, val"])
    equal = found_problems["identical images in two splits (equal pixels)"]
    assert equal == ("warning", [f"{names[0]} = {names[30]}: train, val"])
    assert found_problems["groups in two splits"] == ("warning", ["drive5: train, val"])


def test_unreadable_images_in_no_list_are_a_warning(home: Path) -> None:
    (home / "train.txt").write_text("\n".join(names_of(40)[:20]))
    (home / "val.txt").write_text("\n".join(names_of(40)[20:30]))
    (home / "masks" / f"{names_of(40)[35]}.png").write_bytes(b"no picture")
    (home / "masks" / f"{names_of(40)[36]}.png").unlink()
    checked = check_folder(home)
    assert checked.trainable
    assert {kind: severity for kind, (severity, _) in found(checked).items()} == {
        "masks that cannot be read (in no list)": "warning", "images without mask": "warning",
    }  # fmt: skip


def test_sizes_that_differ_or_are_large_are_told() -> None:
    assert sizes_note(set()) == sizes_note({(375, 500)}) == []
    assert sizes_note({(768, 1024)})[0].startswith("images of 1024×768 pixels (width×height): data.fit=squash")
    assert sizes_note({(768, 1024), (30, 20), (9, 99)})[0].startswith("images of 20×30 to 1024×768 pixels")


def test_rare_and_lacking_classes(home: Path) -> None:
    for i, name in enumerate(names_of(40)):
        labels = np.where(scene(i) == 2, 2 if i in (1, 3) else 0, scene(i)).astype(np.uint8)
        Image.fromarray(labels).save(home / "masks" / f"{name}.png")
    (home / "train.txt").write_text("\n".join(names_of(40)[4:]))
    (home / "val.txt").write_text("\n".join(names_of(40)[:4]))
    found_problems = found(check_folder(home))
    assert found_problems["rare classes"] == ("warning", ["tree: in 2 images, 0.3906% of pixels"])  # 30 of 40·192
    assert found_problems["classes without a pixel in train"] == ("warning", ["tree"])
    assert set(found_problems) == {"rare classes", "classes without a pixel in train"}


def test_a_share_that_leaves_nothing(home: Path) -> None:
    (home / "dataset.yaml").write_text(CLASSES + "val: 0.001\n")
    assert set(found(check_folder(home))) == {"the split of dataset.yaml is not possible"}


def test_a_class_whose_name_means_void_is_told(home: Path) -> None:
    (home / "dataset.yaml").write_text("classes: [background, car, Void]\nignore: [255]\n")
    line = "learned as a class: Void; to ignore it, in dataset.yaml: ignore: [255, Void]"
    assert line in check_folder(home).notes
    (home / "dataset.yaml").write_text("classes: [background, car, Void]\nignore: [255, Void]\n")
    assert not any("learned as" in note for note in check_folder(home).notes)


def test_unknown_colours(home: Path) -> None:
    save_masks(home, names_of(40), "colours")
    (home / "dataset.yaml").write_text("classes: [background, car]\npalette: [[0, 0, 0], [64, 0, 128]]\n")
    found_problems = found(check_folder(home))
    assert found_problems["colours that are not classes"] == ("error", ["128,128,0: in 20 masks, e.g. drive0_001"])


# The command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_mistake_in_dataset_yaml_and_a_wrong_folder_are_told_apart(home: Path) -> None:
    assert "error: the folder cannot be read" in run("check", str(home / "nowhere"))[1]
    (home / "dataset.yaml").write_text("clases: [a, b]\n")
    assert "error: dataset.yaml has mistakes" in run("check", str(home))[1]


def test_unknown_numbers_are_in_order_and_get_no_guess(home: Path) -> None:
    file = home / "masks" / f"{names_of(40)[4]}.png"
    labels = np.array(Image.open(file))
    labels[0, :2] = 10, 6
    Image.fromarray(labels).save(file)
    (home / "dataset.yaml").write_text(CLASSES)
    text = run("check", str(home))[1]
    assert text.index("6: in 1 mask") < text.index("10: in 1 mask")
    assert "did you mean" not in text


def test_exit_codes_and_short_lists(home: Path) -> None:
    code, text = run("check", str(home))
    assert code == 0
    assert text.endswith("no problems found\n")  # its dataset.yaml leaves nothing to guess
    for name in names_of(40)[:8]:
        (home / "masks" / f"{name}.png").unlink()
    code, text = run("check", str(home))
    assert code == 1
    assert "error: images without mask (8)" in text
    assert "drive1_004\n  … and 3 more" in text
    assert "drive1_005" not in text
    code, text = run("check", str(home / "nowhere"))
    assert code == 1
    assert "no folder" in text
    (home / "about.yaml").write_text("{clases: [a]}")
    code, text = run("check", str(home), "--about", str(home / "about.yaml"))
    assert code == 1
    assert "did you mean classes" in text


@pytest.mark.parametrize("kind", ["numbers", "gaps", "colours", "labelme", "object"])
def test_the_proposed_description_can_be_saved(home: Path, kind: str) -> None:
    (home / "dataset.yaml").unlink()
    if kind in ("gaps", "object"):
        table = np.array([0, 40, 90] if kind == "gaps" else [0, 255, 255], np.uint8)
        for i, name in enumerate(names_of(40)):
            Image.fromarray(table[scene(i)]).save(home / "masks" / f"{name}.png")
    elif kind == "labelme":
        for path in (home / "masks").iterdir():
            path.unlink()
        save_masks(home, names_of(40), kind)
    else:
        save_masks(home, names_of(40), kind)
    code, text = run("check", str(home))
    assert code == (1 if kind == "object" else 0)
    assert ("; guessed: the meaning of the masks" in text) == (code == 0)
    proposed_yaml = text.split("and save it there):\n")[1]
    lines = [line for line in proposed_yaml.splitlines() if ": " in line]
    (home / "dataset.yaml").write_text("\n".join(lines))
    before = None if kind == "object" else Folder(str(home), size=(HEIGHT, WIDTH), cache_dir=str(home / "arrays"))
    data = Folder(str(home), size=(HEIGHT, WIDTH), cache_dir=str(home / "arrays"))
    data.setup()
    assert len(data.classes) == (2 if kind == "object" else 3)
    if before is not None:
        (home / "dataset.yaml").unlink()
        before.setup()
        assert list(before.classes) == list(data.classes)
        assert before.palette == data.palette
        assert before.describe()["roles"] == data.describe()["roles"]
    assert check_folder(home).trainable


def test_the_other_form_of_the_command_still_works(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    code, text = run("folder", "--root", str(home), "data.size=16", "data.batch_size=2", "--out", str(out))
    assert code == 0
    assert "fit: 32 images" in text
    assert out.is_file()
    assert run("--root", str(home), "folder", "data.size=16", "data.batch_size=2", "--out", str(out))[0] == 0
    code, text = run("--help")
    assert code == 0
    assert "check" in text
    assert "segstudy data voc" in text

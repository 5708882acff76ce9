"""A user's own folder: every kind of mask gives the same labels, splits are what they say, and mistakes are named."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segstudy.data.folder.datamodule import Folder
from segstudy.errors import ConfigError, DataError, SegstudyError

HEIGHT, WIDTH = 12, 16
NAMES = ["background", "car", "tree"]
COLOURS = [(0, 0, 0), (64, 0, 128), (128, 128, 0)]


def scene(i: int) -> np.ndarray:
    """A car 3×4 and, in every other one, a tree 5×3, as class numbers."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2 + i % 4 : 5 + i % 4, 1:5] = 1
    if i % 2:
        labels[4:9, 10:13] = 2
    return labels


def boxes(i: int) -> list[tuple[str, list[int]]]:
    """The same scene as x0, y0, x1, y1 of its objects."""
    return [("car", [1, 2 + i % 4, 5, 5 + i % 4]), *([("tree", [10, 4, 13, 9])] if i % 2 else [])]


def corners(box: list[int]) -> list[list[int]]:
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def save_images(root: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


def save_masks(root: Path, names: list[str], kind: str = "numbers") -> None:
    """The masks of these names, as one of the kinds."""
    table = np.array(COLOURS, np.uint8)
    for i, name in enumerate(names):
        path = root / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "colours":
            Image.fromarray(table[scene(i)]).save(path)
        elif kind == "labelme":
            shapes = [{"label": n, "shape_type": "polygon", "points": corners(b)} for n, b in boxes(i)]
            content = {"imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
            path.with_suffix(".json").write_text(json.dumps(content))
        else:
            Image.fromarray(scene(i)).save(path)


def save_coco(root: Path, names: list[str]) -> None:
    annotations: list[dict] = []
    for i in range(len(names)):
        for name, box in boxes(i):
            outline = [[v for xy in corners(box) for v in xy]]
            annotations.append({"image_id": i, "category_id": {"car": 3, "tree": 9}[name], "segmentation": outline})
    content = {
        "images": [{"id": i, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)],
        "categories": [{"id": 9, "name": "tree"}, {"id": 3, "name": "car"}],
        "annotations": annotations,
    }
    (root / "masks.json").write_text(json.dumps(content))


def names_of(count: int) -> list[str]:
    return [f"drive{i // 4}_{i:03d}" for i in range(count)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """20 images and masks of class numbers, in 5 drives."""
    save_images(tmp_path / "mine", names_of(20))
    save_masks(tmp_path / "mine", names_of(20))
    return tmp_path / "mine"


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Folder, set up; `yaml` is written as its description, keywords change its settings."""

    def build(root: Path, yaml: str = "", **changes: Any) -> Folder:
        if yaml:
            (root / "dataset.yaml").write_text(yaml)
        settings = {"size": (HEIGHT, WIDTH), "batch_size": 2, "cache_dir": str(tmp_path / "arrays")} | changes
        data = Folder(str(root), **settings)
        data.setup()
        return data

    return build


def members(data: Folder, role: str) -> set[str]:
    return {s.name for s in data.roles[role].samples}


def truth(data: Folder) -> dict[str, np.ndarray]:
    """The labels of each image in the caches."""
    images = data.roles.values()
    return {s.name: each[i]["mask"][0].numpy() for each in images for i, s in enumerate(each.samples)}


# Kinds of masks


@pytest.mark.parametrize(
    ("kind", "yaml"),
    [
        ("numbers", "classes: [background, car, tree]"),
        ("numbers", "classes: {0: background, 2: tree, 1: car}"),
        ("numbers", "classes: names.csv"),
        ("numbers", "classes: names.txt"),
        ("numbers", "labels: {0: background, 1: car, 2: tree}"),
        ("colours", "classes: names.csv"),
        ("colours", "{classes: [background, car, tree], palette: [[0, 0, 0], [64, 0, 128], [128, 128, 0]]}"),
        ("labelme", ""),
        ("labelme", "classes: [car, tree]"),
        ("coco", ""),
        ("coco", "{masks: masks.json, classes: [background, car, tree]}"),
    ],
)
def test_every_kind_gives_the_same_labels(tmp_path: Path, make: Any, kind: str, yaml: str) -> None:
    names = names_of(8)
    save_images(tmp_path, names)
    save_coco(tmp_path, names) if kind == "coco" else save_masks(tmp_path, names, kind)
    rows = [[i, n, *rgb] for i, (n, rgb) in enumerate(zip(NAMES, COLOURS, strict=True))]
    with (tmp_path / "names.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["index", "name", "red", "green", "blue"], *rows])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    data = make(tmp_path, yaml)
    assert list(data.classes) == NAMES
    assert data.background == 0
    masks = truth(data)
    assert len(masks) == 8
    for i, name in enumerate(names):
        np.testing.assert_array_equal(masks[name], scene(i))
    if "csv" in yaml or kind == "colours":
        assert data.palette == COLOURS
    assert data.original_mask("fit", 0).tolist() == masks[data.roles["fit"].samples[0].name].tolist()


def test_without_a_description_all_is_guessed_and_told(home: Path, make: Any) -> None:
    data = make(home)
    assert data.classes == ["class 0", "class 1", "class 2"]
    assert data.background is None
    told = "\n".join(data.roles["fit"].notes)
    assert "pictures (L) whose values are class numbers" in told
    assert "the values 0, 1, 2 that occur" in told
    assert "val: 20% of the images, drawn with split_seed 0" in told
    assert data.roles["report"].notes == []
    (home / "classes.txt").write_text("ground\ncar\ntree\n")
    assert make(home).classes == ["ground", "car", "tree"]
    (home / "classes.txt").write_text("0 ground\n1: car\n2\ttree\n")
    assert make(home).classes == ["ground", "car", "tree"]
    (home / "classes.txt").write_text("2 wheels\n4 wheels\ntree\n")
    assert make(home).classes == ["2 wheels", "4 wheels", "tree"]
    (home / "classes.txt").unlink()
    save_masks(home, names_of(20), "colours")
    coloured = make(home)
    assert coloured.classes == ["0,0,0", "64,0,128", "128,128,0"]
    assert coloured.palette == COLOURS


@pytest.mark.parametrize("ignored", ["car", "1", "[car]", "[1]"])
def test_an_ignored_class_in_the_middle_is_255_and_the_rest_are_renumbered(home: Path, make: Any, ignored: str) -> None:
    data = make(home, f"{{classes: [background, car, tree], ignore: {ignored}}}")
    assert data.classes == ["background", "tree"]
    masks = truth(data)
    for i, name in enumerate(names_of(20)):
        np.testing.assert_array_equal(masks[name], np.array([0, 255, 1])[scene(i)])
    assert (data.roles["report"].pixels.sum(1) == HEIGHT * WIDTH - 12).all()


def test_labels_map_values(home: Path, make: Any) -> None:
    data = make(home, "{classes: [background, car, tree], labels: {2: car, 1: ignore}}")
    assert truth(data)["drive0_001"].tolist() == np.array([0, 255, 1])[scene(1)].tolist()
    assert make(home, "labels: {0: ground, 1: thing, 2: thing}").classes == ["ground", "thing"]
    save_masks(home / "x", names_of(20), "labelme")
    merged = make(home, "{masks: x/masks, labels: {car: thing, tree: thing}}")
    assert merged.classes == ["background", "thing"]


def test_masks_of_0_and_255_ask_and_each_answer_is_taken(home: Path, make: Any) -> None:
    for i, name in enumerate(names_of(20)):
        Image.fromarray((scene(i) == 1).astype(np.uint8) * 255).save(home / "masks" / f"{name}.png")
    with pytest.raises(DataError, match=r"is 255 an object or void\? 20 masks, 20 with 255(.|\n)*labels: \{0: "):
        make(home)
    data = make(home, "labels: {0: background, 255: car}")
    assert data.classes == ["background", "car"]
    assert data.pixels().tolist() == [16 * (192 - 12), 16 * 12]
    with pytest.raises(ConfigError, match=r"the only class that occurs: there is nothing to learn \(1\)\n  a"):
        make(home, "{classes: [a, b], ignore: [255]}")


@pytest.mark.parametrize("kind", ["numbers", "coco"])
def test_a_photo_that_exif_turns_turns_its_mask(tmp_path: Path, make: Any, kind: str) -> None:
    names = names_of(5)
    save_images(tmp_path, names)
    save_coco(tmp_path, names) if kind == "coco" else save_masks(tmp_path, names)
    tags = Image.Exif()
    tags[274] = 6
    for name in names:
        path = tmp_path / "images" / f"{name}.png"
        Image.open(path).copy().save(path, exif=tags)
    data = make(tmp_path, size=(WIDTH, HEIGHT))
    for i, name in enumerate(names):
        np.testing.assert_array_equal(truth(data)[name], np.rot90(scene(i), -1))


def test_the_cache_knows_what_shapes_masks(home: Path, make: Any) -> None:
    keys = {
        make(home, yaml).roles["fit"].cache.key
        for yaml in ("classes: [a, b, c]", "{classes: [a, b, c], labels: {2: 1}}", "{classes: [a, b, c], ignore: [b]}")
    }
    assert len(keys) == 3
    assert make(home, "classes: [x, y, z]").roles["fit"].cache.key in keys  # names shape no mask
    save_coco(home, names_of(20))
    first = make(home, "masks: masks.json").roles["fit"].cache.key
    (home / "masks.json").write_text((home / "masks.json").read_text() + "\n")
    assert make(home).roles["fit"].cache.key != first


def test_labelme_files_may_lie_beside_the_images(tmp_path: Path, make: Any) -> None:
    names = names_of(5)
    save_images(tmp_path, names)
    save_masks(tmp_path, names, "labelme")
    for name in names:
        (tmp_path / "masks" / f"{name}.json").rename(tmp_path / "images" / f"{name}.json")
    (tmp_path / "masks").rmdir()
    data = make(tmp_path)
    assert data.classes == NAMES
    np.testing.assert_array_equal(truth(data)[names[1]], scene(1))


def test_classes_of_coco_by_id_or_as_named(tmp_path: Path, make: Any) -> None:
    save_images(tmp_path, names_of(5))
    save_coco(tmp_path, names_of(5))  # ids 9 tree, 3 car: gaps, and out of order in the file
    assert make(tmp_path).classes == ["background", "car", "tree"]
    named = make(tmp_path, "classes: [tree, car]")
    assert named.classes == ["background", "tree", "car"]
    np.testing.assert_array_equal(truth(named)["drive0_001"], np.array([0, 2, 1])[scene(1)])
    void = make(tmp_path, "ignore: [background]")
    assert (void.classes, void.background) == (["car", "tree"], None)
    with pytest.raises(
        DataError,
        match=r"labels that are not classes \(1\)\n  tree: in 2 masks, e\.g\. drive0_001\n(.|\n)*known: background",
    ):
        make(tmp_path, "{classes: [background, car]}")


def test_a_label_under_another_object_is_not_asked_for(tmp_path: Path, make: Any) -> None:
    """A fly that a car covers has no pixel: neither the check nor a training asks what class it is."""
    save_images(tmp_path, names_of(5))
    save_masks(tmp_path, names_of(5), "labelme")
    path = tmp_path / "masks" / "drive0_000.json"
    content = json.loads(path.read_text())
    content["shapes"].insert(0, {"label": "fly", "points": content["shapes"][0]["points"]})
    path.write_text(json.dumps(content))
    data = make(tmp_path, "classes: [background, car, tree]")
    np.testing.assert_array_equal(truth(data)["drive0_000"], scene(0))


def test_a_mask_that_changes_while_it_is_read_is_refused(home: Path, make: Any) -> None:
    data = make(home, "classes: [background, car, tree]")
    Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(home / "masks" / "drive0_000.png")
    sample = next(s for s in data.pool if s.name == "drive0_000")
    with pytest.raises(DataError, match=r"drive0_000\) holds 9, which is not a class: was the file changed"):
        data.read(sample)


def test_parts_of_a_pool_keep_their_own_pictures(home: Path, make: Any) -> None:
    data = make(home, "val: 0.3")
    for role in ("fit", "report"):
        images = data.roles[role]
        for i, sample in enumerate(images.samples):
            np.testing.assert_array_equal(images[i]["image"][0].numpy(), np.asarray(Image.open(str(sample.image))))


# Splits


def test_a_share_is_drawn_the_same_whatever_is_trained(home: Path, make: Any) -> None:
    drawn = {tuple(sorted(members(make(home, seed=seed, size=size), "report"))) for seed in (0, 1) for size in (8, 12)}
    assert len(drawn) == 1
    data = make(home)
    assert len(members(data, "report")) == 4
    assert members(data, "fit") | members(data, "report") == set(names_of(20))
    assert (data.roles["report"].pixels > 0).sum(0).tolist() == [4, 4, 2]  # trees are in every other image
    other = make(home, "split_seed: 1")
    assert members(other, "report") != members(data, "report")
    assert other.roles["fit"].cache.key == other.roles["report"].cache.key == data.roles["fit"].cache.key
    assert len(list((Path(data.cache_dir)).glob("*/images.bin"))) == 3  # one for each size


def test_a_class_that_vanishes_at_a_small_size_still_divides_alike(home: Path, make: Any) -> None:
    for i, name in enumerate(names_of(20)):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[0, :8] = 1
        labels[0, 0] = 2 if i % 2 else 0
        Image.fromarray(labels).save(home / "masks" / f"{name}.png")
    small, whole = make(home, size=4), make(home)
    assert (small.roles["fit"].pixels[:, 2] == 0).all()
    assert members(small, "report") == members(whole, "report")
    assert (whole.roles["report"].pixels[:, 2] > 0).sum() == 2


def test_shares_for_val_and_test(home: Path, make: Any) -> None:
    data = make(home, "{val: 0.2, test: 0.3}")
    assert [len(data.roles[r]) for r in ("fit", "select", "report")] == [10, 4, 6]
    assert not members(data, "fit") & members(data, "select")
    assert not members(data, "report") & (members(data, "fit") | members(data, "select"))


@pytest.mark.parametrize("yaml", ["{val: 0.4, group: '^[^_]+'}", "{test: 0.2, val: 0.2, group: '^[^_]+'}"])
def test_groups_stay_together(home: Path, make: Any, yaml: str) -> None:
    data = make(home, yaml)
    sides = [{n.split("_")[0] for n in members(data, role)} for role in data.roles]
    assert sum(map(len, sides)) == 5
    assert len(set().union(*sides)) == 5


def test_folds_are_disjoint_complete_and_share_a_cache(home: Path, make: Any) -> None:
    folds = [make(home, "{folds: 5, group: '^[^_]+'}", fold=f) for f in range(5)]
    reported = [members(data, "report") for data in folds]
    assert sorted(n for r in reported for n in r) == names_of(20)
    assert all(members(d, "fit") == set(names_of(20)) - r for d, r in zip(folds, reported, strict=True))
    assert all(len({n.split("_")[0] for n in r}) == 1 for r in reported)
    assert len({d.roles[role].cache.key for d in folds for role in d.roles}) == 1
    assert folds[2].roles["report"].name == "fold 2 of 5"


def test_lists_and_settings_over_them(home: Path, make: Any) -> None:
    names = names_of(20)
    for split, part in {"train": names[:10], "val": names[10:14], "test": names[14:], "few": names[:4]}.items():
        (home / f"{split}.txt").write_text("\n".join(part) + "\n")
    guessed = make(home)  # lists of these names are taken
    assert [members(guessed, r) for r in ("fit", "select", "report")] == [
        set(names[:10]), set(names[10:14]), set(names[14:]),
    ]  # fmt: skip
    data = make(home, "{train: few, val: val.txt}")
    assert (members(data, "fit"), members(data, "report")) == (set(names[:4]), set(names[10:14]))
    changed = make(home, train="train.txt", val=0.2)
    assert members(changed, "fit") | members(changed, "report") == set(names[:10])
    assert members(make(home, val="none", test="test"), "report") == set(names[14:])
    (home / "train.txt").write_text("\n".join(f"images/{n}.png" for n in names[:10]))
    assert members(make(home, val="val", train="train"), "fit") == set(names[:10])  # lines may be paths
    (home / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"train: the list empty is empty(.|\n)*no list 'vall\.txt'.*did you mean val"):
        make(home, train="empty", val="vall.txt")
    rest = make(home, "test: test.txt")
    assert members(rest, "fit") == set(names[:14])


def test_sub_folders_are_splits(tmp_path: Path, make: Any) -> None:
    names = [f"{'train' if i < 5 else 'val'}/{i}" for i in range(8)]
    save_images(tmp_path, names)
    save_masks(tmp_path, names)
    data = make(tmp_path)
    assert (len(data.roles["fit"]), members(data, "report")) == (5, {"val/5", "val/6", "val/7"})


def test_a_csv_of_pairs(home: Path, make: Any) -> None:
    rows = [
        {"image": f"images/{n}.png", "mask": f"masks/{n}.png", "split": "train" if i < 12 else "val", "place": n[:6]}
        for i, n in enumerate(names_of(20))
    ]
    with (home / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    data = make(home, "pairs: pairs.csv")
    assert [len(data.roles[r]) for r in ("fit", "report")] == [12, 8]
    grouped = make(home, "{pairs: pairs.csv, val: 0.2, train: none, group: place}")
    assert len({s.group for s in grouped.roles["report"].samples}) == 1
    (home / "masks" / "drive0_001.png").unlink()
    with pytest.raises(DataError, match=r"files of pairs.csv that are missing \(1\)\n.*drive0_001"):
        make(home)


def test_the_description_may_lie_elsewhere_and_is_recorded(home: Path, make: Any, tmp_path: Path) -> None:
    (tmp_path / "about.yaml").write_text("{classes: names.txt, val: 0.5}")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    data = make(home, about=str(tmp_path / "about.yaml"))
    assert data.classes == ["a", "b", "c"]
    assert data.describe()["description"]["val"] == 0.5
    json.dumps(data.describe())


# Mistakes


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("clases: [a, b]", r"unknown key 'clases'; did you mean classes"),
        ("{clases: [a], folds: 1, val: 1.5}", r"1\.5 .*between 0 and 1(.|\n)*folds: 1 is not(.|\n)*clases"),
        ("classes: [a", "is not valid YAML"),
        ("- a", "has no keys"),
        ("classes: {a: 0}", r"classes: \{'a': 0\} is not .*\{number: name\}"),
        ("classes: [a, a, b]", "classes: a is listed twice"),
        ("classes: []", r"classes: \[\] names no class"),
        ("palette: [[0, 0, 0]]", "palette: there are no classes"),
        ("classes: nowhere.csv", "classes: no file nowhere.csv"),
        ("{classes: [a, b, c], labels: {1: bb}}", "labels: 1: 'bb' is not a class; did you mean b"),
        ("{classes: [sky, b, c], ignore: [skyy]}", "ignore: skyy is not a class; did you mean sky"),
        ("{classes: [sky, b, c], background: skyy}", "background: 'skyy' is not a class; did you mean sky"),
        ("{classes: [a, b, c], palette: [[0, 0, 0]]}", "3 classes need 3 colours"),
        ("classes: [a, b]", r"2: in 10 masks, e\.g\. drive0_001(.|\n)*labels: \{2: CLASS\}"),
        ("images: photos", "no folder of images .*photos"),
        ("masks: truth", "looked for truth"),
        ("train: nowhere", "no list 'nowhere'"),
        ("val: 0.01", "val=0.01 of 20 images .* is none"),
        ("{val: 0.5, test: 0.5}", "leave nothing to train on"),
        ("group: '('", "not a regular expression"),
        ("group: 'xyz'", "matches no name"),
        ("folds: 5", r"data\.fold=null: dataset\.yaml has 5 folds"),
        ("{folds: 5, val: 0.2}", "folds: 5 together with val or test"),
        ("pairs: nowhere.csv", "pairs: no file nowhere.csv"),
    ],
)
def test_mistakes_in_the_description_are_named(home: Path, make: Any, yaml: str, message: str) -> None:
    with pytest.raises(SegstudyError, match=message):
        make(home, yaml)


def test_mistakes_in_the_settings_are_named(home: Path, make: Any, tmp_path: Path) -> None:
    for changes, message in (
        ({"fold": 2}, "has no folds"),
        ({"val": 2.0}, "above 0 and below 1"),
        ({"about": str(tmp_path / "no.yaml")}, "no file .*no.yaml"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            make(home, **changes)
    with pytest.raises(ConfigError, match=r"data\.fold=5: "):
        make(home, "folds: 5", fold=5)
    with pytest.raises(DataError, match="no folder"):
        make(tmp_path / "nowhere")


def test_mistakes_in_the_files_are_named(home: Path, make: Any) -> None:
    (home / "list.txt").write_text("drive0_000\ndrive9_000\n")
    with pytest.raises(DataError, match=r"names in lists without image or mask \(1\)\n  train: drive9_000"):
        make(home, train="list")
    (home / "masks" / "drive0_001.png").rename(home / "masks" / "other.png")
    with pytest.raises(DataError, match=r"images without mask \(1\)\n  drive0_001\n  → (.|\n)*segstudy data check"):
        make(home)
    (home / "images" / "drive0_002.jpg").write_bytes((home / "images" / "drive0_002.png").read_bytes())
    with pytest.raises(DataError, match=r"files of the same name \(1\)\n  drive0_002\.jpg and drive0_002\.png"):
        make(home)


def test_a_mask_that_cannot_be_read_prevents_training(home: Path, make: Any) -> None:
    (home / "masks" / "drive0_003.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 20 masks cannot be used:\n.*drive0_003\.png cannot be read"):
        make(home)


def test_pairs_that_name_no_existing_file(home: Path, make: Any) -> None:
    (home / "pairs.csv").write_text("image,mask\nimages/gone.png,masks/gone.png\n")
    with pytest.raises(DataError, match=r"no pair in .*pairs\.csv exists: .*gone\.png, .*\n  → write paths relative"):
        make(home, "pairs: pairs.csv")


def test_text_files_are_utf_8_with_or_without_a_mark(home: Path, make: Any) -> None:
    (home / "names.txt").write_bytes("sky\nbäume\nc\n".encode("utf-8-sig"))
    assert make(home, "classes: names.txt").classes == ["sky", "bäume", "c"]
    (home / "names.txt").write_bytes("sky\nbäume\nc\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"names\.txt is not UTF-8 text: byte 0xe4 in line 2\n(.|\n)*UTF-8"):
        make(home)


def test_an_unknown_colour_names_file_and_colour(home: Path, make: Any) -> None:
    save_masks(home, names_of(20), "colours")
    with pytest.raises(ConfigError, match=r"the classes a, b, c have no colour(.|\n)*64,0,128"):
        make(home, "classes: [a, b, c]")
    with pytest.raises(
        DataError, match=r"colours that are not classes \(1\)\n  128,128,0: in 10 masks, e\.g\. drive0_001"
    ):
        make(home, "{classes: [a, b], palette: [[0, 0, 0], [64, 0, 128]]}")

"""The audit's readings: worked by hand, against other libraries' metrics, their floors, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU
from typer.testing import CliRunner

from segstudy.cli.main import app
from segstudy.errors import ConfigError, DataError
from segstudy.measures.stored_rows import sum_rows
from segstudy.metrics import confusion, summary
from segstudy.study.audit import MOST_USED, audit, background_class, words
from segstudy.study.counts import Counts
from segstudy.study.readings import (
    BATCHES,
    DEFINITIONS,
    MIN_IMAGES,
    RULES,
    Rule,
    batch_accuracy,
    dataset,
    fine_grained,
    first_class,
    over_batches,
    over_classes,
    supported,
    undivided,
    weighted_batches,
)

# Three images of eight pixels and four classes: 2 is predicted but never true, 3 is neither.
TRUTH = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 255, 255], [0, 0, 1, 1, 1, 1, 1, 1]])
PREDICTED = np.array([[0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 2, 2, 0], [0, 0, 1, 1, 1, 0, 0, 0]])
#   IoU of each image: 3/5, 3/5 · 5/6, –, 0/1 · 2/5, 3/6      of the split: 10/16, 6/11, 0/1, –


def rows_of(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The sparse rows (image, truth, prediction, pixels) that a run keeps."""
    rows = []
    for i, (t, p) in enumerate(zip(truth, predicted, strict=True)):
        counts = confusion(torch.from_numpy(p)[None], torch.from_numpy(t)[None], classes).numpy()
        rows += [(i, *place, counts[tuple(place)]) for place in np.argwhere(counts)]
    return np.array(rows, np.int64)


def counts_of(truth: np.ndarray, predicted: np.ndarray, classes: int = 4) -> Counts:
    return Counts.from_rows(rows_of(truth, predicted, classes), len(truth), classes)


def values(counts: Counts, background: int | None = 0) -> dict[str, float]:
    return {d.name: d.measure(counts, background) for d in DEFINITIONS}


def random_maps(n: int = 21, classes: int = 6, void: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Label maps int64 (n,64) with two or three classes an image, some wrong labels, and none of the last class."""
    rng = np.random.default_rng(3)
    truth = np.stack([rng.choice(rng.choice(classes - 1, 2 + i % 2, replace=False), 64) for i in range(n)])
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, classes - 1, truth.shape))
    return np.where(rng.random(truth.shape) < void, 255, truth), predicted


# By hand


def test_the_readings_of_the_whole_split_by_hand() -> None:
    by_hand = {
        "dataset mIoU, classes with truth": (10 / 16 + 6 / 11) / 2,
        "dataset mIoU, classes with union > 0": (10 / 16 + 6 / 11 + 0) / 3,
        "dataset mIoU, all classes, absent = 0": (10 / 16 + 6 / 11 + 0 + 0) / 4,
        "dataset mIoU, all classes, absent = 1": (10 / 16 + 6 / 11 + 0 + 1) / 4,
        "without background": 6 / 11,
        "micro IoU": 16 / 28,
        "frequency-weighted IoU": (12 * 10 / 16 + 10 * 6 / 11) / 22,
        "Dice reported as IoU": (20 / 26 + 12 / 17) / 2,
        "foreground IoU": 6 / 12,
        "mean of foreground and background IoU": (6 / 12 + 10 / 16) / 2,
    }
    read = values(counts_of(TRUTH, PREDICTED))
    assert {name: read[name] for name in by_hand} == pytest.approx(by_hand)
    assert np.isnan(read["classes in ≥ 20 images"])  # no class is in as many


def test_the_means_over_images_by_hand() -> None:
    by_hand = {
        "macro-imagewise": (np.mean([0.6, 0.6, 1, 1]) + np.mean([5 / 6, 1, 0, 1]) + np.mean([0.4, 0.5, 1, 1])) / 3,
        "micro-imagewise": (6 / 10 + 5 / 7 + 5 / 11) / 3,
        "all pairs of image and class, union > 0": (0.6 + 0.6 + 5 / 6 + 0 + 0.4 + 0.5) / 6,
        "per class over images, union > 0": ((0.6 + 5 / 6 + 0.4) / 3 + (0.6 + 0.5) / 2 + 0) / 3,
        "mIoU^I": (0.6 + 5 / 6 + 0.45) / 3,
        "mIoU^C": ((0.6 + 5 / 6 + 0.4) / 3 + (0.6 + 0.5) / 2) / 2,
        "batches of 1 (images), classes with truth": (0.6 + 5 / 6 + 0.45) / 3,
        "batches of 1 (images), classes with union > 0": (0.6 + 5 / 12 + 0.45) / 3,
        "batches of 1 (images), all classes, absent = 0": (1.2 / 4 + 5 / 6 / 4 + 0.9 / 4) / 3,
    }
    read = values(counts_of(TRUTH, PREDICTED))
    assert {name: read[name] for name in by_hand} == pytest.approx(by_hand)
    assert read["batches of 1 (images), all classes, absent = 1"] == pytest.approx(by_hand["macro-imagewise"])


@pytest.mark.parametrize(
    ("rule", "first", "second"),
    [
        ("truth", (8 / 11 + 0.6) / 2, (0.4 + 0.5) / 2),
        ("union", (8 / 11 + 0.6 + 0) / 3, (0.4 + 0.5) / 2),
        ("one", (8 / 11 + 0.6 + 0 + 1) / 4, (0.4 + 0.5 + 1 + 1) / 4),
        ("zero", (8 / 11 + 0.6) / 4, (0.4 + 0.5) / 4),
    ],
)
def test_batches_of_two_by_hand(rule: Rule, first: float, second: float) -> None:
    # The second batch holds one image, and counts as much as the first.
    assert over_batches(counts_of(TRUTH, PREDICTED), 2, rule) == pytest.approx((first + second) / 2)


def test_the_other_batch_means_by_hand() -> None:
    counts = counts_of(TRUTH, PREDICTED)
    assert weighted_batches(counts, 2) == pytest.approx((2 * (8 / 11 + 0.6) / 3 + 1 * 0.45) / 3)
    assert first_class(counts, 2) == pytest.approx((8 / 11 + 0.4) / 2)
    assert over_classes(counts.batches(2).iou) == pytest.approx(((8 / 11 + 0.4) / 2 + (0.6 + 0.5) / 2 + 0) / 3)
    assert undivided(counts, 2) == pytest.approx((1.2 / 4 + 5 / 6 / 4) / 2 + 0.9 / 4)
    assert undivided(counts_of(np.tile(TRUTH, (40, 1)), np.tile(TRUTH, (40, 1)))) > 1
    assert batch_accuracy(counts, 2) == pytest.approx((11 / 14 + 5 / 8) / 2)


def test_the_first_class_is_the_lowest_that_is_there() -> None:
    truth, predicted = np.array([[1, 1, 2, 2], [2, 2, 2, 2]]), np.array([[1, 0, 2, 2], [2, 2, 2, 1]])
    assert first_class(counts_of(truth, predicted), 1) == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_accuracies_by_hand() -> None:
    by_hand = {
        "pixel accuracy": 16 / 22,
        "mean class accuracy": (10 / 12 + 6 / 10) / 2,
        "accuracy of the foreground": 6 / 10,
        "accuracy, mean of batches of 16": 16 / 22,
    }
    read = values(counts_of(TRUTH, PREDICTED))
    assert {name: read[name] for name in by_hand} == pytest.approx(by_hand)


def test_micro_iou_is_a_function_of_accuracy() -> None:
    read = values(counts_of(*random_maps(), 6))
    assert read["micro IoU"] == pytest.approx(read["pixel accuracy"] / (2 - read["pixel accuracy"]))


def test_one_pixel_of_a_class_without_truth_moves_only_those_that_divide_by_it() -> None:
    truth = np.array([[0] * 50 + [1] * 50])
    predicted = truth.copy()
    predicted[0, 0] = 2
    perfect, pixel = values(counts_of(truth, truth)), values(counts_of(truth, predicted))
    names = [f"dataset mIoU, {rule}" for rule, *_ in RULES.values()]
    assert [perfect[n] for n in names] == [1, 1, 1, 0.5]  # truth, union, one, zero: of four classes, two are there
    assert [pixel[n] for n in names] == pytest.approx([1.98 / 2, 1.98 / 3, 2.98 / 4, 1.98 / 4])


def test_only_classes_in_enough_images_are_supported() -> None:
    truth, predicted = np.tile(TRUTH[0], (MIN_IMAGES, 1)), np.tile(PREDICTED[0], (MIN_IMAGES, 1))
    truth, predicted = np.vstack([truth, [[2] * 8]]), np.vstack([predicted, [[0] * 8]])
    iou = (20 * 3 / (20 * 5 + 8) + 3 / 5) / 2  # class 2, in one image, is left out; its pixels are the background's
    assert supported(counts_of(truth, predicted)) == pytest.approx(iou)
    assert dataset(counts_of(truth, predicted)) == pytest.approx(iou * 2 / 3)


def test_two_classes_have_the_foregrounds_iou_as_fine_grained() -> None:
    truth, predicted = np.array([[0, 0, 1, 1], [0, 0, 0, 0]]), np.array([[0, 1, 1, 1], [0, 0, 0, 0]])
    counts = counts_of(truth, predicted, 2)
    assert fine_grained(counts, 0) == pytest.approx((2 / 3 + 1) / 2)  # the second image has and predicts none
    assert fine_grained(counts, 0, by_class=True) == fine_grained(counts, 0)
    assert fine_grained(counts, 1) == pytest.approx((1 / 2 + 1) / 2)
    read = values(counts)
    assert read["foreground IoU"] == read["without background"] == pytest.approx(2 / 3)
    assert read["mean of foreground and background IoU"] == read["dataset mIoU, classes with truth"]


def test_an_image_without_a_counted_pixel_has_no_reading() -> None:
    void = np.vstack([TRUTH, np.full((1, 8), 255)]), np.vstack([PREDICTED, np.zeros((1, 8), int)])
    counts = Counts.from_rows(rows_of(*void, 4), 4, 4)
    without, read = values(counts_of(TRUTH, PREDICTED)), values(counts)
    del without["sum over batches of 4, never divided"]  # its mean over images counts it as 0
    assert {name: read[name] for name in without} == pytest.approx(without, nan_ok=True)


def test_without_a_background_what_needs_it_is_not_defined() -> None:
    read = values(counts_of(TRUTH, PREDICTED), None)
    undefined = {name for name, value in read.items() if np.isnan(value)} - {"classes in ≥ 20 images"}
    assert undefined == {"without background", "foreground IoU", "mean of foreground and background IoU",
                         "accuracy of the foreground"}  # fmt: skip


# Against others


def test_agrees_with_the_metrics_of_a_run() -> None:
    truth, predicted = random_maps(void=0.1)
    split = summary(torch.from_numpy(sum_rows(rows_of(truth, predicted, 6), (1, 2), (6, 6))))
    read = values(counts_of(truth, predicted, 6))
    names = {"miou": "dataset mIoU, classes with truth", "fw_iou": "frequency-weighted IoU",
             "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean class accuracy",
             "mean_dice": "Dice reported as IoU"}  # fmt: skip
    assert {key: read[name] for key, name in names.items()} == pytest.approx(split)


def test_agrees_with_torchmetrics() -> None:
    truth, predicted = random_maps()
    read = values(counts_of(truth, predicted, 6))
    t, p = torch.from_numpy(truth)[:, None], torch.from_numpy(predicted)[:, None]
    index = MulticlassJaccardIndex(6, average="macro")
    index.update(p, t)
    assert read["dataset mIoU, classes with union > 0"] == pytest.approx(index.compute().item())
    for size in BATCHES:
        means = [index.forward(*pair).item() for pair in zip(p.split(size), t.split(size), strict=True)]
        name = f"batches of {size}{' (images)' * (size == 1)}, classes with union > 0"
        assert read[name] == pytest.approx(np.mean(means))
    pairs = MeanIoU(6, input_format="index")
    for pair in zip(p.split(4), t.split(4), strict=True):
        pairs.update(*pair)
    assert read["all pairs of image and class, union > 0"] == pytest.approx(pairs.compute().item())
    classes = MeanIoU(6, input_format="index", per_class=True)(p, t)
    assert read["per class over images, union > 0"] == pytest.approx(classes[classes >= 0].mean().item())
    accuracy = MulticlassAccuracy(6, average="macro")(p[t < 6], t[t < 6])
    assert read["mean class accuracy"] == pytest.approx(accuracy.item())


def test_agrees_with_smp() -> None:
    truth, predicted = random_maps()
    read = values(counts_of(truth, predicted, 6))
    stats = smp.metrics.get_stats(torch.from_numpy(predicted), torch.from_numpy(truth), "multiclass", num_classes=6)
    names = {"dataset mIoU, all classes, absent = 1": "macro", "micro IoU": "micro",
             "macro-imagewise": "macro-imagewise", "micro-imagewise": "micro-imagewise"}  # fmt: skip
    for name, reduction in names.items():
        assert read[name] == pytest.approx(smp.metrics.iou_score(*stats, reduction=reduction).item()), name
    for name, reduction in ((n, r) for n, r in names.items() if r.startswith("macro")):
        zero = smp.metrics.iou_score(*stats, reduction=reduction, zero_division=0.0).item()
        with_zero = {"macro": "dataset mIoU, all classes, absent = 0"}.get(
            reduction, "batches of 1 (images), all classes, absent = 0"
        )
        assert read[with_zero] == pytest.approx(zero), name


# Floors


def test_the_floor_is_the_reading_of_a_predictor_of_one_class() -> None:
    truth, predicted = random_maps(void=0.1)
    floor = counts_of(truth, predicted, 6).constant(0)
    direct = counts_of(truth, np.zeros_like(truth), 6)
    assert values(floor) == pytest.approx(values(direct), nan_ok=True)


def test_floors_by_hand() -> None:
    floor = values(counts_of(TRUTH, PREDICTED).constant(0))
    assert floor["dataset mIoU, classes with truth"] == pytest.approx(12 / 22 / 2)
    assert floor["pixel accuracy"] == pytest.approx(12 / 22)
    assert floor["foreground IoU"] == floor["without background"] == floor["accuracy of the foreground"] == 0
    assert floor["macro-imagewise"] == pytest.approx((2.5 / 4 + 4 / 4 + 2.25 / 4) / 3)  # absent classes lift it


# The command


def make_run(folder: Path, name: str = "Folder", classes: tuple[str, ...] = (), **record: object) -> Path:
    """A made-up run folder: the three images above at network size, the first two at original size."""
    (folder / "test").mkdir(parents=True)
    rows = rows_of(TRUTH, PREDICTED, 4)
    original = rows_of(TRUTH[:2], PREDICTED[:2], 4)
    np.savez_compressed(folder / "test" / "counts.npz", names=["a", "b", "c"], network=rows, original=original)
    data = {"name": name, "size": [2, 4], "protocol": "", "roles": {"report": {"split": "val", "images": 3}}}
    values = {"status": "done", "class_names": list(classes or ("background", "cat", "dog", "cow")), "data": data}
    (folder / "record.json").write_text(json.dumps(values | record))
    (folder / "history.csv").write_text("epoch,train/loss,val/miou\n1,2,.5\n2,1,\n3,1,.7\n4,1,.6\n")
    return folder


def test_an_audit_of_a_run(tmp_path: Path) -> None:
    done = audit(make_run(tmp_path / "run", metrics_tta={"miou": 0.625}))
    level = (10 / 16 + 6 / 11) / 2
    first = done.readings[0]
    assert (first.value, first.distance, first.floor) == pytest.approx((level, 0, 12 / 22 / 2))
    assert done["micro IoU"].distance == pytest.approx(16 / 28 - level)
    assert done["pixel accuracy, void an error"].value == pytest.approx(16 / 24)
    assert done["pixel accuracy, void an error"].floor == pytest.approx(12 / 24)
    assert done["at each image's original size"].value == pytest.approx((8 / 11 + 3 / 5) / 2)
    assert done["at each image's original size"].floor == pytest.approx(10 / 14 / 2)
    assert (done["with views"].value, done["with views"].distance) == pytest.approx((0.625, 0.625 - level))
    assert done["best epoch (3) on the reported split"].value == 0.7
    assert done["last epoch (4) on the reported split"].distance == pytest.approx(0.6 - level)
    assert done.constant == "all background"
    mious = [r.value for r in done.readings if r.group in ("dataset", "per image", "per batch", "other batch means")]
    assert done.spread[0] == np.nanmin(mious)


def test_a_selection_on_other_images_has_no_distance(tmp_path: Path) -> None:
    roles = {"report": {"split": "test", "images": 3}, "select": {"split": "val", "images": 9}}
    done = audit(make_run(tmp_path / "run", data={"name": "Folder", "size": [2, 4], "roles": roles}))
    assert done["best epoch (3) on 'val', which selects"].distance is None
    assert "The best epoch differs from the last by +0.100" in " ".join(words(done))


def test_the_command_prints_every_reading_and_writes_json(tmp_path: Path) -> None:
    folder, out = make_run(tmp_path / "run"), tmp_path / "readings.json"
    done = CliRunner(env={"COLUMNS": "240"}).invoke(app, ["audit", str(folder), "--all", "--json", str(out)])
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    for reading in written["readings"]:
        if reading["value"] is None:
            assert reading["name"] not in done.output
        elif reading["group"] != "per batch":
            assert reading["name"] in done.output
    assert {r["group"] for r in written["readings"]} == {"dataset", "per image", "per batch", "other batch means",
                                                        "accuracy", "other predictions", "selection"}  # fmt: skip
    assert len([r for r in written["readings"] if r["group"] == "per batch"]) == len(RULES) * len(BATCHES)
    assert written["readings"][0]["value"] == pytest.approx((10 / 16 + 6 / 11) / 2)
    assert next(r for r in written["readings"] if r["name"].startswith("classes in"))["value"] is None
    assert (written["floor"], written["background"], written["published"]) == ("all background", 0, None)
    assert "Published" not in done.output
    told = " ".join(done.output.split())
    assert "or higher (yellow), is all background under: dataset mIoU, all classes, absent = 1;" in told


def test_without_all_the_result_and_the_most_used_definitions_fill_a_screen(tmp_path: Path) -> None:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["audit", str(make_run(tmp_path / "run"))])
    assert done.output.startswith("run: the same predictions count as 0.")
    assert set(MOST_USED) <= {d.name for d in DEFINITIONS}
    assert all(name in done.output for name in MOST_USED)
    assert "reading" not in done.output.replace("docs/readings.md", "")
    assert len(done.output.splitlines()) <= 24


@pytest.mark.parametrize(
    ("name", "figure", "system"),
    [("VOC", "79.38", "resnet_unet"), ("VOCSBD", "79.38", "resnet_unet"), ("ADE20K", ".1389", "ade_unet"),
     ("Pet", "93.45", "pet_benchmark")],
)  # fmt: skip
def test_a_published_figure_is_never_beaten(tmp_path: Path, name: str, figure: str, system: str) -> None:
    told = " ".join(words(audit(make_run(tmp_path / "run", name))))
    assert figure in told
    page = (Path(__file__).parents[1] / "docs" / "readings.md").read_text().split("## What a published value")[1]
    assert f"`{system}`, " in page
    assert figure in page
    assert "docs/readings.md" in told
    assert "Only on the same data could anything be compared" in told
    assert "That is other data: no comparison." in told
    assert "beat" not in told


def test_data_that_could_be_the_published_ones_are_not_called_others(tmp_path: Path) -> None:
    roles = {"report": {"split": "val", "images": 1449}}
    told = " ".join(words(audit(make_run(tmp_path, data={"name": "VOC", "size": [256, 256], "roles": roles}))))
    assert "That could be the same data; their files must be too." in told


def test_without_a_background_the_floor_is_the_commonest_class(tmp_path: Path) -> None:
    done = audit(make_run(tmp_path / "run", classes=("wall", "floor", "sky", "tree")))
    assert (done.background, done.constant) == (None, "all wall")
    assert np.isnan(done["foreground IoU"].value)
    assert done.readings[0].floor == pytest.approx(12 / 22 / 2)


def test_the_background_is_the_recorded_one() -> None:
    assert background_class({"background": 2}, ["a", "b", "c"]) == 2
    assert background_class({"background": None}, ["background", "b"]) is None
    assert background_class({}, ["background", "b"]) == 0
    assert background_class({}, ["wall", "background"]) is None


def test_errors_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a run's folder[\s\S]*no such folder"):
        audit(tmp_path / "none")
    folder = make_run(tmp_path / "study" / "run", status="running")
    with pytest.raises(ConfigError, match=r"not a run's folder[\s\S]*found: run\n[\s\S]*→ .*study/run"):
        audit(tmp_path / "study")
    (folder / "test" / "counts.npz").unlink()
    with pytest.raises(DataError, match=r"no counts of its test images[\s\S]*'running'[\s\S]*wait"):
        audit(folder)


def test_the_page_explains_every_reading() -> None:
    page = (Path(__file__).parents[1] / "docs" / "readings.md").read_text()
    missing = [d.name for d in DEFINITIONS if d.group != "per batch" and d.name not in page]
    assert not missing + [name for name, *_ in RULES.values() if name not in page]

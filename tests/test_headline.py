"""The headline size: which size gives a run's figures, which runs form a group, and what is left out of it."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archetypes import predictors, scene
from conftest import make_voc, save_record
from PIL import Image
from rich.console import Console

from segstudy.callbacks.per_image_confusion import dataset_metrics
from segstudy.data.datasets.scenes import Scenes
from segstudy.data.datasets.voc import VOC
from segstudy.errors import DataError
from segstudy.measures.stored_rows import sum_rows
from segstudy.runs.headline import headline_metrics, headline_size, headline_words, same_size, training_size
from segstudy.runs.listing import as_json, list_runs
from segstudy.runs.record import read_record
from segstudy.runs.tables import comparable, print_classes, print_study
from segstudy.study.analysis.analyse import analyse_study
from segstudy.study.analysis.plan import Plan
from segstudy.study.audit import audit, published
from segstudy.study.compare import compare
from segstudy.study.report.csv import run_rows
from segstudy.study.report.html import provenance
from segstudy.study.report.methods import methods
from segstudy.study.report.pictures import pictures
from segstudy.study.report.tables import metrics
from segstudy.study.report.write import write_report
from segstudy.study.results import NOT_COMPARED, from_masks, read_run, read_study, runs_by_variant

NAMES = ["background", "a", "b", "c", "d", "e"]
IMAGES = [(str(i), scene(i, 48)) for i in range(16)]

SENTENCE = "Compared at original size: the runs saw the images at different sizes; how they fail is not compared."

Masks = Sequence[tuple[str, np.ndarray, np.ndarray]]


def about(fit: str | None = None, side: int = 48, key: str = "k", files: str | None = "f", **data: Any) -> dict:
    """A run's record. fit None and files None: an older one. key: of the sizes of its images."""
    report = {"split": "val", "images": 16, "fingerprint": key}
    report |= {} if files is None else {"files": files, "shapes": key}
    told = {"name": "X", "size": [side, side], "background": 0, "protocol": "", "roles": {"report": report}} | data
    told["roles"] = {"fit": {"split": "train", "images": 9, "fingerprint": "t"}} | told["roles"]
    return {"data": told | ({} if fit is None else {"fit": fit}), "class_names": NAMES, "status": "done"}


def predicted(story: str, seed: int, step: int = 1) -> Masks:
    """Each image's truth and labels, right on two of three, at every so manieth pixel."""
    return [
        (name, truth[::step, ::step], predictors(truth, 6, i)[story if (i + seed) % 3 else "perfect"][::step, ::step])
        for i, (name, truth) in enumerate(IMAGES)
    ]


def sparse(masks: Masks) -> np.ndarray:
    rows = []
    for i, (_, truth, labels) in enumerate(masks):
        pairs, pixels = np.unique(np.stack([truth, labels])[:, truth < 255], axis=1, return_counts=True)
        rows += [(i, *pair, n) for pair, n in zip(pairs.T, pixels, strict=True)]
    return np.array(rows, np.int64)


def make_run(folder: Path, record: dict, story: str, seed: int = 0, step: int = 1, **more: Any) -> None:
    """A tested run that saw every so manieth pixel of its images."""
    (folder / "test").mkdir(parents=True)
    masks = {"network": predicted(story, seed, step), "original": predicted(story, seed)}
    rows, names = {size: sparse(seen) for size, seen in masks.items()}, [name for name, _ in IMAGES]
    sums = from_masks("", masks["network"], NAMES, 0).sums
    np.savez(folder / "test" / "counts.npz", names=names, **rows)  # type: ignore[arg-type]
    np.savez(folder / "test" / "measures.npz", names=names, groups=names, **sums)  # type: ignore[arg-type]
    told = {"palette": [[i, i, i] for i in range(6)], "seed": seed, "steps": 9, "checkpoint": "last", **more}
    told |= dataset_metrics({size: sum_rows(r, (1, 2), (6, 6)) for size, r in rows.items()}, NAMES)
    save_record(folder, record | told)
    (folder / "history.csv").write_text("epoch,val/miou\n1,0.5\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1 saw its images squashed to half their side, v2 and v3 at their own size, in crops of 16 and 32."""
    made = tmp_path_factory.mktemp("made")
    for seed in (0, 1):
        make_run(made / f"v1_{seed}", about("squash", 24, "s"), "speckled", seed, 2, changes=["model=v1"])
        make_run(made / f"v2_{seed}", about("crop", 16, "c"), "core only", seed, changes=["model=v2"])
        make_run(made / f"v3_{seed}", about("crop", 32, "c"), "holed", seed, changes=["model=v3"])
    return made


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "study")


# Which size, which runs


def test_squashed_runs_are_shown_at_network_size_and_others_at_original_size() -> None:
    old, squash, crop, keep = (about(fit, keep_side="long") for fit in (None, "squash", "crop", "keep"))
    assert [headline_size(r) for r in (old, squash, crop, keep, {})] == [
        "network",
        "network",
        *["original"] * 2,
        "network",
    ]
    assert [headline_words(r) for r in (old, crop, keep, {})] == ["48×48", "original size", "original size", ""]
    assert [training_size(r["data"]) for r in (old, crop, keep)] == [
        "at 48×48", "in crops of 48×48", "at 48×48 (aspect kept, long side)",
    ]  # fmt: skip
    limited = about("crop", max_side=512)["data"]
    assert training_size(limited, " pixels") == "in crops of 48×48 pixels (long side at most 512)"
    measured = {"metrics": {"network": {"miou": 0.2}, "original": {"miou": 0.4}}}
    assert headline_metrics(squash | measured) == {"miou": 0.2}
    assert headline_metrics(crop | measured) == {"miou": 0.4}
    assert headline_metrics(crop) == {}


def test_runs_at_different_sizes_are_shown_at_original_size() -> None:
    small, large = about("squash", 24, "small"), about("squash", 48, "large")
    assert headline_size(small, small) == "network"
    assert headline_size(small, large) == "original"
    assert not same_size(small, large)
    # The training crops may differ, and images may have data.size already.
    assert same_size(about("crop", 16), about("crop", 32))
    assert same_size(about("squash", 48, "48"), about("crop", 16, "48"))
    assert not same_size(about("keep", 16, "k16"), about("keep", 32, "k32"))
    assert not same_size(about(None, 16, files=None), about(None, 32, files=None))
    assert same_size(small, {"status": "failed"}, {"data": {"background": 0}})


def groups_of(*records: dict) -> list[list[str]]:
    return [list(group) for group in comparable({str(i): r for i, r in enumerate(records)})]


def test_runs_on_the_same_images_form_a_group_whatever_their_size() -> None:
    runs = about("squash", 24, "s"), about("crop", 16, "c"), about("keep", 32, "k")
    assert groups_of(*runs) == [["0", "1", "2"]]
    assert groups_of(about("crop"), about("crop", files="others")) == [["0"], ["1"]]
    assert groups_of(about("crop"), about("crop", protocol="border=ignore")) == [["0"], ["1"]]
    assert groups_of(about("crop"), about("crop") | {"class_names": ["x"]}) == [["0"], ["1"]]


def test_older_runs_are_compared_at_one_size_only() -> None:
    old = [about(None, side, key, files=None) for side, key in ((24, "s"), (48, "l"), (48, "l"))]
    assert groups_of(*old) == [["0"], ["1", "2"]]


# A group at several sizes


def test_runs_at_different_sizes_are_compared_at_original_size_without_how_they_fail(study: Path) -> None:
    figures = ("missed", "v1"), ("missed", "v3"), ("epochs_to_90", "v1"), ("miou", "v1")
    claims = [{"say": "so", "figure": f, "variant": "v2", "against": a, "direction": "higher"} for f, a in figures]
    claims[0]["at"] = "equal_spill"
    plan = Plan.of({"min_images": 5, "claims": claims})
    findings, [tests] = analyse_study(study, plan)
    [group] = findings.groups
    assert group.title == "X at original size: 16 images of 'val'"
    assert group.sentence.endswith(SENTENCE)
    assert group.sentence in findings.sentence
    for variant, story in zip(group.variants, ("speckled", "core only", "holed"), strict=True):
        own = [from_masks("", predicted(story, seed), NAMES, 0).counts.whole().iou.mean() for seed in (0, 1)]
        assert variant.miou_all.value == pytest.approx(np.mean(own))
        assert np.isnan(variant.miou_original.value)
        assert (variant.outcomes, variant.offsets, variant.history) == ({}, [], [[], []])
        assert set(variant.metrics) == {"image_miou", "worst"}
    assert all(t.sums == {} for t in tests)
    assert [(c.outcome, c.words) for c in group.claims[:3]] == [("not measured", NOT_COMPARED)] * 3
    assert group.claims[3].outcome != "not measured"
    assert not any("older version" in warning for warning in group.warnings)
    rows = [row[0] for row in metrics(group).rows]
    assert not [row for row in rows if "missed" in row or "original size" in row]
    assert "mIoU of all classes with truth" in rows
    assert "no pictures" in pictures(group, runs_by_variant(tests)).note.lower()


def test_the_report_of_runs_at_different_sizes_says_so_on_every_page(study: Path) -> None:
    findings, _ = analyse_study(study, Plan(min_images=5))
    page = write_report(findings, study).read_text()
    for text in (page, (study / "report.md").read_text(), (study / "table.tex").read_text()):
        assert SENTENCE in text
        assert "X at original size" in text
    assert (study / "first_screen.png").is_file()
    assert "at 24×24 pixels or in crops of 16×16 pixels or in crops of 32×32 pixels" in methods(findings)[0]
    assert "16 images of 'val' at original size" in methods(findings)[0]
    assert provenance(findings.groups[0])["size"] == [
        "24×24 (2 runs)", "in crops of 16×16 (2 runs)", "in crops of 32×32 (2 runs)",
    ]  # fmt: skip


def test_crops_of_different_sizes_are_compared_in_how_they_fail(study: Path) -> None:
    [tests], _ = read_study(study)
    assert not tests[0].sums
    for seed in (0, 1):
        (study / f"v1_{seed}" / "record.json").unlink()
    [tests], _ = read_study(study)
    assert all("cells" in t.sums for t in tests)
    sentence = analyse_study(study, Plan(min_images=5))[0].groups[0].sentence
    assert "original size" not in sentence


def test_errors_measured_at_different_sizes_are_not_compared(study: Path) -> None:
    for seed in (0, 1):
        (study / f"v1_{seed}" / "record.json").unlink()
    record = json.loads((study / "v2_0" / "record.json").read_text())
    save_record(study / "v2_0", record | {"measured_at": "half"})
    findings, [tests] = analyse_study(study, Plan(min_images=5))
    assert all(t.sums == {} for t in tests)
    assert findings.groups[0].sentence.endswith(f" {NOT_COMPARED.capitalize()}.")


# Where figures are shown


def shown(study: Path) -> str:
    screen = Console(record=True, width=200)
    print_study(study, screen)
    return " ".join(screen.export_text().split())


def test_tables_show_the_headline_size_once(study: Path) -> None:
    text = shown(study)
    original = json.loads((study / "v1_0" / "record.json").read_text())["metrics"]["original"]["miou"]
    assert "mIoU original" not in text
    assert f"{original:.3f}" in text
    assert "at original size; trained on 9 images of 'train' at 24×24 or in crops of 16×16 or in crops of 32×32" in text
    for run in ("v2_0", "v2_1", "v3_0", "v3_1"):
        (study / run / "record.json").unlink()
    text = shown(study)
    assert "mIoU original" in text
    assert "X at 24×24; trained on 9 images of 'train', reported" in text


def test_a_runs_classes_are_those_of_its_headline_size(study: Path) -> None:
    texts = {}
    for run in ("v1_0", "v2_0"):
        screen = Console(record=True, width=200)
        print_classes(json.loads((study / run / "record.json").read_text()), screen)
        texts[run] = screen.export_text()
    assert "test, at network size" in texts["v1_0"]
    assert "network size: " in texts["v1_0"]
    assert "test, at original size" in texts["v2_0"]
    assert "network size: " not in texts["v2_0"]  # the same metrics, printed once


def test_lists_and_csv_give_the_headline_figures(study: Path) -> None:
    for row in json.loads(as_json(list_runs(study))):
        metrics = json.loads((Path(row["folder"]) / "record.json").read_text())["metrics"]
        size = "network" if "v1" in row["folder"] else "original"
        assert row["miou_at"] == size
        assert (row["miou"], row["pixel_accuracy"]) == (metrics[size]["miou"], metrics[size]["pixel_accuracy"])
    findings, _ = analyse_study(study, Plan(min_images=5))
    for row in run_rows(findings):
        metrics = json.loads((Path(str(row["folder"])) / "record.json").read_text())["metrics"]
        assert row["miou_network"] == metrics["network"]["miou"]
        assert row["pixel_accuracy"] == metrics["original"]["pixel_accuracy"]


def test_an_audit_begins_with_the_headline_figure_and_shows_the_other_size(tmp_path: Path) -> None:
    make_run(tmp_path / "squash", about("squash", 24), "speckled", step=2)
    make_run(tmp_path / "keep", about("keep", 24, name="Pet", protocol=""), "speckled", step=2)
    squash, keep = (audit(tmp_path / name) for name in ("squash", "keep"))
    assert squash.readings[0].value == keep["at the size that the network saw"].value
    assert keep.readings[0].value == squash["at each image's original size"].value != squash.readings[0].value
    assert keep["at the size that the network saw"].distance == squash.readings[0].value - keep.readings[0].value
    # The images' own sizes are not recorded, and the validation curve is at network size.
    assert "pixel accuracy, void an error" in {r.name for r in squash.readings} - {r.name for r in keep.readings}
    assert [a["last epoch (1) on the reported split"].distance is None for a in (squash, keep)] == [False, True]
    assert "of 'val' at original size. That is other data: no comparison." in published(keep)


def test_results_at_different_sizes_are_compared_at_original_size(made: Path) -> None:
    squash, crop = (read_run(made / run, read_record(made / run), run) for run in ("v1_0", "v2_0"))
    assert squash.original is not None
    whole = replace(squash, counts=squash.original, original=None)
    assert compare(squash, crop).difference == compare(whole, crop).difference
    with pytest.raises(DataError, match="same truth"):
        compare(replace(squash, record={}), crop)  # nothing says that it is another size


def test_extra_evaluations_of_an_audit_are_at_network_size(tmp_path: Path) -> None:
    make_run(tmp_path / "keep", about("keep", 24), "speckled", step=2, metrics_tta={"miou": 0.5})
    make_run(tmp_path / "squash", about("squash", 24), "speckled", step=2, metrics_tta={"miou": 0.5})
    squash, keep = (audit(tmp_path / name) for name in ("squash", "keep"))
    assert keep["with views"].formula == "as the first row, at network size"
    assert keep["with views"].distance is None
    assert squash["with views"].distance == 0.5 - squash.readings[0].value
    assert keep["with views"].floor == squash["with views"].floor


def test_a_data_set_tells_whether_its_images_and_their_sizes_are_those_of_another(tmp_path: Path) -> None:
    voc = make_voc(tmp_path)

    def report(size: int, fit: str) -> dict[str, str]:
        data = VOC(root=voc, batch_size=2, size=size, fit=fit)
        data.setup()
        return data.describe()["roles"]["report"]

    small, large, keep = report(8, "squash"), report(16, "squash"), report(8, "keep")
    crop, windows = report(8, "crop"), report(16, "crop")
    assert len({r["content"] for r in (small, large, crop, windows, keep)}) == 1
    for file in voc.rglob("*"):
        os.utime(file, (1, 1))
    assert report(8, "squash")["content"] == small["content"]
    shutil.move(voc, tmp_path / "elsewhere")
    voc = tmp_path / "elsewhere"
    assert report(8, "squash")["content"] == small["content"]
    mask = voc / "SegmentationClass" / "2007_000007.png"  # of the list val
    Image.fromarray(np.array(Image.open(mask)) * 0).save(mask)
    assert report(8, "squash")["content"] != small["content"]
    assert crop["shapes"] == windows["shapes"]
    assert len({r["shapes"] for r in (small, large, crop, keep)}) == 4
    scenes = [Scenes(train_images=4, val_images=2, size=size, batch_size=2) for size in (16, 32)]
    for data in scenes:
        data.setup()
    assert len({data.describe()["roles"]["report"]["content"] for data in scenes}) == 2  # other images are drawn

"""The report of a study: what its files say, that they are safe to open, and that none is lost half-way."""

import base64
import csv
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from segstudy.drawing import ERRORS, as_array
from segstudy.errors import ConfigError, DataError
from segstudy.formatting import format_number, format_signed
from segstudy.measures.error_categories import CATEGORIES
from segstudy.runs.image_arrays import write_image_arrays
from segstudy.study.analysis import titles
from segstudy.study.analysis.findings import ClaimResult, Difference, Findings, Group, Variant
from segstudy.study.analysis.verdicts import result_sentence
from segstudy.study.report import first_screen, html, pictures, plots, write
from segstudy.study.report.csv import RUN_COLUMNS
from segstudy.study.report.methods import REFERENCES, cited, methods
from segstudy.study.report.pictures import CATEGORY_NAMES, Example, GroupPictures
from segstudy.study.report.text import OUTCOME_WORDS, escape_latex, escape_markdown, format_verdict, own_words, shorten
from segstudy.study.report.write import write_report
from segstudy.study.results import from_masks
from segstudy.study.statistics.interval import Estimate

NAN = math.nan
CLASSES = ("background", "cat", "dog", "banana")
HOSTILE = "<script>alert(1)</script> _&%$\\|`{ x\x01"
VOID_ELEMENTS = {"meta", "link", "img", "br"}


def record(seed: int) -> dict[str, Any]:
    roles = {
        "fit": {"split": "train", "images": 1464, "fingerprint": "aa-11"},
        "report": {"split": "val", "images": 445, "fingerprint": "bb-22"},
    }
    return {
        "status": "done", "changes": ["model=v1", f"seed={seed}"], "parameters": 2_686_613, "seconds": 61.0 + seed,
        "images_per_second": 12.5, "checkpoint": "last", "versions": {"torch": "2.15.0"}, "machine": {"cpu": "EPYC"},
        "metrics": {"network": {"miou": 0.5, "pixel_accuracy": NAN}},
        "data": {"name": "VOC2012", "size": [256, 256], "roles": roles},
    }  # fmt: skip


def variant(name: str, miou: float, seeds: int = 3, classes: int = 4) -> Variant:
    """A variant with every curve; the last class has no truth."""
    offsets = [(o, 0.1 + 0.02 * o, 0.05 - 0.01 * o, 0.03, miou) for o in (-2.3, 0.0, 2.3)]
    rows = [{"epoch": e, "val/miou": miou * e / 4} for e in (2, 4)]
    return Variant(
        name, f"what {name} changes", [record(s) for s in range(seeds)], list(range(seeds)),
        Estimate(miou, miou - 0.03, miou + 0.03, seeds), Estimate(miou, NAN, NAN, seeds), Estimate(NAN, NAN, NAN),
        np.array([0.8, *[miou] * (classes - 2), NAN]),
        {"boundary_iou": Estimate(0.4, 0.38, 0.42, seeds), "mislabelled": Estimate(NAN, NAN, NAN, seeds)},
        {"missed": 0.1, "mixed": 0.2, "wrong label": 0.1, "partial": 0.1, "right": 0.5},
                offsets, [("cat", "dog", 0.2), ("dog", "cat", NAN)], {"all": [(0.5, 0.4, 0.5), (0.9, 0.8, 0.5)]},
        [rows] * seeds, [Path(f"runs/{name}_{s}") for s in range(seeds)], [("conv1", "dead")],
    )  # fmt: skip


def difference(a: str, b: str, delta: float = 0.016, verdict: Any = "better") -> Difference:
    words = f"{b} is {verdict} than {a}."
    return Difference(a, b, delta, delta - 0.008, delta + 0.008, delta - 0.011, delta + 0.011, 0.01, verdict, 0.02, words)  # noqa: E501  # fmt: skip


def bare(name: str, miou: float, **changed: Any) -> Variant:
    """One training without any curve."""
    made = replace(
        variant(name, miou, 1), outcomes={}, offsets=(), history=(), confused=(), reliability={}, inspected=None,
        metrics={},
    )  # fmt: skip
    return replace(made, **changed)


def group(variants: list[Variant], differences: list[Difference], **changed: Any) -> Group:
    supported = np.array([True, True, False, False])
    made = Group(
        "VOC-animals", CLASSES, [(0, 0, 0), (64, 0, 0), (64, 0, 128), (128, 192, 0)], 0, 445, 445,
        np.array([440, 119, 12, 0]), supported, variants, differences, margin=0.005,
    )  # fmt: skip
    return replace(made, **changed)


def three() -> Findings:
    """Three variants of three seeds, with all that a report can show."""
    variants = [variant("V1", 0.55), variant("V2", 0.566), variant("V3", 0.57)]
    differences = [difference("V1", "V2"), difference("V2", "V3", 0.004, "undecided")]
    claims = [ClaimResult("V2 is better", "supported", "by .016"), ClaimResult("V3 too", "not measured", "no curve")]
    whole = group(
        variants,
        differences,
        claims=claims,
        most_influential=[(3, "2007_000032", 0.2)],
        warnings=["Few images."],
        sentence="V2 is better than V1 by 0.016 mIoU.",
    )
    return Findings("journey", whole.sentence, [whole], [("v4", "TrainingError: the loss is nan <b>")])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    flat = np.zeros((40, 60, 3), np.uint8)
    write_report(three(), folder, {"VOC-animals": drawn({"the errors": noise, "the worst": flat})})
    return folder


def drawn(sheets: dict[str, np.ndarray]) -> GroupPictures:
    """Two images through V1 and V2, one example, and large pictures."""
    small = [np.full((200, 300, 3), shade, np.uint8) for shade in (10, 20)]
    rows = dict.fromkeys(("image", "truth", "V1", "V2"), small)
    example = Example(np.zeros((112, 112, 3), np.uint8), "cat, predicted as dog, in a")
    return GroupPictures(rows, ["a", "b"], {"cat": (64, 0, 0)}, {"V1": {"wrong label": example}}, sheets)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is slow, and not what the test is about."""
    monkeypatch.setattr(plots, "draw_all", lambda group: {})


class Page(HTMLParser):
    """Checks that every element is closed in order; collects what a page would load, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.elements: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        found = dict(attrs)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_all_files_are_there(written: Path) -> None:
    names = {p.name for p in written.iterdir()}
    assert names == {
        "report.html",
        "report.md",
        "first_screen.png",
        "runs.csv",
        "per_class.csv",
        "table.tex",
        "figures",
    }
    drawn = {"forest_miou", "outcomes", "operating_spilled", "operating_hallucinated", "learning"}
    assert {p.name for p in (written / "figures").iterdir()} == {
        f"1_{name}.{kind}" for name in drawn | {"reliability"} for kind in ("svg", "pdf")
    }
    for path in (written / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert (written / "report.html").stat().st_size < 1_000_000


def test_the_page_is_whole_and_loads_nothing(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert "script" not in page.elements
    assert "@import" not in text
    assert "url(" not in text
    anchors = [link[1:] for link in page.loaded if link.startswith("#")]
    assert set(anchors) <= set(page.ids)
    assert all(link.startswith(("data:", "#")) for link in page.loaded)
    assert sum(link.startswith("data:image/") for link in page.loaded) == 6 + 2 + 2 * 4 + 1  # classes are a table
    assert len(re.findall(r'<img [^>]*alt="[^"]', text)) == page.elements.count("img")


def test_what_is_not_defined_is_never_nan(written: Path) -> None:
    assert re.search(r"\bnan\b", page_of(written).text.replace("the loss is nan", ""), re.I) is None
    for name in ("report.md", "runs.csv", "per_class.csv", "table.tex"):
        text = (written / name).read_text().replace("the loss is nan", "")
        assert re.search(r"\bnan\b", text, re.I) is None, name
    assert "n/a" in page_of(written).text
    rows = list(csv.DictReader((written / "per_class.csv").open()))
    assert [r["iou"] for r in rows if r["class"] == "banana"] == ["n/a"] * 3


def test_the_page_says_what_was_found(written: Path) -> None:
    text = " ".join(page_of(written).text.split())
    order = [
        "V2 is better than V1 by 0.016 mIoU", "truth", "How often each variant is right", "wrong label", "parameters",
        "Few images.", "Claims: 1 supported, 0 refuted, 0 undecided, 1 not measured", "Methods",
    ]  # fmt: skip
    assert sorted(order, key=text.index) == order
    for said in (
        "better than V1 +0.016 (0.005 to 0.027)", "undecided vs V2 +0.004 (−0.007 to 0.015)",
        "0.566 (0.536 to 0.596)", "2.69 M", "1:02", "supported", "Few images.", "v4", "the loss is nan <b>",
        "445 images of val, bb-22",
        "0, 1, 2 of each variant", "segstudy train model=v1 seed=2", "torch", "cat → dog",
        "conv1", "dog (few images)",
    ):  # fmt: skip
        assert said in text, said


def test_runs_and_those_left_out_are_rows(written: Path) -> None:
    rows = list(csv.DictReader((written / "runs.csv").open()))
    assert [r["variant"] for r in rows] == ["V1"] * 3 + ["V2"] * 3 + ["V3"] * 3 + ["v4"]
    assert rows[1]["seed"] == "1"
    assert rows[1]["folder"] == "runs/V1_1"
    assert rows[0]["gflop"] == ""
    assert rows[0]["pixel_accuracy"] == "n/a"
    assert rows[-1]["why"] == "TrainingError: the loss is nan <b>"


def test_names_of_users_are_text_everywhere(tmp_path: Path) -> None:
    bad = [variant(HOSTILE, 0.5, 1), variant("V2", 0.51, 1)]
    whole = group(
        bad,
        [difference(HOSTILE, "V2", 0.01, "ahead")],
        title=HOSTILE,
        sentence=HOSTILE,
        classes=[HOSTILE, "b", "c", "d"],
    )
    findings = Findings(HOSTILE, HOSTILE, [whole], [(HOSTILE, HOSTILE)])
    held = drawn({HOSTILE: np.zeros((4, 4, 3), np.uint8)})
    held = replace(held, rows={**held.rows, HOSTILE: held.rows["V2"]}, names=[HOSTILE, "b"])
    write_report(findings, tmp_path, {HOSTILE: held})
    page = page_of(tmp_path)
    assert page.open == []
    assert "script" not in page.elements
    assert HOSTILE in page.text
    tables = (tmp_path / "table.tex").read_text()
    row = next(line for line in tables.splitlines() if line.strip().startswith(r"\textless{}script"))
    assert len(re.findall(r"(?<!\\)&", row)) == 5
    assert r"\_\&\%\$\textbackslash{}\textbar{}" in row
    assert len(re.findall(r"(?<!\\)\{", tables)) == len(re.findall(r"(?<!\\)\}", tables))
    assert "<script" not in (tmp_path / "report.md").read_text()
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)
    assert all(len(r) == len(RUN_COLUMNS) for r in csv.reader((tmp_path / "runs.csv").open()))


def test_one_training_is_grey_and_hatched(tmp_path: Path) -> None:
    alone = group([bare("A", 0.5), bare("B", 0.516)], [difference("A", "B", 0.016, "ahead")])
    write_report(Findings("one", "One seed.", [alone]), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert '<span class="verdict ahead">ahead of A</span>' in text
    assert 'class="verdict better"' not in text
    assert "<pattern" in (tmp_path / "figures" / "1_forest_miou.svg").read_text()
    assert "two trained networks, not the variants" in text  # in the caption
    # With three seeds nothing is hatched.
    drawn = plots.forest_plot(three().groups[0])
    assert drawn is not None
    assert not any(patch.get_hatch() for patch in drawn.axes[0].patches)


def test_a_bar_of_the_forest_plot_is_the_wide_interval() -> None:
    drawn = plots.forest_plot(three().groups[0])
    assert drawn is not None
    bars = [p for p in drawn.axes[0].patches if p.get_height() == 0.26]  # type: ignore[attr-defined]
    ends = [(p.get_x(), p.get_x() + p.get_width()) for p in bars]  # type: ignore[attr-defined]
    assert ends == [pytest.approx((0.005, 0.027)), pytest.approx((-0.007, 0.015))]


def test_without_background_and_curves_nothing_is_invented(tmp_path: Path) -> None:
    iou = np.array([0.6, NAN])
    variants = [bare(n, 0.5, class_iou=iou, records=[{}], seeds=[0]) for n in ("A", "B")]
    two = group(
        variants, [difference("A", "B", NAN, "undecided")], classes=("wall", "floor"), background=None,
        class_images=np.array([50, 0]), supported=np.array([True, False]), margin=NAN,
    )  # fmt: skip
    write_report(Findings("two", "Nothing is known.", [two]), tmp_path)
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {"1_forest_miou"}
    text = page_of(tmp_path).text
    assert "Operating curves" not in text
    assert "nan" not in text.lower()
    assert "Model inspector" not in text


def test_a_study_with_nothing_done_still_says_why(tmp_path: Path) -> None:
    empty = Findings("empty", "No run is done.", [], [("v1", "out of memory")])
    write_report(empty, tmp_path)
    text = page_of(tmp_path).text
    assert "No run is done." in text
    assert "out of memory" in text
    assert page_of(tmp_path).open == []
    write_report(Findings("none", "No runs.", []), tmp_path)
    assert "No runs." in page_of(tmp_path).text
    assert (tmp_path / "per_class.csv").read_text() == "group,variant,class,images,supported,iou\n"


def test_error_pictures_use_the_words_of_the_metrics() -> None:
    assert list(CATEGORY_NAMES) == list(CATEGORIES[2:])
    words = {word for name in CATEGORY_NAMES.values() for word in name.split(", ")}
    assert words == {"missed", "spilled", "mislabelled", "hallucinated"}
    assert set(ERRORS) - {"correct"} <= words


def test_a_full_disk_leaves_the_earlier_report(
    tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(Findings("first", "The first.", []), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "page", full)
    with pytest.raises(DataError, match="No space left"):
        write_report(three(), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"figures"}


def test_figures_of_an_earlier_report_go_and_what_is_the_users_stays(tmp_path: Path, no_figures: None) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("2_forest_miou.svg", "1_classes.pdf", "mine.svg", "1_mine.svg"):
        (tmp_path / "figures" / name).write_text("")
    write_report(three(), tmp_path)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"mine.svg", "1_mine.svg"}


def test_a_report_leads_out_of_no_study(tmp_path: Path, no_figures: None) -> None:
    study, outside = tmp_path / "study", tmp_path / "outside"
    study.mkdir()
    outside.mkdir()
    (outside / "1_forest_miou.svg").write_text("mine")
    for name in ("report.html", "report.md", "runs.csv", "per_class.csv", "table.tex"):
        (outside / name).write_text("mine")
        (study / name).symlink_to(outside / name)
    (study / "figures").symlink_to(outside)
    with pytest.raises(ConfigError, match="figures is a link"):
        write_report(three(), study)
    assert all(p.is_symlink() for p in study.iterdir())
    (study / "figures").unlink()
    write_report(three(), study)
    assert "V1" in (study / "report.html").read_text()
    assert {p.read_text() for p in outside.iterdir()} == {"mine"}
    assert len(list(outside.iterdir())) == 6


def test_the_first_sentence_says_what_was_decided() -> None:
    def said(d: Difference, **changed: Any) -> str:
        return result_sentence(group([variant("V1", 0.55), variant("V2", 0.566)], [d], **changed))

    better = replace(difference("V1", "V2"), seeds=(3, 3))
    assert said(better) == "V2 is better than V1 by 0.016 mIoU (0.005 to 0.027; three seeds each)."
    worse = replace(difference("V1", "V2", -0.016, "worse"), seeds=(3, 2))
    assert said(worse) == "V2 is worse than V1 by 0.016 mIoU (0.005 to 0.027; three and two seeds)."
    behind = said(difference("V1", "V2", -0.016, "behind"))
    assert behind.startswith("With one training each, V2 is behind V1 by 0.016 mIoU (0.005 to 0.027); more seeds")
    assert "V2 and V1 are equal in mIoU within ±0.005" in said(difference("V1", "V2", 0.001, "equal"))
    open_ = said(replace(difference("V1", "V2", 0.004, "undecided"), needed="4 times the images would halve it"))
    assert open_.startswith("Nothing is decided yet: the largest difference, V2 − V1, is +0.004 mIoU (−0.007 to 0.015;")
    assert open_.endswith("; 4 times the images would halve it.")
    assert "not defined (n/a); V2 has the highest mIoU" in said(difference("V1", "V2", NAN, "undecided"))
    nothing = group([variant("V1", NAN)] * 2, [difference("V1", "V2", NAN, "undecided")])
    assert result_sentence(nothing) == "The planned differences are not defined (n/a)."


def test_the_reason_is_the_significant_error_that_changed_most() -> None:
    def shares(**values: float) -> dict[str, Estimate]:
        return {name: Estimate(value, NAN, NAN, 3) for name, value in values.items()}

    a = replace(variant("V1", 0.55), metrics=shares(missed=0.3, spilled=0.1, objects_right=0.5))
    b = replace(variant("V2", 0.566), metrics=shares(missed=0.1, spilled=0.25, objects_right=0.9))
    pair, d = ("V1", "V2"), difference("V1", "V2")
    said = result_sentence(group([a, b], [d], significant={pair: {"missed"}}))
    assert said.endswith("): it misses less of the objects' area (10\u00a0% instead of 30\u00a0%).")
    said = result_sentence(group([a, b], [d], significant={pair: {"missed", "spilled"}}))
    assert said.endswith(", but it spills more onto the background (25\u00a0% instead of 10\u00a0%).")
    said = result_sentence(group([a, b], [d], significant={pair: {"missed", "objects_right"}}))
    assert said.endswith("): it gives more objects the right label (90\u00a0% instead of 50\u00a0%).")
    assert result_sentence(group([a, b], [d], significant={pair: {"spilled"}})).endswith("one seed each, images only).")


def test_words_that_all_variants_share_are_left_out_of_pictures() -> None:
    assert own_words(["unet fit=crop", "unet fit=squash"]) == {
        "unet fit=crop": "fit=crop",
        "unet fit=squash": "fit=squash",
    }
    assert own_words(["v1", "v1 lr=1"]) == {"v1": "v1", "v1 lr=1": "v1 lr=1"}
    assert own_words(["v1 lr=1", "v2 lr=1"]) == {"v1 lr=1": "v1 lr=1", "v2 lr=1": "v2 lr=1"}
    assert own_words(["unet fit=crop"]) == {"unet fit=crop": "unet fit=crop"}


def test_a_title_says_what_a_variant_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    v1 = {"encoder": "Preact encoder", "decoder": "Preact decoder", "loss": "cross-entropy loss"}
    v2 = v1 | {"loss": "Dice + Focal loss"}
    v3 = v2 | {"bridge": "ASPP"}
    parts = {"v1": v1, "v2": v2, "v3": v3, "v4": v3 | {"encoder": "ImageNet ResNet-34"}}
    parts |= {"plain": v2 | {"encoder": "ImageNet ResNet-34"}, "same": v2, "masks": {}}
    monkeypatch.setattr(titles, "_parts", parts.__getitem__)
    assert titles.variant_titles({name: [name] for name in parts}) == {  # type: ignore[dict-item, list-item]
        "v1": "Preact U-Net, cross-entropy loss", "v2": "v1 with Dice + Focal loss", "v3": "v2 + ASPP",
        "v4": "v3 with ImageNet ResNet-34", "plain": "v4 without ASPP", "same": "", "masks": "",
    }  # fmt: skip
    loss = {"terms": {"a": {"_target_": "segstudy.losses.Dice"}, "b": {"_target_": "x.BinaryCrossEntropy"}}}
    assert titles._words(loss) == "Dice + binary-cross-entropy"
    assert titles._encoder("resnet34", {"name": "resnet34"}, "random (no weights)") == "ResNet-34 (random weights)"
    lite = "tu-tf_efficientnet_lite0"
    assert titles._encoder(lite, {"name": lite}, "imagenet, of a package") == "ImageNet EfficientNet-Lite0"


def test_pictures_show_each_outcome_and_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, labels = np.zeros((2, 2, 40, 60), np.uint8)
    truth[0, 10:30, 10:30], labels[0, 10:30, 10:30] = 1, 2  # a cat, predicted as a dog
    truth[1, 5:15, 5:15], labels[1, 20:35, 40:50] = 2, 1  # a missed dog, and a spilled cat
    pairs = [(str(i), truth[i], labels[i]) for i in range(2)]
    test = replace(from_masks("V1", pairs, CLASSES, 0), folder=tmp_path)
    (tmp_path / "test").mkdir()
    np.savez(tmp_path / "test" / "labels.npz", truth=truth, labels=labels)
    monkeypatch.setattr(pictures, "_images", lambda test: None)
    whole = group([variant("V1", 0.5, 1)], [])
    shown = pictures.pictures(whole, {"V1": [test]})
    assert list(shown.rows) == ["image", "truth", "V1"]
    assert shown.note == f"From the worst predicted image to the best. {pictures.GONE}"
    assert {outcome: e.words for outcome, e in shown.examples["V1"].items()} == {
        "wrong label": "cat, predicted as dog, in 0", "missed": "dog, predicted as background, in 1",
        "spilled": "background, predicted as cat, in 1",
    }  # fmt: skip
    assert all(e.picture.shape == (112, 112, 3) for e in shown.examples["V1"].values())
    np.savez(tmp_path / "test" / "samples.npz", names=["1"], image=np.full((1, 40, 60, 3), 7, np.uint8))
    shown = pictures.pictures(whole, {"V1": [test]})
    assert (list(shown.names), shown.note) == (["1"], pictures.STORED)
    assert (shown.rows["image"][0] == 7).all()
    (tmp_path / "test" / "labels.npz").write_bytes(b"cut")
    shown = pictures.pictures(whole, {"V1": [test]})
    assert not shown.rows
    assert "damaged" in shown.note


def test_the_same_findings_give_the_same_page(tmp_path: Path, written: Path) -> None:
    one = group([variant("V1", 0.5)], [])
    for name in ("a", "b"):
        write_report(Findings("same", "The same.", [one]), tmp_path / name)
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()
    for file in ("figures/1_outcomes.pdf", "first_screen.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_pictures_beyond_the_budget_are_counted(
    tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "PICTURE_BYTES", 30_000)
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    write_report(three(), tmp_path, {"VOC-animals": drawn(dict.fromkeys("abc", noise))})
    page = page_of(tmp_path)
    shown = sum(link.startswith("data:image/jpeg") for link in page.loaded)
    assert 0 < shown < 3
    assert f"{3 - shown} pictures were left out" in page.text


def test_colours_of_label_maps_are_kept() -> None:
    """A picture of few colours is not blurred by JPEG."""
    labels = np.array([[[235, 235, 235], [66, 133, 244]], [[255, 160, 0], [200, 30, 110]]], np.uint8)
    shown = html._picture("errors", labels)
    assert shown.uri.startswith("data:image/png")
    again = Image.open(io.BytesIO(base64.b64decode(shown.uri.partition(",")[2]))).convert("RGB")
    assert np.array_equal(np.asarray(again), labels)


def test_figures_in_words() -> None:
    assert [format_number(v) for v in (0.016, -0.016, 1.0, 0.0, -0.0001, NAN, None)] == [
        "0.016", "−0.016", "1.000", "0.000", "0.000", "n/a", "–",
    ]  # fmt: skip
    assert [format_signed(v) for v in (0.5, -0.5, 0.0)] == ["+0.500", "−0.500", "0.000"]
    assert shorten("two\nlines\x00", 20) == "two lines"
    assert shorten("a long name of a variant", 11) == "a lon…riant"
    assert escape_latex("50 % of x_1 & {y}\nΔ") == r"50 \% of x\_1 \& \{y\} $\Delta$"
    assert escape_markdown("a|b *c* <d>") == r"a\|b \*c\* &lt;d>"
    equal = replace(difference("V1", "V2", 0.001, "equal"), wide_low=-0.002, wide_high=0.004)
    assert format_verdict(equal) == "equal +0.001 (−0.002\u00a0to\u00a00.004)"
    assert format_verdict(replace(equal, delta=NAN)) == "n/a"


def test_methods_cite_what_was_measured_and_no_more() -> None:
    told = methods(three())
    works = cited(told)
    assert any("Boundary IoU" in work for work in works)
    assert any("Dunn" in work for work in works)
    assert not any("BMVC" in work for work in works)  # no boundary F in these findings
    assert "3 variants were trained on 1,464 images of VOC2012 at 256×256 pixels, each 3 times" in told[0]
    assert ":" not in told[0]
    assert "there was no selection" in told[0]
    assert methods(Findings("none", "", [])) == []
    assert list(REFERENCES) == sorted(REFERENCES)


def test_learning_curves_are_averaged_where_all_seeds_were_validated() -> None:
    lines = [np.array([[2, 0.2], [4, 0.4], [6, 0.6]]), np.array([[2, 0.4], [6, 0.8]])]
    assert plots._mean_curve(lines).tolist() == [[2, pytest.approx(0.3)], [6, pytest.approx(0.7)]]


def test_many_variants_share_a_grey() -> None:
    many = group([variant(f"V{i}", 0.3 + 0.01 * i) for i in range(12)], [])
    colours = plots.colors_of(many)
    assert [name for name, colour in colours.items() if colour == plots.OTHER] == [f"V{i}" for i in range(1, 6)]
    assert colours["V0"] == plots.VARIANT_COLORS[0]


def test_the_templates_are_part_of_the_package() -> None:
    assert files("segstudy.study.report").joinpath("templates/report.html").is_file()


def test_a_browser_has_no_complaint(written: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium on PATH")
    shot = tmp_path / "page.png"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=390,2000", f"--screenshot={shot}",
        (written / "report.html").as_uri(),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium did not answer within two minutes")
    if not shot.is_file():
        pytest.skip(f"Chromium cannot run here: {done.stderr[-300:]}")
    assert "CONSOLE" not in done.stderr
    picture = np.asarray(Image.open(shot).convert("RGB"))
    # The orange of "mixed" is drawn by the page and by the figure of outcomes.
    assert (np.abs(picture.astype(int) - (0xE6, 0x9F, 0x00)).sum(2) < 12).sum() > 200


@pytest.mark.parametrize(
    ("count", "height", "width", "blocks"),
    [(6, 32, 112, [3, 3]), (4, 32, 112, [3, 1]), (2, 32, 112, [2]), (6, 64, 64, [6]), (6, 32, 64, [6]), (0, 1, 1, [])],
)
def test_wide_images_stand_in_blocks_of_three(count: int, height: int, width: int, blocks: list[int]) -> None:
    images = [np.zeros((height, width, 3), np.uint8)] * count
    held = GroupPictures(rows={"image": images, "truth": images})
    assert [len(images[block]) for block in held.blocks] == blocks


def test_nothing_overlaps_on_a_first_screen_with_long_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"v{i} encoder=efficientnet_lite2 optim.lr=0.0{i}" for i in range(3)]
    spilled = {"spilled": Estimate(0.2, 0.1, 0.3, 3)}
    variants = [replace(variant(name, 0.5), title="a longer title " * 9, metrics=spilled) for name in names]
    whole = group(variants, [difference(names[0], names[1], -0.1, "undecided")], sentence="It is. " * 40)
    images = dict.fromkeys(["image", "truth", *names], [np.zeros((32, 112, 3), np.uint8)] * 6)
    examples = {outcome: Example(np.zeros((9, 9, 3), np.uint8), "") for outcome in OUTCOME_WORDS}
    legend = {f"a class of a long name {i}": (9, 9, 9) for i in range(12)}
    held = GroupPictures(images, [str(i) for i in range(6)], legend, dict.fromkeys(names, examples))
    drawn = []
    monkeypatch.setattr(first_screen, "as_array", lambda figure: drawn.append(figure) or as_array(figure))
    first_screen.first_screen(whole, held, variants)
    (ax,) = drawn[0].axes
    boxes = [each.get_window_extent() for each in (*ax.texts, *ax.images)]
    assert len(boxes) > 60
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            assert width < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 3, (i, a, b)


def test_pictures_of_images_of_different_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored at half their size; a second variant was tested at another size, and one image has changed since."""
    shapes = [(20, 30), (64, 16), (24, 24)]
    masks = [np.zeros((2 * h, 2 * w), np.uint8) for h, w in shapes]
    for mask in masks:
        mask[:16, :12] = 1
    whole = [np.full((*mask.shape, 3), 40 * i, np.uint8) for i, mask in enumerate(masks)]
    truth = [mask[1::2, 1::2] for mask in masks]
    tests = {}
    for name, labels in (("V1", truth), ("V2", [np.ones((8, 8), np.uint8)] * 3)):
        file = tmp_path / name / "test" / "labels.npz"
        file.parent.mkdir(parents=True)
        with file.open("wb") as opened:
            write_image_arrays(opened, {"labels": labels, "truth": truth if name == "V1" else labels})
        pairs = [(str(i), t, t) for i, t in enumerate(truth)]
        tests[name] = [replace(from_masks(name, pairs, CLASSES, 0), folder=tmp_path / name)]
    data = SimpleNamespace(pair=lambda i: (whole[i], masks[i]))
    monkeypatch.setattr(pictures, "_images", lambda test: data)
    both = group([variant("V1", 0.5, 1), variant("V2", 0.5, 1)], [])
    shown = pictures.pictures(both, tests)
    assert "images are grey" not in shown.note
    assert {name: [a.shape[:2] for a in row] for name, row in shown.rows.items()} == dict.fromkeys(
        ("image", "truth", "V1", "V2"), shapes
    )
    assert [int(photo.mean()) for photo in shown.rows["image"]] == [0, 40, 80]
    np.testing.assert_array_equal(shown.rows["V1"][1], shown.rows["truth"][1])
    assert (shown.rows["V2"][1] == both.palette[1]).all()
    assert shown.cell == 1  # the median
    assert shown.blocks == [slice(0, 3)]
    masks[2][8, 8] = 2  # no middle pixel of a block
    assert "images are grey" not in pictures.pictures(both, tests).note
    masks[2][9, 9] = 2
    changed = pictures.pictures(both, tests)
    assert changed.note.endswith(pictures.GONE)
    assert [int(photo.mean()) for photo in changed.rows["image"]] == [0, 40, pictures.BLANK]
    assert len(first_screen.first_screen(both, shown, both.variants)) > 0

"""A run's model card: its figures are the test's, it says what is known of the data and no more, damage is told."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import save_record
from huggingface_hub import ModelCard
from PIL import Image
from test_evaluate import record_of, train, voc_run
from torch import nn
from typer.testing import CliRunner

from segstudy.cli.main import app
from segstudy.data.bands import Bands
from segstudy.data.fit import Fit
from segstudy.errors import ConfigError, DamagedFile
from segstudy.formatting import format_number
from segstudy.inference.card import model_card, write_card
from segstudy.inference.latency import BATCHES, CPU_PIXELS, measure_latency


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a small VOC, one on scenes with views, and the first one's card."""
    home = tmp_path_factory.mktemp("home")
    cache = voc_run(home)[-1]
    scenes = ["data.size=32", "data.train_images=9", "data.val_images=22", cache]
    train(home / "scenes", *scenes, "checkpoint=best", "callbacks.tta.enabled=true")
    change(home / "a", changes=["model=v1", "data=voc", "data.root=/home/me/my photos/voc", "seed=0"])
    return home


@pytest.fixture(scope="module")
def card(home: Path) -> str:
    return model_card(home / "a", latency=False)


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The first run, to be damaged."""
    return Path(shutil.copytree(home / "a", tmp_path / "a"))


def change(folder: Path, **entries: Any) -> None:
    save_record(folder, record_of(folder) | entries)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_figures_are_those_of_the_runs_test(home: Path, card: str) -> None:
    metrics = record_of(home / "a")["metrics"]
    rows = {row.split(" | ")[0]: row.split(" | ")[1:] for row in section(card, "Results").splitlines() if "| " in row}
    for name, key in {"mIoU": "miou", "pixel accuracy": "pixel_accuracy", "mean class": "mean_accuracy"}.items():
        told = next(cells for row, cells in rows.items() if row.startswith(f"| {name}"))
        for cell, size in zip(told, ("network", "original"), strict=True):
            # no interval where one image holds a class
            assert cell.split(" ")[0] == format_number(metrics[size][key])
    assert "this network" not in card.split("## Limits")[0]


def test_figures_of_a_run_with_crops_are_at_original_size(copy: Path) -> None:
    record = record_of(copy)
    change(copy, data=record["data"] | {"fit": "crop"})
    told = model_card(copy, latency=False)
    miou = record["metrics"]["original"]["miou"]
    assert f"mIoU: {format_number(miou)}" in told
    assert "val' (files in the layout of PASCAL VOC 2012), at original size." in told
    assert "|  | at each image's original size |" in section(told, "Results")
    assert "| class | IoU (95 %) | recall |" in section(told, "Classes")
    assert "* Trained in crops of 32×32, tested on whole images" in told
    assert ModelCard(told).data.eval_results[0].metric_value == round(miou, 4)


def test_every_class_with_truth_has_its_row(home: Path, card: str) -> None:
    rows = record_of(home / "a")["classes"]["original"]  # a small one may vanish at the network's size
    told = re.findall(r"^\| (\w+) \| \S+ \(few images\) \| (\S+) \|", section(card, "Classes"), re.MULTILINE)
    assert told == [(row["class"], format_number(row["iou"])) for row in rows if row["share"] > 0]
    assert "4 images: too few images for a 95 % interval" in section(card, "Limits")


def test_front_matter_is_what_hubs_read(home: Path, card: str) -> None:
    head = ModelCard(card).data
    assert (head.library_name, head.license, head.pipeline_tag) == ("segstudy", "unknown", "image-segmentation")
    assert {"semantic-segmentation", "segstudy"} <= set(head.tags)
    results = {result.metric_type: result for result in head.eval_results}
    assert results["mean_iou"].metric_value == round(record_of(home / "a")["metrics"]["network"]["miou"], 4)
    assert results["mean_iou"].dataset_name == "files in the layout of PASCAL VOC 2012, 4 images"
    assert ModelCard(model_card(home / "scenes", False, "mit")).data.license == "mit"


def test_stand_ins_are_not_called_the_published_data(card: str) -> None:
    data = section(card, "Data and licences")
    assert "Files in the layout of PASCAL VOC 2012" in data
    assert "| reported on | val | 4 | " in data
    assert "its list 'val' has 1,449 images, here there are 4" in data
    assert "If these are images of PASCAL VOC 2012: the photos are from Flickr" in data
    assert "random weights: no other data" in data


def test_paths_of_the_machine_are_shortened(home: Path, card: str) -> None:
    command = section(card, "Training").splitlines()[2]
    assert command.startswith("segstudy train model=v1 data=voc")
    assert "/home/me" not in card
    assert str(home) not in card


def test_how_to_use_it_runs(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    code = section(card, "How to use it").split("```python\n")[1].split("```")[0]
    photo = next((home / "photos").rglob("*.jpg"))
    known: dict[str, Any] = {}
    exec(code.replace("photo.jpg", str(photo)), known)
    assert known["mask"].shape == (40, 56)
    assert "segstudy predict" in section(card, "How to use it")


def test_views_selection_and_failures_are_told(home: Path) -> None:
    card = model_card(home / "scenes", latency=False)
    miou = format_number(record_of(home / "scenes")["metrics_tta"]["miou"])
    assert f"| mIoU, with views | {miou} | – |" in section(card, "Results")
    assert "is optimistic" in card or "results are optimistic" in section(card, "Limits")
    assert "missed (false-negative rate of the foreground)" in section(card, "How it fails")
    assert "scenes generated by segstudy" in card
    assert "nobody else has rights" in card


def test_the_card_and_its_picture_are_written_beside_each_other(home: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (home / "a").rglob("*")}
    file = write_card(home / "a", tmp_path / "hub" / "README.md", latency=False)
    assert {p: p.stat().st_mtime_ns for p in (home / "a").rglob("*")} == before
    (place,) = re.findall(r"!\[.*?\]\((.*?)\)", file.read_text())
    assert Image.open(file.parent / place).width > 500
    assert sorted(p.name for p in file.parent.iterdir()) == ["README.md", "card"]


def test_a_card_leads_out_of_no_run(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "examples.png").write_text("mine")
    for name in ("card.md", ".card.md.partial"):
        (copy / name).symlink_to(tmp_path / "mine" / "examples.png")
    (copy / "card").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="card is a link"):
        write_card(copy, latency=False)
    (copy / "card").unlink()
    write_card(copy, latency=False)
    assert (copy / "card.md").read_text().startswith("---")
    assert [p.read_text() for p in (tmp_path / "mine").iterdir()] == ["mine"]


def test_the_command_writes_into_the_run(copy: Path) -> None:
    done = CliRunner().invoke(
        app, ["card", str(copy), "--no-latency", "--license", "cc-by-4.0"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert str(copy / "card.md") in done.output
    text = (copy / "card.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "cc-by-4.0"
    assert "## Speed" not in text


def test_speed_is_measured_in_the_runs_precision(home: Path) -> None:
    speed = section(model_card(home / "scenes"), "Speed")
    row = next(line for line in speed.splitlines() if line.startswith("| CPU"))
    assert re.fullmatch(r"\| CPU \| (bf16-mixed|32-true) \| [\d.]+ ms \| [\d.]+ ms \| \d+ \| [\d.,]+ \|", row)


class Sleepy:
    """What `measure_latency` uses of a model: its network is as slow for one image as for many."""

    fit, bands, device, precision = Fit((256, 256)), Bands(), torch.device("cpu"), "32-true"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def autocast(self) -> Any:
        return torch.inference_mode()

    def network(self, image: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(image))
        nn.functional.interpolate(torch.zeros(1, 1, 8, 8), (64, 64))
        return torch.zeros(1, 2, 1, 1)


def test_the_largest_batch_wins_where_a_pass_costs_the_same() -> None:
    model = Sleepy()
    found = measure_latency(model, seconds=0.01)  # type: ignore[arg-type]
    assert 0 < found.p50 <= found.p95
    assert max(model.batches) * 256**2 <= CPU_PIXELS
    assert found.batch in (1, *BATCHES)
    assert found.images_per_second >= 0.5 / found.p50


# Runs that are not whole


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"status": "failed", "error": "DataError: no VOC"}, "failed .DataError: no VOC.: a card needs a finished run"),
        ({"status": "running"}, "not finished .status: running.*\n.*continues it"),
        ({"class_names": []}, r"record\.json is damaged: class_names"),
    ],
)
def test_an_unfinished_run_has_no_card(copy: Path, entries: dict[str, Any], says: str) -> None:
    change(copy, **entries)
    with pytest.raises(ConfigError, match=says):
        write_card(copy, latency=False)
    assert not (copy / "card.md").exists()


def test_no_run_no_card(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run's folder"):
        model_card(tmp_path)


def test_without_its_checkpoint_there_is_no_speed(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ConfigError, match=r"no checkpoint 'last'.*\n.*--no-latency"):
        model_card(copy)
    assert "## Results" in model_card(copy, latency=False)


def test_a_test_of_an_older_version_is_made_anew(copy: Path) -> None:
    (copy / "test" / "measures.npz").unlink()
    less = model_card(copy, latency=False)
    assert "segstudy evaluate RUN --retest" in less
    assert "## How it fails" not in less
    told = re.findall(r"^\| (\w+) \| (\S+) \| (\S+) \|", section(less, "Classes"), re.MULTILINE)[1:]
    rows = {size: {row["class"]: row for row in record_of(copy)["classes"][size]} for size in ("network", "original")}
    assert told
    for name, *values in told:
        assert values == [format_number(rows[size].get(name, {}).get("iou", math.nan)) for size in rows]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_damaged_counts_are_named(copy: Path, content: bytes) -> None:
    (copy / "test" / "counts.npz").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"counts\.npz is damaged"):
        write_card(copy, latency=False)


def test_without_counts_the_records_figures_stand(copy: Path) -> None:
    for name in ("counts", "samples"):
        (copy / "test" / f"{name}.npz").unlink()
    text = write_card(copy, latency=False).read_text()
    miou = format_number(record_of(copy)["metrics"]["network"]["miou"])
    assert f"| mIoU of the classes with truth | {miou} |" in text
    assert "no intervals" in text
    assert (copy / "card" / "examples.png").read_bytes() == (copy / "pictures" / "final.png").read_bytes()


def test_a_card_without_pictures_links_to_none(copy: Path) -> None:
    shutil.rmtree(copy / "pictures")
    (copy / "test" / "samples.npz").unlink()
    assert "![" not in write_card(copy, latency=False).read_text()
    assert not (copy / "card").exists()


def test_a_strangers_names_are_text_and_its_config_builds_nothing_else(copy: Path) -> None:
    names = record_of(copy)["class_names"]
    change(copy, class_names=["<script>alert(1)</script>", "a|b", *names[2:]], changes=["model=`x`\n# y", "a=[b](c)"])
    text = model_card(copy, latency=False)
    assert "<script" not in text
    assert "\n# y" not in text
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("segstudy.networks.network.Network", "os.system"))
    with pytest.raises(ConfigError, match=r"os\.system"):
        model_card(copy, latency=False)


# Terms


@pytest.mark.parametrize(
    ("layout", "name", "terms"),
    [
        ("Pet", "files in the layout of Oxford-IIIT Pet", "If these are images of Oxford-IIIT Pet: CC BY-SA 4.0"),
        ("ADE20K", "files in the layout of ADE20K SceneParsing", "non-commercial"),
        ("Folder", "images of a user's own", "The licence of the images is not known: add it."),
        ("MyPhotos", "data set MyPhotos", "The licence of the images is not known: add it."),
    ],
)
def test_what_is_said_of_the_data(layout: str, name: str, terms: str, copy: Path) -> None:
    change(copy, data=record_of(copy)["data"] | {"name": layout, "layout": layout})
    card = model_card(copy, latency=False)
    assert f"4 images of 'val' ({name})" in card
    assert terms in section(card, "Data and licences")


def test_what_is_said_of_the_weights(copy: Path) -> None:
    said = {
        "random": "random weights: no other data", "imagenet": "weights trained on ImageNet",
        "/x/r34_imagenet.pth": "by its name", "/x/mine.pth": "not known, add them",
        "start_from a": "another run", "random (no network)": "asked for but not available",
    }  # fmt: skip
    for origin, words in said.items():
        change(copy, encoder_weights=origin)
        data = section(model_card(copy, latency=False), "Data and licences")
        assert words in data
        assert "/x/" not in data
        assert len(re.findall("The (?:network|encoder) started", data)) == 1
    change(copy, encoder_weights="")
    assert "started from" not in section(model_card(copy, latency=False), "Data and licences")

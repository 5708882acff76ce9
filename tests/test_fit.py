"""Runs of each data.fit: what predicts, evaluates, exports and shows a run sees images as the run's test did."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_voc, photo, save_mask
from omegaconf import OmegaConf
from PIL import Image
from test_evaluate import command, evaluated, record_of, train
from typer.testing import CliRunner

import segstudy
from segstudy.cli.main import app
from segstudy.console import console
from segstudy.data.fit import Fit, parse_size
from segstudy.data.images import resize_image
from segstudy.errors import ConfigError, DataError
from segstudy.inference import demo, model
from segstudy.inference.card import model_card
from segstudy.inference.export import DYNAMIC_AXES, export, metadata
from segstudy.inference.latency import measure_latency
from segstudy.inference.loading import EvaluationSpec
from segstudy.inference.model import InputSettings
from segstudy.inference.predict import PredictionTask
from segstudy.inference.predictions import predict_all, settings
from segstudy.tiles import Tiles

SHAPES = ((40, 56), (56, 40), (64, 70), (30, 60), (40, 56), (31, 45), (64, 70), (56, 40), (40, 56), (50, 90))
RUNS = {
    "squash": ["data.fit=squash"],
    "crop": ["data.fit=crop"],
    "tiles": ["data.fit=crop", "data.max_side=60", "data.tiles=24"],  # reduced, and above 48² pixels in tiles
    "keep": ["data.fit=keep"],
    "short": ["data.fit=keep", "data.keep_side=short", "data.size=[40,48]", "data.tiles=22"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VOC with photos of different shapes, of which four are tested, and a run of each of RUNS."""
    home = tmp_path_factory.mktemp("home")
    voc = make_voc(home / "photos")
    for i, shape in enumerate(SHAPES):
        name = f"2007_{i:06d}"
        save_mask(photo(i, voc / "JPEGImages" / f"{name}.jpg", shape), voc / "SegmentationClass" / f"{name}.png")
    # one photo in a batch, as `predict` has it where shapes differ: sums in another order may change a label
    common = ["data=voc", f"data.root={home / 'photos'}", "data.size=32", f"data.cache_dir={home / 'cache'}",
              "trainer.precision=32-true", "data.batch_size=1"]  # fmt: skip
    for name, own in RUNS.items():
        train(home / name, *common, *own)
    return home


def photos_of(home: Path) -> list[Path]:
    return [home / "photos/VOCdevkit/VOC2012/JPEGImages" / f"2007_{i:06d}.jpg" for i in range(6, 10)]


def truth_of(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file.parent.with_name("SegmentationClass") / f"{file.stem}.png"))


def rows(labels: list[np.ndarray], files: list[Path]) -> list[list[int]]:
    """The rows (image, truth, prediction, pixels) of counts.npz, sorted."""
    found = []
    for i, (predicted, file) in enumerate(zip(labels, files, strict=True)):
        truth = truth_of(file)
        assert predicted.shape == truth.shape
        pairs, pixels = np.unique(np.stack([truth, predicted])[:, truth != 255], axis=1, return_counts=True)
        found += [[i, *pair, count] for pair, count in zip(pairs.T.tolist(), pixels.tolist(), strict=True)]
    return found


def counted(folder: Path) -> list[list[int]]:
    """The same of a run's test."""
    counts = np.load(folder / "test" / "counts.npz")
    assert counts["names"].tolist() == [p.stem for p in photos_of(folder.parent)]
    return sorted(counts["original"].tolist())


@pytest.mark.parametrize("name", RUNS)
def test_labels_are_exactly_those_of_the_runs_test(name: str, home: Path, tmp_path: Path) -> None:
    photos, network = photos_of(home), segstudy.load(home / name)
    found = network.predict(photos)
    assert rows(found, photos) == counted(home / name)
    assert predict_all(network, PredictionTask(batch=1), list(map(str, photos)), tmp_path)
    for file, labels in zip(photos, found, strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / f"{file.stem}.png"), labels)
        chances = network.probabilities(file)
        assert chances.shape == (len(network.classes), *labels.shape)
        assert (chances.argmax(0) == labels).mean() > 0.97  # where the size differs, logits are interpolated for labels


@pytest.mark.parametrize("name", RUNS)
def test_the_evaluation_is_the_runs_test(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 300)
    said = command(home / name, "--save-masks", tmp_path)
    assert "all metrics equal those of the run's own test" in said
    assert f"4 images of VOC 'val' at {Fit.of(record_of(home / name)['data']).seen};" in said
    masks = [np.array(Image.open(tmp_path / f"{p.stem}.png")) for p in photos_of(home)]
    assert rows(masks, photos_of(home)) == counted(home / name)
    if name in ("tiles", "short"):
        before = record_of(home / name)
        assert "all metrics equal" in command(home / name, "--retest")
        assert record_of(home / name)["metrics"] == before["metrics"]


def test_at_original_size_all_runs_are_evaluated_together(home: Path) -> None:
    names = ["squash", "crop", "keep"]
    runs = [home / name for name in names]
    with pytest.raises(ConfigError, match=r"(?s)crop: original size.*keep: 32×32, aspect kept.*--size original"):
        evaluated(runs)
    found = list(evaluated(runs, EvaluationSpec(size="original")).values())
    assert found[1]["metrics"] == record_of(home / "crop")["metrics"]
    for name, row in zip(names, found, strict=False):
        assert row["metrics"]["network"] == row["metrics"]["original"]
        labels = segstudy.load(home / name).predict(photos_of(home), "original")
        counts = np.array(rows(labels, photos_of(home)))
        right = counts[counts[:, 1] == counts[:, 2], 3].sum() / counts[:, 3].sum()
        assert row["metrics"]["original"]["pixel_accuracy"] == pytest.approx(right, rel=1e-12)
    assert not list((home / "cache").glob("*.partial"))


def test_a_size_is_fitted_into_where_the_aspect_is_kept(home: Path) -> None:
    photos = photos_of(home)
    for name in ("crop", "keep"):
        (row,) = evaluated([home / name], EvaluationSpec(size="24")).values()
        network = segstudy.load(home / name)
        assert network.input_of((50, 90), InputSettings("24")) == ((13, 24), None)
        counts = np.array(rows(network.predict(photos, "24"), photos))
        right = counts[counts[:, 1] == counts[:, 2], 3].sum() / counts[:, 3].sum()
        assert row["metrics"]["original"]["pixel_accuracy"] == pytest.approx(right, rel=1e-12)
    assert segstudy.load(home / "squash").input_of((50, 90), InputSettings("24")) == ((24, 24), None)


def test_other_data_are_seen_as_the_runs_own(home: Path) -> None:
    wanted = EvaluationSpec(data="voc", settings=[f"data.root={home / 'photos'}", f"data.cache_dir={home / 'cache'}"])
    (row,) = evaluated([home / "tiles"], wanted).values()
    assert row["metrics"] == record_of(home / "tiles")["metrics"]
    for setting in ("data.fit=crop", "data.size=64"):
        with pytest.raises(ConfigError, match="use --size"):
            evaluated([home / "keep"], EvaluationSpec(settings=[setting]))


def test_sizes() -> None:
    squash, crop, keep = Fit((32, 48)), Fit((32, 48), "crop", 60), Fit((32, 48), "keep", keep_side="short")
    seen = {
        "train": ((32, 48), (36, 60), (32, 53)), "original": ((60, 100),) * 3, "24": ((24, 24), (14, 24), (24, 40)),
        "20x50": ((20, 50), (20, 33), (30, 50)),
    }  # fmt: skip
    for size, shapes in seen.items():
        assert tuple(fit.at(size).shape(60, 100) for fit in (squash, crop, keep)) == shapes
    assert [fit.at("train", tiled=True).shape(60, 100) for fit in (squash, crop, keep)] == [
        (60, 100), (36, 60), (60, 100),
    ]  # fmt: skip
    for fit in (squash, crop, keep):
        assert Fit.of(fit.values()) == Fit.of(json.loads(json.dumps(fit.values()))) == fit
        assert fit.at("original").seen == "original size"
    assert Fit.of(OmegaConf.create({"size": 32})) == Fit((32, 32))  # as in the configs of older runs
    assert parse_size("24") == (24, 24)
    for text in ("0", "24x", "x24", "24x0", "big", "-3"):
        with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
            parse_size(text)


def test_a_run_without_the_setting_squashes(home: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for path in (home / "squash").iterdir():
        (tmp_path / "old" / path.name).symlink_to(path)
    for name in ("config.yaml", "record.json"):
        (tmp_path / "old" / name).unlink()
    older = {key: value for key, value in record_of(home / "squash").items() if key not in ("files", "checksum")}
    (tmp_path / "old" / "record.json").write_text(json.dumps(older))
    cfg: Any = OmegaConf.load(home / "squash" / "config.yaml")
    for key in ("fit", "max_side", "keep_side", "tiles", "cache", "max_class_share"):
        del cfg.data[key]
    OmegaConf.save(cfg, tmp_path / "old" / "config.yaml")
    old, photos = segstudy.load(tmp_path / "old"), photos_of(home)
    assert rows(old.predict(photos), photos) == counted(home / "squash")
    assert next(iter(evaluated([tmp_path / "old"]).values()))["metrics"] == record_of(home / "squash")["metrics"]


def test_a_folder_of_predictions_is_continued_with_the_same_input(home: Path) -> None:
    size = {name: settings(segstudy.load(home / name), PredictionTask())["size"] for name in RUNS}
    assert size == {"squash": "train", "crop": "original", "tiles": "train", "keep": "train", "short": "train"}
    for name in RUNS:
        task = PredictionTask(tiles=Tiles(16))
        assert settings(segstudy.load(home / name), task)["size"] == ("train" if name == "tiles" else "original")


def test_scores_that_take_too_much_memory_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of few pixels may be large where its short side fills a size."""
    monkeypatch.setattr(model, "LARGEST_SCORES", 10**6)
    thin = np.zeros((1, 3000, 3), np.uint8)
    with pytest.raises(DataError, match=r"(?s)3000×1 pixels, seen at 144000×48: .*--tiles"):
        segstudy.load(home / "short").predict(thin, "48x48")
    assert segstudy.load(home / "tiles").predict(thin).shape == (1, 3000)


# What is made of a run


@pytest.mark.parametrize("name", RUNS)
def test_exports_say_how_to_prepare_an_image(name: str, home: Path, tmp_path: Path) -> None:
    network, (file, *_) = segstudy.load(home / name, "cpu"), photos_of(home)
    done = export(network, "hub", tmp_path / "hub")
    np.testing.assert_array_equal(segstudy.load(done.path).predict(file), network.predict(file))
    prepared = json.loads((done.path / "config.json").read_text())["preprocessing"]
    assert Fit.of(prepared) == network.fit
    assert prepared["resize"] == network.fit.instruction
    photo = np.array(Image.open(file))
    image = resize_image(photo, Fit.of(prepared).shape(*photo.shape[:2]))
    if name in ("crop", "keep"):  # not in tiles
        np.testing.assert_array_equal(network.batch_scores(image[None])[0], network.scores(photo))
    assert metadata(network, "onnx", DYNAMIC_AXES[0])["preprocessing"] == prepared
    fixed = metadata(network, "onnx", DYNAMIC_AXES[2])  # a file that takes one size only
    assert fixed["input_shape"] == ["batch", 3, *network.fit.size]
    assert fixed["preprocessing"]["resize"] == Fit(network.fit.size).instruction


def test_how_an_image_is_prepared_in_words() -> None:
    assert Fit((32, 48)).instruction == "resized to 32×48 (height × width), bilinear, aspect ratio not kept"
    assert Fit((32, 48), "crop").instruction == "seen at its own size"
    assert "long side has more than 60 pixels" in Fit((32, 48), "crop", 60).instruction
    assert "until it fits into 32×48" in Fit((32, 48), "keep").instruction
    assert "until it covers 32×48" in Fit((32, 48), "keep", keep_side="short").instruction


@pytest.mark.parametrize("name", RUNS)
def test_the_card_and_the_other_commands(name: str, home: Path, tmp_path: Path) -> None:
    fit = Fit.of(record_of(home / name)["data"])
    assert f"An RGB photo of any size, {fit.instruction};".lower() in model_card(home / name, latency=False).lower()
    assert measure_latency(segstudy.load(home / name), 0.01).images_per_second > 0
    done = CliRunner().invoke(app, ["audit", str(home / name)], catch_exceptions=False)
    assert done.exit_code == 0


def test_the_demo_sees_photos_as_the_tests_did(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [segstudy.load(home / name) for name in RUNS]
    for file in photos_of(home):
        image = np.array(Image.open(file))
        for answer in demo.ask(models, image, "train"):
            assert (answer.labels == answer.model.predict(file)).mean() > 0.999
    inputs = [row[2] for row in demo.Demo(models, home).about()]
    assert inputs == ["32×32", "original size, crops of 32×32", "original size, long side at most 60, crops of 32×32",
                      "32×32, aspect kept", "40×48, aspect kept, short side"]  # fmt: skip
    monkeypatch.setattr(demo, "SEEN_PIXELS", 4000)
    with pytest.raises(DataError, match=r"would see this photo at 90×50, which is too large"):
        demo.ask(models[:2], np.zeros((50, 90, 3), np.uint8), "train")
    assert len(demo.ask(models[:1], np.zeros((50, 90, 3), np.uint8), "train")) == 1

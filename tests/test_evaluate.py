"""Finished runs tested again: the figures of their own test, other sizes and views, ensembles, saved masks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_voc, save_record
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from segstudy.build import build_data
from segstudy.callbacks.per_image_confusion import SIZES, dataset_metrics
from segstudy.cli.arguments import runs_and_settings
from segstudy.cli.main import app
from segstudy.config.compose import compose_config
from segstudy.config.run_folder import claim_folder
from segstudy.console import console
from segstudy.errors import ConfigError
from segstudy.inference.evaluate import Evaluation, evaluate, retest, trained_on
from segstudy.inference.loading import (
    EvaluationSpec,
    LoadedRun,
    evaluation_config,
    evaluation_data,
    load_run,
    load_runs,
    same_classes,
)
from segstudy.inference.pictures import save_mask
from segstudy.inference.tta import TestTimeAugmentation
from segstudy.labels import labels_at, voc_palette
from segstudy.networks.normalize import Normalize
from segstudy.runs.locking import run_lock
from segstudy.runs.record import read_entries
from segstudy.train_and_test import run

TINY = [
    "data.batch_size=3", "trainer.max_epochs=1", "trainer=cpu", "optim.lr=0.01", "callbacks.pictures.count=1",
    "encoder.widths=[8,8,8,8,8]", "decoder.widths=[8,8,8,8]",
]  # fmt: skip


def train(folder: Path, *overrides: str) -> Path:
    """One small run in this process; its folder."""
    cfg = compose_config([*TINY, *overrides])
    run(cfg, folder, claim_folder(folder, cfg))
    return folder


def voc_run(home: Path) -> list[str]:
    """A small VOC in home/photos and a run on it in home/a; the settings of another one, the cache last."""
    make_voc(home / "photos")
    # Not in the environment: each test has a cache of its own there, and a run opens the one that it names.
    cache = f"data.cache_dir={home / 'cache'}"
    voc = ["data=voc", f"data.root={home / 'photos'}", "data.size=32", "trainer.precision=32-true", cache]
    train(home / "a", *voc)
    return voc


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small VOC, two runs on it that differ in their seed, and one on scenes, tested with views."""
    home = tmp_path_factory.mktemp("home")
    voc = voc_run(home)
    train(home / "b", *voc, "seed=1")
    scenes = ["data.size=32", "data.train_images=9", "data.val_images=4", "callbacks.tta.enabled=true", voc[-1]]
    train(home / "scenes", *scenes, "checkpoint=best", "callbacks.ema.enabled=true")
    return home


def evaluated(
    folders: list[Path],
    wanted: EvaluationSpec | None = None,
    views: TestTimeAugmentation | None = None,
    masks: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """The rows that the command prints: figures by name."""
    members = load_runs(folders)
    cfg = evaluation_config(members, wanted or EvaluationSpec())
    data = evaluation_data(cfg, members, wanted or EvaluationSpec())
    counts = evaluate(Evaluation(members, views, masks), cfg, data)
    return {name: dataset_metrics(c, data.classes) for name, c in counts.items()}


def command(*words: Any) -> str:
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0
    return " ".join(done.output.split())


def record_of(folder: Path) -> dict[str, Any]:
    return read_entries(folder)


@pytest.mark.parametrize("name", ["a", "scenes"])
def test_the_figures_are_those_of_the_runs_own_test(name: str, home: Path) -> None:
    record = record_of(home / name)
    views = TestTimeAugmentation(flip=True)
    rows = list(evaluated([home / name], views=views).values())
    assert rows[0]["metrics"] == record["metrics"]
    np.testing.assert_equal(rows[0]["classes"], record["classes"])
    if name == "scenes":
        assert rows[1]["metrics"]["network"] == record["metrics_tta"]


def test_every_figure_can_be_computed_from_the_saved_masks(home: Path, tmp_path: Path) -> None:
    for runs in (["a"], ["a", "b"]):
        folder = tmp_path / "-".join(runs)
        rows = evaluated([home / r for r in runs], views=TestTimeAugmentation(flip=True), masks=folder)
        expected = list(rows.values())[-1]["metrics"]["original"]
        truths, labels = [], []
        for file in sorted(folder.rglob("*.png")):
            picture = Image.open(file)
            assert picture.mode == "P"
            assert picture.getpalette()[: 21 * 3] == [v for rgb in voc_palette(21) for v in rgb]  # type: ignore[index]
            labels.append(np.asarray(picture))
            truths.append(np.asarray(Image.open(home / "photos/VOCdevkit/VOC2012/SegmentationClass" / file.name)))
            assert labels[-1].shape == truths[-1].shape == (40, 56)
        assert len(labels) == 4
        truth, label = np.stack(truths), np.stack(labels)
        truth, label = truth[truth != 255], label[truth != 255]
        iou = [((truth == c) & (label == c)).sum() / ((truth == c) | (label == c)).sum() for c in np.unique(truth)]
        assert expected["miou"] == pytest.approx(np.mean(iou), rel=1e-12)
        assert expected["pixel_accuracy"] == (truth == label).mean()


def test_an_ensemble_is_the_mean_probability(home: Path) -> None:
    rows = evaluated([home / "a", home / "b"])
    assert list(rows)[2] == "ensemble of 2"
    for row, name in zip(rows.values(), "ab", strict=False):
        assert row["metrics"] == record_of(home / name)["metrics"]
    networks = [load_run(home / name)[0] for name in "ab"]
    data = build_data(load_run(home / "a")[1])
    images = data.roles["report"].__getitems__(range(4))
    batch = data.on_after_batch_transfer(images, 0)
    with torch.no_grad():  # in the loader's batches of three: the order of sums is theirs
        mean = [sum(network(part).softmax(1) for network in networks) / 2 for part in batch["image"].split(3)]
    counts = {size: np.zeros((21, 21), np.int64) for size in SIZES}
    for i, scores in enumerate(torch.cat(mean)):
        for size, mask in (("network", batch["mask"][i]), ("original", data.original_mask("report", i))):
            labels, kept = labels_at(scores, mask.shape), mask != 255
            np.add.at(counts[size], (mask[kept].numpy(), labels[kept].numpy()), 1)
    assert rows["ensemble of 2"]["metrics"] == dataset_metrics(counts, data.classes)["metrics"]


class Colour(nn.Module):
    """Logits that are the normalised image."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.normalize = Normalize([mean] * 3, [std] * 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.normalize(image)


def test_each_member_gets_its_own_normalisation_and_views() -> None:
    image = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    networks = {"plain": Colour(0.0, 1.0), "shifted": Colour(0.5, 0.25)}
    members = [LoadedRun(name, Path(), network, {}, OmegaConf.create()) for name, network in networks.items()]
    rows = Evaluation(members).scores(image)
    torch.testing.assert_close(rows["plain"], image)
    torch.testing.assert_close(rows["shifted"], (image - 0.5) * 4)
    torch.testing.assert_close(rows["ensemble of 2"], (image.softmax(1) + (image * 4).softmax(1)) / 2)
    views = TestTimeAugmentation(True, (0.5, 1.0))
    rows = Evaluation(members, views).scores(image)
    seen = [views.mean_probability(networks["plain"], x) for x in (image, (image - 0.5) * 4)]
    torch.testing.assert_close(rows["shifted, with views"], seen[1])
    torch.testing.assert_close(rows["ensemble of 2, with views"], (seen[0] + seen[1]) / 2)
    assert list(rows)[-1] == "ensemble of 2, with views"


def test_other_sizes_splits_and_data(home: Path) -> None:
    (seen,) = evaluated([home / "a"], EvaluationSpec(size="original")).values()
    assert seen["metrics"]["network"] == seen["metrics"]["original"]  # what the network saw is the image as it is
    (row,) = evaluated([home / "a"], EvaluationSpec(size="40x56")).values()
    (fit,) = evaluated([home / "a"], EvaluationSpec(split="fit")).values()
    (train,) = evaluated([home / "a"], EvaluationSpec(split="train")).values()
    (listed,) = evaluated([home / "a"], EvaluationSpec(settings=["data.val=train"])).values()
    assert row["metrics"]["network"] == row["metrics"]["original"] != record_of(home / "a")["metrics"]["original"]
    assert fit["metrics"] == train["metrics"] == listed["metrics"]
    own = [f"data.root={home / 'photos'}"]
    (same,) = evaluated([home / "a"], EvaluationSpec(data="voc", settings=own)).values()
    assert same["metrics"] == record_of(home / "a")["metrics"]


def test_the_command_tells_what_was_evaluated(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 300)
    assert "all metrics equal those of the run's own test" in command(home / "a")
    said = command(home / "a", home / "b", "--split", "fit", "--tta", "flip", "--json", tmp_path / "x" / "all.json")
    assert "was trained or selected on 6 of the 6 images" in said
    assert "not the run's own test: split 'train' (the run's own test: 'val'), images 6" in said
    assert "ensemble of 2, against the best of its members: mIoU" in said
    assert "ensemble of 2, with views, against the best of its members: mIoU" in said
    written = json.loads((tmp_path / "x" / "all.json").read_text())
    assert len(written["results"]) == 6
    assert np.sum(written["results"]["ensemble of 2"]["confusion"]["network"]) > 0
    assert written["data"]["roles"]["report"]["split"] == "train"


def test_members_that_may_have_seen_the_images_are_told(home: Path) -> None:
    (member,) = load_runs([home / "a"])
    key = member.record["data"]["roles"]["fit"]["fingerprint"]
    report = evaluation_data(member.cfg, [member], EvaluationSpec())
    fit = evaluation_data(member.cfg, [member], EvaluationSpec(split="fit"))

    def told(data: Any, fingerprint: str) -> list[str]:
        roles = member.record["data"]["roles"] | {"fit": {"fingerprint": fingerprint}}
        record = member.record | {"data": member.record["data"] | {"roles": roles}}
        return [line.removeprefix(member.name).strip() for line in trained_on(data, [replace(member, record=record)])]

    assert told(report, key) == []
    assert told(fit, key) == ["was trained or selected on 6 of the 6 images"]
    drawn = key.partition("-")[0] + "-1"  # another seed's draw from the same list
    assert told(report, drawn) == []
    assert told(fit, drawn) == ["drew its training images from the same list: it may have seen these images"]
    assert told(report, "0-1") == ["was trained on other lists than data.train: it may have seen these images"]


def test_a_run_tested_again_has_the_files_and_figures_of_its_test(home: Path, tmp_path: Path) -> None:
    whole = record_of(home / "scenes")
    folder = Path(shutil.copytree(home / "scenes", tmp_path / "old"))
    counts = dict(np.load(folder / "test" / "counts.npz"))
    shutil.rmtree(folder / "test")
    stale = whole | {"metrics": {s: whole["metrics"][s] | {"miou": 0.5} for s in SIZES}, "metrics_tta": {}}
    save_record(folder, stale)
    assert "largest difference from the run's own test" in command(folder, "--retest")
    record = record_of(folder)
    assert set(record) - set(whole) == {"tested_again"}
    assert record["files"] == {k: v for k, v in record["files"].items() if k.startswith("test/")}
    np.testing.assert_equal({k: record[k] for k in whole if k != "files"}, {k: whole[k] for k in whole if k != "files"})
    np.testing.assert_equal(dict(np.load(folder / "test" / "counts.npz")), counts)
    assert {p.name for p in (folder / "test").iterdir()} == {p.name for p in (home / "scenes" / "test").iterdir()}
    assert not list(folder.glob(".retest-*"))


def test_testing_a_strangers_run_again_writes_only_into_it(home: Path, tmp_path: Path) -> None:
    """The record holds a command of the stranger's, and a link says where the record is to be written."""
    folder, mine = Path(shutil.copytree(home / "scenes", tmp_path / "run")), tmp_path / "mine"
    mine.mkdir()
    for name in ("profile", "counts.npz"):
        (mine / name).write_text("mine")
    shutil.move(folder / "record.json", tmp_path / "record.json")
    (folder / "record.json").symlink_to(tmp_path / "record.json")
    (folder / ".record.json.partial").symlink_to(mine / "profile")
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").symlink_to(mine / "profile")
    with pytest.raises(ConfigError, match=r"\.lock is a link"):
        retest(folder)
    (folder / ".lock").unlink()
    shutil.rmtree(folder / "test")
    (folder / "test").symlink_to(mine)
    with pytest.raises(ConfigError, match="test is a link"):
        retest(folder)
    (folder / "test").unlink()
    assert "tested_again" in retest(folder)[0]
    assert not (folder / "record.json").is_symlink()
    assert "tested_again" not in record_of(tmp_path)
    assert {p.read_text() for p in mine.iterdir()} == {"mine"}
    assert len(list(mine.iterdir())) == 2


def test_masks_follow_no_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "val").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="val is a link"):
        save_mask(np.zeros((2, 2), np.uint8), tmp_path / "masks", "val/1.png", [(0, 0, 0)])
    assert not list((tmp_path / "mine").iterdir())


def test_testing_again_is_refused(home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(home / "scenes", tmp_path / "run"))
    before = (folder / "record.json").read_bytes()
    with run_lock(folder), pytest.raises(ConfigError, match="another process"):
        retest(folder)
    with pytest.raises(ConfigError, match=r"data\.val=train would change the test"):
        retest(folder, ["data.val=train"])
    with pytest.raises(ConfigError, match="cannot be combined with --size --split"):
        command(folder, "--retest", "--split", "fit", "--size", "64")
    assert (folder / "record.json").read_bytes() == before
    record = record_of(folder)
    record["data"]["roles"]["report"]["images"] = 5
    save_record(folder, record)
    with pytest.raises(ConfigError, match=r"images 4 \(the run's own test: 5\)"):
        retest(folder)
    save_record(folder, record | {"status": "running"})
    with pytest.raises(ConfigError, match="is not finished"):
        retest(folder)


def test_a_folder_without_class_names_gets_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    member = SimpleNamespace(record={"class_names": ["background", "cat"]}, folder=Path("a"))
    for about, said in ((None, r"(?s)data Folder \(2\).*→ .*data\.about="), ("x.yaml", r"'class 0'\s.*'class 1'$")):
        found = SimpleNamespace(classes=["class 0", "class 1"], name="Folder", about=about)
        monkeypatch.setattr("segstudy.inference.loading.build_data", lambda cfg, found=found: found)
        with pytest.raises(ConfigError, match=said):
            evaluation_data(OmegaConf.create({}), [member], EvaluationSpec())  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.root=x"], "none of these is a run folder"),
        (["{home}"], "is not a run's folder"),
        (["{home}/a", "{home}/a"], "given twice"),
        (
            ["{home}/a", "{home}/scenes"],
            r"(?s)was trained on other classes \(21\).*1: 'aeroplane', not 'striped butterfly'",
        ),
        (["{home}/a", "--data", "scenes"], "was trained on other classes"),
        (["{home}/a", "--data", "vocc"], "no such data; did you mean voc"),
        (["{home}/a", "--data", "{home}"], r"→ --data folder data\.root="),
        (["{home}/a", "--data", "voc"], r"data\.root is not set"),
        (["{home}/a", "optim.lr=1"], r"only data\.… and machine settings"),
        (["{home}/a", "data.size=64"], "use --size"),
        (["{home}/a", "data.vall=train"], "has no argument 'vall'; did you mean val"),
        (["{home}/a", "--size", "big"], "HEIGHTxWIDTH"),
        (["{home}/a", "--tta", "flipped"], "must be 'flip' and factors"),
        (["{home}/scenes", "--split", "test"], r"(?s)no such split.*report \(val\)"),
    ],
    ids=lambda v: v if isinstance(v, str) else " ".join(v),
)
def test_mistakes_are_told(words: list[str], said: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        command(*(w.format(home=home) for w in words))


def test_what_a_run_must_have(home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(home / "b", tmp_path / "run"))
    save_record(folder, record_of(folder))
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.data.size = 48
    OmegaConf.save(cfg, folder / "config.yaml")
    with pytest.raises(ConfigError, match=r"(?s)different sizes.*32×32.*48×48.*--size original"):
        command(home / "a", folder)
    cfg.data._target_ = "os.system"
    OmegaConf.save(cfg, folder / "config.yaml")
    with pytest.raises(ConfigError, match="is not part of segstudy"):
        command(folder)
    (folder / "checkpoints" / "last.ckpt").unlink()
    OmegaConf.save(OmegaConf.load(home / "b" / "config.yaml"), folder / "config.yaml")
    with pytest.raises(ConfigError, match="has no checkpoint 'last'"):
        command(folder)
    (folder / "record.json").unlink()
    with pytest.raises(ConfigError, match=r"no file .*record\.json"):
        command(folder)


def test_names_and_words(tmp_path: Path) -> None:
    (tmp_path / "v3_lr=1").mkdir()
    folders, settings = runs_and_settings([f"{tmp_path}/v3_lr=1", "data.root=x", "other"])
    assert (folders, settings) == ([tmp_path / "v3_lr=1", Path("other")], ["data.root=x"])
    save_mask(np.zeros((2, 2), np.uint8), tmp_path / "masks", "drive/frame.1.png", [(0, 0, 0)])
    assert (tmp_path / "masks/drive/frame.1.png").is_file()
    for name in ("../frame.png", "drive/../../frame.png", "/frame.png"):
        with pytest.raises(ConfigError, match="not a path inside the folder"):
            save_mask(np.zeros((2, 2), np.uint8), tmp_path / "masks", name, [(0, 0, 0)])
    with pytest.raises(ConfigError, match="2: 'c', not '–'"):
        same_classes(["a", "b", "c"], "run", ["a", "b"], "data")
    assert TestTimeAugmentation.parse("0.5,flip,1") == TestTimeAugmentation(True, (0.5, 1.0))
    assert TestTimeAugmentation.parse("flip") == TestTimeAugmentation(True, (1.0,))

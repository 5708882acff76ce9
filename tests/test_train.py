"""A run from the command to its folder: what is written, what is continued, what is refused."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from conftest import save_record
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from segstudy.build import build_data, build_module, build_network, build_trainer
from segstudy.callbacks.history import History
from segstudy.config.check import check
from segstudy.config.compose import apply_overrides, compose_config
from segstudy.config.paths import CONF
from segstudy.config.run_folder import claim_folder, claimed_folder
from segstudy.config.run_names import hyperparameters
from segstudy.errors import ConfigError, DamagedFile, TrainingError
from segstudy.inference.loading import load_run
from segstudy.inspection.memory import largest_fit, memory_advice
from segstudy.measures.stored_rows import confusion_per_image
from segstudy.runs.checkpoints import RunCheckpointIO, resume_checkpoint
from segstudy.runs.history import read_history
from segstudy.runs.locking import run_lock
from segstudy.runs.record import read_entries
from segstudy.runs.tables import comparable, print_study, records, variants
from segstudy.study.analysis.analyse import analyse_study
from segstudy.study.analysis.metrics import by_name
from segstudy.study.report.markdown import markdown_report
from segstudy.study.results import read_run
from segstudy.sweep import Study
from segstudy.train import main
from segstudy.train_and_test import run

ROOT = Path(__file__).parents[1]
SMALL = [
    "data.size=32", "data.train_images=24", "data.val_images=6", "data.batch_size=8", "trainer.max_epochs=2",
    "trainer=cpu", "trainer.log_every_n_steps=1",
    "callbacks.pictures.count=2",
]  # fmt: skip
NO_PICTURES = "++callbacks.pictures.enabled=false"  # they take a third of a small run's time
THIN = ["encoder.widths=[8,8,8,8,8]", "decoder.widths=[8,8,8,8]"]


class NanLoss(torch.nn.Module):
    """Finite for four steps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return logits.float().square().mean() * (float("nan") if self.calls == 6 else 1.0)


class Seen(L.Callback):
    """Keeps what training begins with and each batch as the network gets it."""

    weights: ClassVar[dict[str, torch.Tensor]] = {}
    batches: ClassVar[list[dict[str, torch.Tensor]]] = []

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        Seen.weights = {k: v.clone() for k, v in module.network.state_dict().items()}
        Seen.batches = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        Seen.batches.append({k: v.clone() for k, v in batch.items()})


def train(folder: Path, *overrides: str) -> dict[str, Any]:
    """One small run in this process; its record."""
    given = [*SMALL, *overrides]
    cfg = compose_config(given)
    apply_overrides(cfg, given)
    check(cfg)
    record = claim_folder(folder, cfg)
    run(cfg, folder, record)
    return record.values


def command(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python train.py …` in `cwd`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120", "OMP_NUM_THREADS": "1", **environment}
    line = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def main_here(cwd: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`python train.py …` in `cwd`, but in this process, whose logging Hydra leaves alone; its exit code."""
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *quiet])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run."""
    folder = tmp_path_factory.mktemp("run")
    os.environ["SEGSTUDY_CACHE"] = str(folder / "cache")
    train(folder / "v1", *THIN)
    return folder / "v1"


def test_the_folder_is_the_result(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    assert record["status"] == "done"
    assert set(record["data"]["roles"]) == {"fit", "select", "report"}
    assert record["data"]["roles"]["select"] is None
    assert record["selected_on_reported"] is False
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["encoder_weights"] == "random"
    assert record["epochs"] == 2
    assert record["steps"] == 6
    for file in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "test/counts.npz"):
        assert (finished / file).is_file(), file
    assert {p.name for p in (finished / "pictures").iterdir()} >= {"epoch_000.png", "epoch_001.png", "final.png"}


def test_the_figures_can_be_computed_again_from_the_folder(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    network, cfg = load_run(finished)
    data = build_data(cfg)
    images = data.roles["report"].__getitems__(range(6))
    pixels = torch.from_numpy(images["image"].numpy() / np.float32(255)).permute(0, 3, 1, 2)
    mixed = record["device"].startswith("CPU, bf16")  # as the run did, where the CPU multiplies bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        labels = network(pixels).argmax(1).numpy()
    truth, kept = images["mask"].numpy(), images["mask"].numpy() != 255
    iou = [
        ((truth == c) & (labels == c) & kept).sum() / (((truth == c) | (labels == c)) & kept).sum()
        for c in range(len(data.classes))
        if (truth == c).any()
    ]
    assert record["metrics"]["network"]["miou"] == pytest.approx(np.mean(iou), abs=1e-6)
    assert record["metrics"]["network"]["pixel_accuracy"] == pytest.approx((truth == labels)[kept].mean(), abs=1e-6)


def test_counts_of_images_add_up(finished: Path) -> None:
    held = np.load(finished / "test" / "counts.npz")
    counts = confusion_per_image(held["network"], 8, len(held["names"]))
    record = json.loads((finished / "record.json").read_text())
    assert counts.trace(axis1=1, axis2=2).sum() / counts.sum() == pytest.approx(
        record["metrics"]["network"]["pixel_accuracy"]
    )


def test_tensorboard_holds_curves_pictures_and_settings(finished: Path) -> None:
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "val/miou", "val_iou/background", "final/miou"} <= set(tags["scalars"])
    assert any(t.startswith("lr-") for t in tags["scalars"])
    assert tags["images"] == ["predictions"]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_custom_scalars_are_laid_out_once_from_figures_that_are_logged(finished: Path) -> None:
    files = [EventAccumulator(str(file)).Reload() for file in (finished / "tensorboard").glob("events*")]
    held = [f.Tensors("custom_scalars__config__") for f in files if "custom_scalars__config__" in f.Tags()["tensors"]]
    assert [len(events) for events in held] == [1]
    layout = Layout.FromString(held[0][0].tensor_proto.string_val[0])
    charts = {c.title: list(c.multiline.tag) for category in layout.category for c in category.chart}
    assert charts["loss"] == ["train/loss", "val/loss"]
    assert charts["mislabelled"] == ["val/mislabelled"]
    optional = {"train/miou", "train/pixel_accuracy"}  # callbacks.training_metrics
    logged = set(EventAccumulator(str(finished / "tensorboard")).Reload().Tags()["scalars"])
    assert {tag for tags in charts.values() for tag in tags} - optional <= logged


def test_a_continued_run_writes_no_second_layout(tmp_path: Path) -> None:
    module: Any = SimpleNamespace(classes=["a", "b"], background=0)
    for checkpoint, layouts in (("last.ckpt", 0), (None, 1)):
        logger = TensorBoardLogger(tmp_path, name="", version=str(layouts))
        trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path), loggers=[logger], ckpt_path=checkpoint)
        History().on_fit_start(trainer, module)
        logger.finalize("success")
        events = EventAccumulator(str(tmp_path / str(layouts))).Reload()
        assert events.Tags()["tensors"] == ["custom_scalars__config__"] * layouts


def test_failures_at_the_last_epoch_are_those_of_the_test(finished: Path) -> None:
    last = read_history(finished / "history.csv")[-1]
    tested = read_run(finished, json.loads((finished / "record.json").read_text()), "v1")
    for name in ("missed", "spilled", "mislabelled", "hallucinated"):
        terms = by_name(name).of(tested)
        assert terms is not None
        assert last[f"val/{name}"] == pytest.approx(terms[0].sum() / terms[1].sum(), rel=1e-5)


def test_hyperparameters_are_plain_and_named_alike_in_every_run(finished: Path) -> None:
    one, other = (hyperparameters(compose_config([f"model={m}"]), m) for m in ("v2", "smp_unet"))
    assert list(one) == list(other)
    assert all(type(value) in (int, float, str) for value in [*one.values(), *other.values()])
    assert one["loss"] == (
        "WeightedSum(terms=(dice=Dice(include_background=False, smooth=0.0), focal=Focal(gamma=2.0)), "
        "weights=(dice=0.5, focal=0.5))"
    )
    assert one["bridge"] == "NoBridge()"
    assert (other["bridge"], other["network"]) == ("–", "SMPNetwork(arch=Unet)")
    assert one["lr of the encoder"] == one["lr"] == 0.001


def test_a_failed_run_has_no_final_figures(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nan"):
        train(tmp_path / "run", *THIN, NO_PICTURES, "loss._target_=test_train.NanLoss")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("final/")]
    assert not [tag for tag in events.summary_metadata if tag.startswith("_hparams_")]


def test_same_seed_same_figures_and_another_seed_others(finished: Path, tmp_path: Path) -> None:
    first = json.loads((finished / "record.json").read_text())["metrics"]
    assert train(tmp_path / "again", *THIN, NO_PICTURES)["metrics"] == first
    assert train(tmp_path / "other", *THIN, NO_PICTURES, "seed=1")["metrics"] != first


def test_v1_and_v2_with_one_seed_start_alike_and_see_the_same_batches(finished: Path, tmp_path: Path) -> None:
    seen = {}
    for name, overrides in {"v1": ["model=v1"], "v2": ["model=v2"], "other seed": ["model=v2", "seed=1"]}.items():
        train(tmp_path / name, *THIN, NO_PICTURES, *overrides, "+callbacks.seen._target_=test_train.Seen")
        seen[name] = (Seen.weights, Seen.batches)
    (weights, batches), (weights_2, batches_2), (_, others) = seen.values()
    assert all(torch.equal(value, weights_2[key]) for key, value in weights.items())
    assert len(batches) == len(batches_2) == 6
    for a, b in zip(batches, batches_2, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("index", "image", "mask"))
    assert not torch.equal(batches[0]["image"], batches[3]["image"])  # another order and augmentation each epoch
    assert not torch.equal(batches[0]["index"], others[0]["index"])


def test_a_folder_of_another_config_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr: 0\.001 → 0\.1"):
        claim_folder(finished, compose_config([*SMALL, *THIN, "optim.lr=0.1"]))


def test_a_run_that_failed_before_its_first_checkpoint_gives_its_folder_up(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", compose_config(["optim.lr=0.1"])).note(status="failed")
    claim_folder(tmp_path / "run", compose_config(["optim.lr=0.2"])).note(status="running")
    with pytest.raises(ConfigError, match="another config"):
        claim_folder(tmp_path / "run", compose_config(["optim.lr=0.3"]))
    assert "lr: 0.2" in (tmp_path / "run" / "config.yaml").read_text()


def narrow(folder: Path) -> str:
    """A study's tables, 80 columns wide; lines are joined."""
    console = Console(record=True, width=80)
    print_study(folder, console)
    return " ".join(console.export_text().split())


def test_runs_under_other_protocols_are_in_tables_of_their_own(finished: Path, tmp_path: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    for name, protocol in (("a", "border=ignore"), ("b", "border=foreground"), ("c", "border=ignore")):
        (tmp_path / name).mkdir()
        told = record | {"data": record["data"] | {"protocol": protocol}, "changes": [f"model={name}"]}
        save_record(tmp_path / name, told)
    (tmp_path / "d").mkdir()
    save_record(tmp_path / "d", {"status": "failed", "changes": ["model=d"]})
    text = narrow(tmp_path)
    assert "encoder from" not in text
    assert "all encoders from: random" in text
    groups = comparable(variants(records(tmp_path)))
    assert [list(g) for g in groups] == [["a", "c", "d"], ["b"]]
    console = Console(record=True, width=200)
    assert print_study(tmp_path, console) == ["d"]
    text = console.export_text()
    assert text.count("reported on 6") == 2
    assert "border=foreground" in text


def test_a_run_selected_as_published_stands_apart(finished: Path, tmp_path: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    for name in ("ours", "theirs"):
        shutil.copytree(finished, tmp_path / name)
        told = record | {"reproduce": "as_published" if name == "theirs" else None, "changes": [f"model={name}"]}
        save_record(tmp_path / name, told)
    assert [list(g) for g in comparable(records(tmp_path))] == [["ours"], ["theirs"]]
    console = Console(record=True, width=200)
    print_study(tmp_path, console)
    ours, theirs = (re.split(" +[│|] +", line) for line in console.export_text().splitlines() if "done" in line)
    miou, original, accuracy = (
        f"{record['metrics'][size][key]:.3f}"
        for size, key in (("network", "miou"), ("original", "miou"), ("network", "pixel_accuracy"))
    )
    assert ours[2:5] == [miou, original, accuracy]
    assert theirs[2:6] == ["–", "–", "–", f"mIoU {miou}, accuracy {accuracy}"]
    findings, _ = analyse_study(tmp_path)
    assert [[v.name for v in group.variants] for group in findings.groups] == [["ours"], ["theirs"]]
    assert not any(group.differences for group in findings.groups)
    assert [group.published for group in findings.groups] == [False, True]
    assert "selected as published" in findings.groups[1].title
    heads = [
        line
        for line in markdown_report(findings, [[], []]).splitlines()
        if line.startswith("| variant | ") and "| difference |" in line
    ]
    assert ["as published" in head for head in heads] == [False, True]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="runs_dir"):
        claim_folder(tmp_path / "file" / "run", compose_config([]))


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(ConfigError, match="another process"), run_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("segstudy.runs.locking.fcntl.flock", no_locks)
    with pytest.raises(ConfigError, match=r"\.lock cannot be locked: .*set runs_dir=FOLDER"), run_lock(tmp_path):
        pass


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_who_does_not_hold_the_lock_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ours, other = compose_config(["optim.lr=0.1"]), compose_config(["optim.lr=0.2"])
    with claimed_folder(folder, ours) as record:
        record.note(status="running")
        before = files_of(folder)
        with pytest.raises(ConfigError, match="another process"), claimed_folder(folder, ours):
            pass
        with pytest.raises(ConfigError, match="another config"), claimed_folder(folder, other):
            pass
        assert files_of(folder) == before
    with pytest.raises(ZeroDivisionError), claimed_folder(folder, ours):
        _ = 1 / 0
    assert read_entries(folder) == {"status": "failed", "error": "ZeroDivisionError: division by zero"}
    with run_lock(folder), pytest.raises(ConfigError, match="another process"), claimed_folder(folder, other):
        pass  # free to be taken, but not while it is held
    assert "lr: 0.1" in (folder / "config.yaml").read_text()


def test_a_finished_run_in_a_folder_that_cannot_be_written_is_skipped(tmp_path: Path) -> None:
    cfg = compose_config(["optim.lr=0.1"])
    claim_folder(tmp_path / "run", cfg).note(status="done")
    (tmp_path / "run" / ".lock").mkdir()  # for root, too, no lock can be had here
    with claimed_folder(tmp_path / "run", cfg) as record:
        assert record.status == "done"


def test_a_failure_that_cannot_be_noted_does_not_hide_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_up() -> None:
        with claimed_folder(tmp_path / "run", compose_config([])) as record:
            record.note(status="running")
            monkeypatch.setattr(os, "fsync", full)
            with pytest.raises(TrainingError, match=r"record could not be written.*No space left.*record\.json"):
                record.note(epochs=1)
            raise TrainingError("what went wrong")

    with pytest.raises(TrainingError, match="what went wrong"):
        fill_up()
    assert read_entries(tmp_path / "run") == {"status": "running"}
    assert "the failure could not be written to its record" in capsys.readouterr().err


def test_no_link_in_a_run_folder_is_written_through(finished: Path, tmp_path: Path) -> None:
    """Each file that a run leaves is a link to a user's file: the run is made again, and the user's files stay."""
    folder, outside = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "outside"
    values = json.loads((folder / "record.json").read_text()) | {"status": "running"}
    save_record(folder, values)
    for name in files_of(folder):
        target = outside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / name, target)
        (folder / name).symlink_to(target)
    (folder / "checkpoints" / "last.ckpt").unlink()  # so that it trains
    (folder / "tensorboard" / "hparams.yaml").symlink_to(outside / "profile")
    before = files_of(outside)
    assert {"record.json", "history.csv", "test/counts.npz", "checkpoints/best.ckpt", "pictures/final.png"} <= {*before}
    assert train(folder, *THIN)["status"] == "done"
    assert files_of(outside) == before
    changed = {n for n in before if not (folder / n).is_symlink()}
    kept = {n for n in before if n.startswith("tensorboard/")} | {".lock", "config.yaml"}
    assert changed >= {*before} - kept - {"checkpoints/last.ckpt"}


@pytest.mark.parametrize("name", ["tensorboard", "pictures", "checkpoints", "test", "inspector", "before"])
def test_a_linked_folder_in_a_run_folder_is_refused(name: str, finished: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "final.png").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(outside)
    start = [f"start_from={finished}"] if name == "before" else []
    given = ["callbacks.inspector.enabled=true", "trainer.max_epochs=1", *start]
    with pytest.raises(ConfigError, match=rf"run/{name} is a link to .*outside"):
        train(tmp_path / "run", *THIN, *given)
    assert files_of(outside) == {"final.png": b"mine"}


def test_hydras_file_of_a_sweep_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "multirun.yaml").symlink_to(tmp_path / "mine")
    for _ in range(2):  # and without the file there is nothing to remove
        hydra = {"sweep": {"dir": str(tmp_path)}, "sweeper": {"params": None}, "overrides": {"task": []}}
        Study().on_multirun_start(OmegaConf.create({"report": {}, "hydra": hydra}))
    assert not (tmp_path / "multirun.yaml").is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_checkpoint_is_written_beside_the_one_it_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "another disk"))
    trainer, _ = build_trainer(compose_config(SMALL), tmp_path)
    writer, file = trainer.strategy.checkpoint_io, tmp_path / "checkpoints" / "last.ckpt"
    states = [{"epoch": epoch, "global_step": 7, "state_dict": {}} for epoch in range(3)]
    writer.save_checkpoint(states[0], str(file))
    first = file.read_bytes()

    def killed(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", killed)
        with pytest.raises(OSError, match="the disk is gone"):
            writer.save_checkpoint(states[1], str(file))
    assert file.read_bytes() == first
    for state in states[1:]:
        writer.save_checkpoint(state, str(file))
    assert writer.load_checkpoint(str(file)) == states[2]
    assert sorted(p.name for p in file.parent.iterdir()) == ["earlier.ckpt", "last.ckpt"]
    assert writer.load_checkpoint(str(file.with_name("earlier.ckpt"))) == states[1]


def test_a_damaged_checkpoint_costs_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit of a weight is found by the checksum, which torch does not look at."""
    folder, last, earlier = tmp_path, *(tmp_path / "checkpoints" / name for name in ("last.ckpt", "earlier.ckpt"))
    assert resume_checkpoint(folder) is None
    for epoch in (1, 2):
        state = {"epoch": epoch, "global_step": 7, "state_dict": {"a": torch.arange(999.0)}}
        RunCheckpointIO(folder).save_checkpoint(state, last)
    assert resume_checkpoint(folder) == last
    assert capsys.readouterr().out == ""
    for file, named in ((last, "an epoch earlier"), (earlier, "from the beginning")):
        content = bytearray(file.read_bytes())
        content[content.index(np.float32(500).tobytes())] ^= 1
        file.unlink()
        file.write_bytes(content)
        assert resume_checkpoint(folder) == (earlier if file == last else None)
        printed = capsys.readouterr().out
        assert f"{file} is damaged: the checksum of" in printed
        assert f"training goes on {named}" in printed


def test_a_damaged_checkpoint_is_one_clear_error(finished: Path, tmp_path: Path) -> None:
    whole = (finished / "checkpoints" / "last.ckpt").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "other": b"no checkpoint"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedFile, match=f"{name} is damaged: File is not a zip file"):
            RunCheckpointIO(tmp_path).load_checkpoint(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="not a regular file"):
        RunCheckpointIO(tmp_path).load_checkpoint(tmp_path / "pipe")


def test_a_checkpoints_word_removes_nothing_outside(tmp_path: Path) -> None:
    """A stranger's last.ckpt says which file was the one before, and Lightning removes it: a folder, too."""
    folder, mine = tmp_path / "run", tmp_path / "mine"
    (mine / "photos").mkdir(parents=True)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "old.ckpt").touch()
    writer = RunCheckpointIO(folder)
    with pytest.raises(ConfigError, match="outside the run's folder"):
        writer.remove_checkpoint(str(folder / "checkpoints" / ".." / ".." / "mine"))
    with pytest.raises(ConfigError, match="outside the run's folder"):
        writer.save_checkpoint({}, tmp_path / "profile")
    writer.remove_checkpoint(str(folder / "checkpoints" / "old.ckpt"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["checkpoints", "mine", "photos", "run"]


def test_in_a_terminal_a_bar_runs_and_a_line_an_epoch_stays(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "160", "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    line = [sys.executable, str(ROOT / "train.py"), *SMALL, *THIN]
    with subprocess.Popen(line, cwd=tmp_path, env=env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the other side has closed
                break
    os.close(ours)
    assert process.returncode == 0, text.decode()[-2000:]
    assert "━" in text.decode()
    assert text.decode().count("train loss") == 2


KILL = """
import os, signal
import lightning as L

class Kill(L.Callback):
    def on_train_batch_end(self, trainer, module, out, batch, i):
        if trainer.global_step == int(os.environ.get("KILL_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_test_start(self, trainer, module):
        if "KILL_TEST" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_continues_to_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kill_at.py").write_text(KILL)
    settings = ["model=v3", *THIN, NO_PICTURES, "trainer.max_epochs=3", "+callbacks.kill._target_=kill_at.Kill"]
    killed = command(tmp_path, *SMALL, *settings, "study=killed", KILL_AT="5")  # the middle of the second epoch
    assert killed.returncode == -signal.SIGKILL
    (record,) = (tmp_path / "runs" / "killed").glob("*/record.json")
    assert json.loads(record.read_text())["status"] == "running"
    assert main_here(tmp_path, monkeypatch, *SMALL, *settings, "study=killed") == 0
    continued = json.loads(record.read_text())
    whole = train(tmp_path / "plain", *settings, "study=killed")
    assert continued["metrics"] == whole["metrics"]
    assert continued["steps"] == whole["steps"] == 9
    capsys.readouterr()
    assert main_here(tmp_path, monkeypatch, *SMALL, *settings, "study=killed") == 0
    assert "already done" in capsys.readouterr().out


def test_a_continued_run_has_its_own_threads_and_the_next_one_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*SMALL, *THIN, NO_PICTURES, "trainer.max_epochs=1"]
    assert main_here(tmp_path, monkeypatch, *settings) == 0
    (file,) = (tmp_path / "runs").glob("*/*/record.json")
    save_record(file.parent, read_entries(file.parent) | {"status": "running", "threads": 2})
    assert main_here(tmp_path, monkeypatch, *settings) == 0
    assert json.loads(file.read_text())["threads"] == 2
    assert torch.get_num_threads() == 1


def test_time_and_speed_are_those_of_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kill_at.py").write_text(KILL)
    settings = [*SMALL, *THIN, NO_PICTURES, "+callbacks.kill._target_=kill_at.Kill"]
    assert command(tmp_path, *settings, KILL_TEST="1").returncode == -signal.SIGKILL  # after the last epoch
    (record,) = (tmp_path / "runs").glob("*/*/record.json")
    trained = json.loads(record.read_text())["seconds"]
    assert main_here(tmp_path, monkeypatch, *settings) == 0
    continued = json.loads(record.read_text())
    assert continued["seconds"] > trained > 0
    assert continued["images_per_second"] > 0


def test_a_failed_variant_does_not_stop_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text(
        "import torch\n\n\nclass Bad(torch.nn.Module):\n    def forward(self, logits, mask):\n"
        "        return logits.float().mean() * (float('nan') if logits.shape[-1] > 8 else 1)\n"
        "\n\nclass Good(Bad):\n    def forward(self, logits, mask):\n        return logits.float().mean() ** 2\n"
    )
    targets = "loss._target_=my_loss.Bad,my_loss.Good"
    done = command(tmp_path, "-m", targets, *SMALL, *THIN, NO_PICTURES, "trainer.max_epochs=1", "study=s")
    assert done.returncode == 1
    records = {p.parent.name: json.loads(p.read_text()) for p in (tmp_path / "runs" / "s").glob("*/record.json")}
    status = {name.split("my_loss.")[1].split("_")[0]: r["status"] for name, r in records.items()}
    assert status == {"Bad": "failed", "Good": "done"}
    assert "failed or unfinished" in done.stdout
    assert "the loss became nan at step 1" in done.stderr


def test_a_loss_that_is_not_finite_names_step_images_and_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        train(tmp_path / "run", *THIN, NO_PICTURES, "loss._target_=test_train.NanLoss")
    text = str(error.value)
    assert "step 4 (epoch 1)" in text  # one call is the check before training, one the validation in between
    assert text.count("train_000") == 8
    assert str(tmp_path / "run" / "checkpoints" / "last.ckpt") in text
    torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)


def test_what_fits_in_memory_is_found_by_bisection() -> None:
    tried: list[tuple[int, int]] = []

    def fits(batch: int, side: int) -> bool:
        tried.append((batch, side))
        return batch * side * side <= 5 * 256 * 256

    assert largest_fit(fits, 16, 256) == (5, 128)  # 16 · 128² ≤ 5 · 256² < 16 · 160²
    assert len(tried) < 10


def test_out_of_memory_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = compose_config([*SMALL, *THIN, "data.size=64"])
    data = build_data(cfg)
    module = build_module(cfg, build_network(cfg, 7)[0], data)
    forward = module.network.forward

    def limited(image: torch.Tensor) -> torch.Tensor:
        if image.shape[0] * image.shape[2] * image.shape[3] > 3 * 64 * 64:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(image)

    monkeypatch.setattr(module.network, "forward", limited)
    advice = memory_advice(module, 8, (64, 64), "32-true")
    assert "data.batch_size=3 trainer.accumulate_grad_batches=3" in advice
    assert "data.size=32" in advice


class FullDisk(L.Callback):
    """From the second epoch on, a file of half a checkpoint's size is the largest that can be written."""

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            half = (Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt").stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (half, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_disk_that_fills_up_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: a write ends halfway
    try:
        with pytest.raises(TrainingError, match="could not be written"):
            train(tmp_path / "run", *THIN, NO_PICTURES, f"+callbacks.disk._target_={__name__}.FullDisk")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0


def test_two_processes_count_each_image_once(tmp_path: Path) -> None:
    several = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.sync_batchnorm=false"]
    done = command(tmp_path, *SMALL, *THIN, NO_PICTURES, *several, "data.val_images=7", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sync_dist" not in done.stderr  # Lightning's advice for figures that differ between processes
    (folder,) = (tmp_path / "runs" / "study").iterdir()
    held = np.load(folder / "test" / "counts.npz")
    counts = confusion_per_image(held["network"], 8, len(held["names"]))
    assert len(counts) == 7
    assert (counts.sum((1, 2)) > 0).all()
    record = json.loads((folder / "record.json").read_text())
    _, cfg = load_run(folder)
    masks = build_data(cfg).roles["report"].__getitems__(range(7))["mask"]
    assert counts.sum() == (masks != 255).sum()
    assert record["metrics"]["network"]["pixel_accuracy"] == pytest.approx(
        counts.trace(axis1=1, axis2=2).sum() / counts.sum()
    )


@pytest.mark.parametrize(
    "extras",
    [
        ["callbacks.ema.enabled=true"],
        ["schedule=plateau", "callbacks.early_stopping.enabled=true", "data.select_fraction=0.25"],
        ["checkpoint=best", "optim=sgd", "schedule=poly", "trainer.gradient_clip_val=1"],
        ["schedule=step", "optim=adamw", "data.augment.scale=[0.5,2]", "trainer.max_time='00:00:00:20'"],
        ["callbacks.freeze.enabled=true", "data.device_cache=true", "compile=false"],
        ["augment=strong", "data.augment.then.mixup.probability=0.9"],
    ],
    ids=lambda e: e[0],
)
def test_options_of_training(extras: list[str], tmp_path: Path) -> None:
    record = train(tmp_path / "run", *THIN, NO_PICTURES, *extras)
    assert record["status"] == "done"
    assert record["selected_on_reported"] is ("checkpoint=best" in extras)
    assert (record["data"]["roles"]["select"] is not None) is ("data.select_fraction=0.25" in extras)


PAIRS = [f"model={p.stem}" for p in sorted((CONF / "model").glob("*.yaml"))]
PAIRS += [f"loss={p.stem}" for p in sorted((CONF / "loss").glob("*.yaml"))]
TWO_CLASSES = re.compile("pet_|bce")


@pytest.mark.parametrize("override", PAIRS)
def test_every_model_and_loss_learns_from_a_batch(override: str) -> None:
    # Weights are asked for only by name in a config: none is loaded here, and nothing downloaded.
    cfg = compose_config([*SMALL, override])
    data = build_data(cfg)
    batch = data.on_after_batch_transfer(data.roles["fit"].__getitems__(range(4)), 0)
    if TWO_CLASSES.search(override):
        data.classes, batch["mask"] = data.classes[:2], batch["mask"].clamp(max=1)
    network, _ = build_network(cfg, len(data.classes), load_weights=False)
    module = build_module(cfg, network, data)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    before = [p.detach().clone() for p in network.parameters()]
    loss = module.loss(module(batch["image"]), batch["mask"])
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert sum(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)) > len(before) / 2

"""Several processes: nothing is counted twice or left out, and the figures are those of one."""

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from rich.console import Console
from test_train import NO_PICTURES, SMALL, THIN, train

from segstudy.build import build_data, build_module, build_network
from segstudy.callbacks.per_image_confusion import PerImageConfusion
from segstudy.config.compose import compose_config
from segstudy.data.sampler import EvaluationSampler
from segstudy.errors import TrainingError
from segstudy.inference.evaluate import retest
from segstudy.measures.stored_rows import confusion_per_image
from segstudy.metrics import MeanLoss
from segstudy.runs.tables import comparable, print_study, records
from segstudy.study.analysis.analyse import analyse_study

ELEVEN = [*SMALL, *THIN, "loss=ce", "data.val_images=11", "data.batch_size=4"]


def parts() -> tuple[Any, Any]:
    """A module that has not been trained, and its data."""
    cfg = compose_config(ELEVEN)
    data = build_data(cfg)
    network = build_network(cfg, len(data.classes))[0]
    network.head[-1].bias.data[:3] = torch.tensor([2.0, 1.0, 0.5])  # type: ignore[index,union-attr]
    return build_module(cfg, network, data), data


def test_an_own_loss_of_no_pixels_counts_for_no_image() -> None:
    """`F.cross_entropy` is NaN where all is ignored, as in a batch that only fills up."""
    mean = MeanLoss()
    mean.update(torch.tensor(2.0), 3)
    mean.update(torch.nn.functional.cross_entropy(torch.zeros(1, 2, 1), torch.full((1, 1), 255), ignore_index=255), 0)
    mean.update(torch.tensor(6.0), torch.tensor(1))
    assert mean.compute() == 3.0
    mean.update(torch.tensor(math.nan), 1)
    assert mean.compute().isnan()  # of an image, it is told


def trainer(folder: Path, devices: int, **settings: Any) -> L.Trainer:
    """With Lightning's own `use_distributed_sampler=true`; processes are forked, since importing takes a minute."""
    return L.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, default_root_dir=folder, **settings,
    )  # fmt: skip


def test_validation_of_several_processes_equals_that_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module, data = parts()
    images, mask = (data.roles["report"].__getitems__(range(11))[key] for key in ("image", "mask"))
    losses = []
    with torch.no_grad():
        for some in range(0, 11, 4):
            batch = {"image": images[some : some + 4], "mask": mask[some : some + 4], "index": torch.zeros(1)}
            batch = data.on_after_batch_transfer(batch, 0)
            logits = module.eval()(batch["image"])
            loss = torch.nn.functional.cross_entropy(logits, batch["mask"], ignore_index=255)
            losses.append(len(logits) * loss.item())
    figures = []
    for devices in (1, 2, 3):  # three processes have a batch each, two have three: one of them is filled in
        (found,) = trainer(tmp_path, devices).validate(module, data, verbose=False)
        figures.append(found)
    assert figures[0]["val/loss"] == pytest.approx(sum(losses) / 11, rel=1e-6)
    assert figures[0].keys() == figures[1].keys() == figures[2].keys()
    for found in figures[1:]:
        for name, value in found.items():
            assert value == pytest.approx(figures[0][name], rel=1e-6, nan_ok=True), name
    told = capfd.readouterr().err
    assert "sync_dist" not in told
    assert "DistributedSampler" not in told


@pytest.mark.parametrize(("length", "batch", "world"), [(11, 4, 2), (11, 4, 3), (11, 4, 5), (8, 4, 2), (1, 4, 2)])
def test_processes_share_the_batches_of_one(length: int, batch: int, world: int) -> None:
    whole = [list(range(length))[i : i + batch] for i in range(0, length, batch)]
    shared = []
    for rank in range(world):
        order = EvaluationSampler(np.full((length, 2), 8), batch, 10**6, rank, world)
        assert len(order) == len(list(order))
        shared.append(list(order))
    assert len({len(batches) for batches in shared}) == 1
    assert sorted(b for batches in shared for b in batches if b != [-1]) == whole


def test_a_limited_test_is_told_and_never_compared_with_whole_ones(tmp_path: Path) -> None:
    study_of = ["data.val_images=11", "data.batch_size=4", "trainer.max_epochs=1", *THIN, NO_PICTURES]
    whole = train(tmp_path / "whole", *study_of)
    part = train(tmp_path / "part", *study_of, "+trainer.limit_test_batches=1", "seed=1")
    assert (whole["images_tested"], part["images_tested"]) == (11, 4)
    assert (whole["data"]["protocol"], part["data"]["protocol"]) == ("", "4 of 11 images tested")
    assert [list(group) for group in comparable(records(tmp_path))] == [["part"], ["whole"]]
    held = np.load(tmp_path / "part" / "test" / "counts.npz")
    counts = confusion_per_image(held["network"], 8, 4)
    assert list(held["names"]) == [s.name for s in build_data(compose_config(ELEVEN)).roles["report"].samples[:4]]
    masks = build_data(compose_config(ELEVEN)).roles["report"].__getitems__(range(4))["mask"]
    assert np.array_equal(counts.sum((1, 2)), (masks != 255).sum((1, 2)).numpy())
    assert len(np.load(tmp_path / "part" / "test" / "measures.npz")["names"]) == 4
    console = Console(record=True, width=200)
    print_study(tmp_path, console)
    assert "4 of 11 images tested" in console.export_text()
    assert not any(group.differences for group in analyse_study(tmp_path)[0].groups)
    again, line = retest(tmp_path / "part")
    assert (again["images_tested"], again["data"]["protocol"]) == (11, "")
    assert line == "not the run's own test, which was on 4 of the 11 images"


@pytest.mark.parametrize("seen", [[0, 1, 2, 2], [0, 1, 2]], ids=["twice", "left out"])
def test_an_image_that_is_counted_twice_or_left_out_is_an_error(seen: list[int], tmp_path: Path) -> None:
    module, data = parts()
    data.roles["report"] = data.roles["report"].subset(np.arange(4))
    data.test_dataloader = lambda: torch.utils.data.DataLoader(  # type: ignore[method-assign]
        data.roles["report"], batch_size=1, sampler=seen, collate_fn=lambda batch: batch
    )
    with pytest.raises(TrainingError, match="counted 3 of the 4 images of 'val'"):
        trainer(tmp_path, 1, callbacks=[PerImageConfusion()]).test(module, data, verbose=False)


def test_the_record_says_how_many_images_were_tested(tmp_path: Path) -> None:
    train(tmp_path / "run", *THIN, "trainer.max_epochs=1")
    assert json.loads((tmp_path / "run" / "record.json").read_text())["images_tested"] == 6

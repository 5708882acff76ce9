"""The share of a training step spent waiting for data, and the peak resident memory of the run.

Runs `python train.py` on VOC in a fresh process and reads what the project's Throughput callback wrote to the run's
record. A second part times the two things between steps, reading a batch from the cache and augmenting it, alone.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from lightning.fabric.utilities import move_data_to_device
from machine import machine, machine_line, write_json
from rich.console import Console
from rich.table import Table
from scenes_as_voc import voc_root_or_scenes

from segstudy.build import build_data
from segstudy.config.compose import compose_config
from segstudy.precision import choose_device

PROJECT = Path(__file__).resolve().parents[1]

BESIDE_TRAINING = ("pictures", "training_metrics", "per_image_errors")
"""Callbacks that would take minutes with photos of several million pixels, and that no figure here depends on."""


def fit(settings: list[str], folder: Path, steps: int) -> dict[str, float]:
    """Train for one epoch of `steps` batches in a fresh process; its figures."""
    command = [
        sys.executable, "train.py", *settings, f"runs_dir='{folder}'", "study=data_wait", "trainer.max_epochs=1",
        f"+trainer.limit_train_batches={steps}", "+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1",
        *(f"callbacks.{name}.enabled=false" for name in BESIDE_TRAINING),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    # The largest child so far, from its start to its end: the cache is written and the test is run in it, too.
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    record = json.loads(next(folder.glob("data_wait/*/record.json")).read_text())
    return {
        "data_wait": record["data_wait"],
        "images_per_second": record["images_per_second"],
        "peak_resident_gib": resident * (1 if sys.platform == "darwin" else 1024) / 2**30,
        "peak_memory_gib_of_the_record": record["peak_memory_gib"],
    }


def alone(settings: list[str], batches: int) -> dict[str, float]:
    """Milliseconds to read a batch from the cache, and to bring it to the device and augment it: medians."""
    cfg = compose_config(settings)
    device = torch.device(choose_device(cfg.trainer.accelerator, cfg.trainer.precision)[0])
    data = build_data(cfg)
    # What the data module asks of Lightning's trainer while it trains.
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        training=True, current_epoch=0, global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=device)
    )
    reading, preparing = [], []
    loader = iter(data.train_dataloader())
    for _ in range(min(batches, len(data.roles["fit"]) // data.batch_size)):
        began = time.perf_counter()
        batch = next(loader)
        read = time.perf_counter()
        ready = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        ready["image"].mean().item()  # the device has done it
        reading.append(read - began)
        preparing.append(time.perf_counter() - read)
    return {
        "read_ms": 1000 * statistics.median(reading),
        "transfer_and_augment_ms": 1000 * statistics.median(preparing),
    }


def show(figures: dict[str, float], batch: int, console: Console) -> None:
    """The table: the two figures with limits first."""
    table = Table("figure", "value", "limit", title="data wait and memory")
    step = 1000 * batch / figures["images_per_second"]
    table.add_row("share of a step spent waiting for data", f"{100 * figures['data_wait']:.1f} %", "5 %")
    table.add_row("peak resident memory of the run", f"{figures['peak_resident_gib']:.2f} GiB", "6 GiB")
    table.add_row("training, images/s", f"{figures['images_per_second']:.1f}", "")
    table.add_row("a step", f"{step:.0f} ms", "")
    table.add_row("alone: read a batch from the cache", f"{figures['read_ms']:.1f} ms", "")
    augmenting = figures["transfer_and_augment_ms"]
    table.add_row("alone: to the device and augment", f"{augmenting:.1f} ms ({100 * augmenting / step:.1f} %)", "")
    console.print(table)


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="further settings, such as data.augment=null")] = None,
    steps: Annotated[int, typer.Option(min=5, help="training steps; the first 3 are not counted")] = 20,
    size: Annotated[int, typer.Option(help="side of the images")] = 256,
    batch: Annotated[int, typer.Option(help="images a step")] = 16,
    model: Annotated[str, typer.Option(help="a file of conf/model")] = "v1",
    root: Annotated[Path | None, typer.Option(help="a VOC folder; without it: generated scenes")] = None,
    photos: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the generated scenes")] = "500x375",
    train: Annotated[str, typer.Option(help="the list to train on")] = "train",
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Waiting for data and peak memory, in a short real run on VOC."""
    console = Console()
    facts = machine()
    width, height = map(int, photos.split("x"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        home = voc_root_or_scenes(root, folder / "photos", steps * batch, height, width)
        settings = [f"model={model}", "data=voc", f"data.root='{home}'", f"data.train={train}", f"data.size={size}"]
        settings += [f"data.batch_size={batch}", f"data.cache_dir='{folder / 'cache'}'", *(overrides or [])]
        figures = fit(settings, folder / "runs", steps) | alone(settings, steps)
    show(figures, batch, console)
    console.print(machine_line(facts), highlight=False)
    used: dict[str, Any] = {"model": model, "steps": steps, "size": size, "batch": batch, "overrides": overrides or []}
    used["data"] = f"a VOC folder, {train}" if root else f"generated scenes of {photos}"
    write_json(out, {"benchmark": "data_wait", "settings": used, "machine": facts, "figures": figures})


if __name__ == "__main__":
    typer.run(main)

"""Training with the data set in the device's memory against the network alone on one random batch, in turn.

On a GPU the first must reach 90 % of the second (`data.device_cache=true`); on a CPU the figure only shows that the
script runs.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import torch
import typer
from common import compose_config, machine, machine_line, voc_root_or_scenes, write_json
from lightning.fabric.utilities import move_data_to_device
from rich.console import Console
from rich.table import Table

from segstudy.build import build_data, build_module, build_start
from segstudy.data.datamodule import SegmentationData
from segstudy.precision import choose_device

Batch = dict[str, torch.Tensor]


def batches(data: SegmentationData, device: torch.device) -> Iterator[Batch]:
    """The data module's own way: from the cache on the device, augmented, epoch after epoch."""
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        training=True, current_epoch=0, global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=device)
    )
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            yield data.on_after_batch_transfer(move_data_to_device(data.on_before_batch_transfer(batch, 0), device), 0)


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of `steps` steps, waiting for the device at both ends."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return time.perf_counter() - began


def main(
    steps: Annotated[int, typer.Option(min=1, help="steps of a turn")] = 20,
    turns: Annotated[int, typer.Option(min=1, help="turns of each")] = 5,
    size: Annotated[int, typer.Option(help="side of the images")] = 256,
    batch: Annotated[int, typer.Option(help="images a step")] = 16,
    model: Annotated[str, typer.Option(help="a file of conf/model")] = "v1",
    root: Annotated[Path | None, typer.Option(help="a VOC folder; without it: generated scenes, 500×375")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Images/s end to end with data.device_cache=true, and of the network alone on random tensors."""
    console, facts = Console(), machine()
    with tempfile.TemporaryDirectory() as temporary:
        home = voc_root_or_scenes(root, Path(temporary) / "photos", 8 * batch)
        cfg = compose_config([
            f"model={model}", "data=voc", f"data.root='{home}'", f"data.size={size}", f"data.batch_size={batch}",
            "data.device_cache=true", f"data.cache_dir='{Path(temporary) / 'cache'}'",
        ])  # fmt: skip
        accelerator, precision, _ = choose_device(cfg.trainer.accelerator, cfg.trainer.precision)
        device = torch.device(accelerator)
        data = build_data(cfg)
        network = build_start(cfg, data)[0]
        module = build_module(cfg, network, data).to(device).train()
        optimizer = torch.optim.Adam(module.parameters(), fused=True)
        half = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
        stream = batches(data, device)
        fixed = {
            "image": torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last),
            "mask": torch.randint(0, len(data.classes), (batch, size, size), device=device),
        }

        def step(given: Batch) -> None:
            with torch.autocast(device.type, dtype=half, enabled=precision != "32-true"):
                loss = module.loss(module(given["image"]), given["mask"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        ways: dict[str, Callable[[], object]] = {
            "end to end, device_cache": lambda: step(next(stream)),
            "network alone, random tensors": lambda: step(fixed),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(turns + 1):
            for name, way in ways.items():
                taken = timed(way, steps, device)
                if turn:  # the first warms up
                    seconds[name].append(taken)
    rates = {name: steps * batch / statistics.median(taken) for name, taken in seconds.items()}
    first, second = rates.values()
    table = Table("way", "images/s", title=f"{model} at {size}×{size}, batches of {batch}")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}")
    console.print(table)
    console.print(f"share: {first / second:.1%} (at least 90 % on a GPU)\n{machine_line(facts)}", highlight=False)
    figures = {"images_per_second": rates, "share": first / second}
    used = {"model": model, "steps": steps, "turns": turns, "size": size, "batch": batch}
    write_json(out, {"benchmark": "device_cache", "settings": used, "machine": facts, "figures": figures})


if __name__ == "__main__":
    typer.run(main)

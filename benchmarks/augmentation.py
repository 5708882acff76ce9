"""Milliseconds to augment a batch, by segstudy and by the two libraries, beside the time of a training step.

Every way gets the same uint8 batch in memory and makes the same kinds of change with the same settings: what VOC has
by default (flip, zoom, brightness and contrast), and for segstudy also conf/augment/strong.yaml. The libraries draw
numbers of their own.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from hydra.utils import instantiate
from machine import machine, machine_line, write_json
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from segstudy.allocator import use_fast_memory
from segstudy.build import build_network
from segstudy.config.compose import compose_config
from segstudy.data.datasets.scenes import draw_scene
from segstudy.data.datasets.voc import VOC
from segstudy.data.transforms.augment import Augment
from segstudy.data.transforms.base import GREY
from segstudy.labels import IGNORE
from segstudy.precision import choose_device

Batch = tuple[Tensor, Tensor]
SETTINGS = ["data=voc", "data.root=none"]  # no data is read: the settings alone are VOC's
STEP = "a training step of V1"
LIMIT = 0.08  # the share of a step that the default may take


def scenes(batch: int, size: int) -> Batch:
    """Generated scenes: image (B,3,H,W) in 0…1, mask (B,H,W)."""
    pairs = [draw_scene(np.random.default_rng(i), size, size) for i in range(batch)]
    images, masks = (torch.from_numpy(np.stack(parts)) for parts in zip(*pairs, strict=True))
    return images.permute(0, 3, 1, 2).float() / 255, masks.long()


def ours(augment: Augment, image: Tensor, mask: Tensor) -> Callable[[int], Batch]:
    """segstudy's whole batch, with its random numbers."""
    index = torch.arange(len(image))

    def one(turn: int) -> Batch:
        params = augment.make_params(0, turn, index)
        size = augment.output_size(params, *image.shape[2:])
        return augment(image, mask, params.to(image.device, non_blocking=True), size)

    return one


def torchvisions(augment: Augment, image: Tensor, mask: Tensor) -> Callable[[int], Batch]:
    """torchvision.transforms.v2, one image after the other, as a data set's __getitem__ calls it."""
    change = v2.Compose([
        v2.RandomApply([v2.ColorJitter(augment.brightness, augment.contrast)], augment.colour),
        v2.RandomHorizontalFlip(augment.flip),
        v2.RandomAffine(
            0, translate=(0.25, 0.25), scale=augment.scale, interpolation=v2.InterpolationMode.BILINEAR,
            fill={tv_tensors.Image: GREY, tv_tensors.Mask: IGNORE},
        ),
    ])  # fmt: skip

    def one(turn: int) -> Batch:
        pairs = [change(tv_tensors.Image(i), tv_tensors.Mask(m)) for i, m in zip(image, mask, strict=True)]
        images, masks = zip(*pairs, strict=True)
        return torch.stack(images), torch.stack(masks)

    return one


def voc_augmentation() -> Augment:
    """VOC's default."""
    return instantiate(compose_config(SETTINGS).data.augment)


def kornia_augmentation(augment: Augment) -> nn.Module:
    """The same kinds of change by kornia, on (image, mask) as float (B,3,H,W) and (B,1,H,W)."""
    import kornia.augmentation as K

    return K.AugmentationSequential(
        K.ColorJiggle(augment.brightness, augment.contrast, 0.0, 0.0, p=augment.colour),
        K.RandomHorizontalFlip(p=augment.flip),
        K.RandomAffine(0.0, translate=(0.25, 0.25), scale=augment.scale, p=1.0),
        data_keys=["input", "mask"],
    )


def kornias(augment: Augment, image: Tensor, mask: Tensor) -> Callable[[int], Batch]:
    """kornia.augmentation on the whole batch; it wants the mask as float (B,1,H,W)."""
    change = kornia_augmentation(augment)

    def one(turn: int) -> Batch:
        images, masks = change(image, mask[:, None].float())
        return images, masks[:, 0].long()

    return one


def step(image: Tensor, mask: Tensor, precision: str) -> Callable[[int], Any]:
    """A training step of V1 with its loss and optimizer on a batch that is ready."""
    cfg = compose_config(["model=v1", *SETTINGS])
    network = build_network(cfg, len(VOC.classes))[0].to(image.device).train()
    loss = instantiate(cfg.loss, _convert_="all").to(image.device)
    optimizer = instantiate(cfg.optim.optimizer)(network.parameters(), lr=1e-3)
    image = image.contiguous(memory_format=torch.channels_last)
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

    def one(turn: int) -> None:
        with torch.autocast(image.device.type, kinds.get(precision), enabled=precision in kinds):
            value = loss(network(image), mask)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return one


def seconds(call: Callable[[int], Any], turns: int, device: torch.device) -> list[float]:
    """Of each of `turns` calls, after two that are not counted."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    taken = []
    for turn in range(turns + 2):
        wait()
        began = time.perf_counter()
        call(turn)
        wait()
        taken.append(time.perf_counter() - began)
    return taken[2:]


def summarise(taken: dict[str, list[float]], steps: list[float], batch: int) -> dict[str, dict[str, Any]]:
    """Medians, images per second, and each way's share of a training step that it goes before."""
    whole = statistics.median(steps)
    rows: dict[str, dict[str, Any]] = {}
    for name, values in (taken | {STEP: steps}).items():
        middle = statistics.median(values)
        rows[name] = {"seconds": values, "ms": 1000 * middle, "images_per_second": batch / middle}
        if name != STEP:
            rows[name]["share_of_step"] = middle / whole
    return rows


def show(rows: dict[str, dict[str, Any]], title: str, console: Console) -> None:
    """The table; only segstudy's default has a limit."""
    table = Table("what", "ms a batch", "range", "images/s", "share of a step", title=title)
    for name, row in rows.items():
        if "note" in row:
            table.add_row(name, row["note"])
            continue
        low, high = (1000 * edge for edge in (min(row["seconds"]), max(row["seconds"])))
        share = f"{100 * row['share_of_step']:.1f} %" if "share_of_step" in row else ""
        limit = f" (limit {100 * LIMIT:.0f} %)" if name == "segstudy, default" else ""
        table.add_row(
            name, f"{row['ms']:.1f}", f"{low:.1f}–{high:.1f}", f"{row['images_per_second']:.1f}", share + limit
        )
    console.print(table)


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="further settings, such as trainer=cpu")] = None,
    turns: Annotated[int, typer.Option(min=1, help="counted batches of each way")] = 15,
    steps: Annotated[int, typer.Option(min=1, help="counted training steps")] = 5,
    size: Annotated[int, typer.Option(help="side of the images")] = 256,
    batch: Annotated[int, typer.Option(help="images a batch")] = 16,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Augmentation by itself: segstudy's default and strong, torchvision's, kornia's; and one training step of V1."""
    console = Console()
    cfg = compose_config([*SETTINGS, *(overrides or [])])
    facts = machine(cfg.trainer.accelerator, cfg.trainer.precision)
    chosen, precision, _ = choose_device(cfg.trainer.accelerator, cfg.trainer.precision)
    image, mask = (part.to(chosen) for part in scenes(batch, size))
    default = instantiate(cfg.data.augment)
    strong = instantiate(compose_config([*SETTINGS, *(overrides or []), "augment=strong"]).data.augment)
    ways: dict[str, Callable[[int], Any]] = {
        "segstudy, default": ours(default, image, mask),
        "segstudy, strong": ours(strong, image, mask),
        "torchvision v2, an image at a time": torchvisions(default, image, mask),
    }
    if importlib.util.find_spec("kornia"):
        ways["kornia, batched"] = kornias(default, image, mask)
    taken = {name: seconds(way, turns, image.device) for name, way in ways.items()}
    rows = summarise(taken, seconds(step(image, mask, precision), steps, image.device), batch)
    rows.setdefault("kornia, batched", {"note": "kornia is not installed"})
    show(rows, f"augmentation, batch {batch} at {size}×{size}", console)
    console.print(machine_line(facts), highlight=False)
    used = {"turns": turns, "steps": steps, "size": size, "batch": batch, "overrides": overrides or []}
    write_json(out, {"benchmark": "augmentation", "settings": used, "machine": facts, "rows": rows})


if __name__ == "__main__":
    use_fast_memory()
    typer.run(main)

"""Images per second of training: segstudy against the plain loop of a notebook, by turns in one process.

segstudy is a real fit: Lightning's Trainer with the project's callbacks, cached uint8 batches, batched augmentation,
the precision that choose_precision picks, channels_last, fused Adam. The plain loop trains the same network with the
same loss: PIL decodes and resizes each item, float32, contiguous NCHW, torch.optim.Adam; it does not even augment.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
import torch
import typer
from machine import machine, machine_line, write_json
from PIL import Image
from rich.console import Console
from rich.table import Table
from scenes_as_voc import voc_root_or_scenes
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from segstudy.allocator import use_fast_memory
from segstudy.build import build_data, build_module, build_network, build_trainer
from segstudy.config.compose import compose_config
from segstudy.console import silence_warnings
from segstudy.data.images import Sample
from segstudy.labels import IGNORE
from segstudy.networks.normalize import IMAGENET_MEAN, IMAGENET_STD

NETWORKS = {
    "v1": ("V1", ["model=v1"]),
    "resnet34": ("ResNet-34 U-Net", ["model=unet", "network=smp", "encoder=resnet34", "encoder.weights=null"]),
}
BARE = [  # a benchmark needs no pictures, checkpoints or progress lines; the other callbacks stay
    "~callbacks.pictures", "~callbacks.best", "~callbacks.last", "~callbacks.progress",
    "+trainer.enable_checkpointing=false",
    "+trainer.limit_val_batches=0",
]  # fmt: skip
OURS = "segstudy"


class PlainImages(Dataset):
    """What a notebook writes: open, resize, normalise, one image at a time.

    An item: image float32 (3,H,W), mask int64 (H,W).
    """

    def __init__(self, samples: list[Sample], size: tuple[int, int]):
        self.samples, self.size = samples, size
        self.transform = transforms.Compose(
            [transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        image = self.transform(Image.open(sample.image).convert("RGB"))
        mask = Image.open(sample.mask).resize(self.size[::-1], Image.Resampling.NEAREST)
        return image, torch.from_numpy(np.array(mask)).long()


class PlainLoop:
    """Network, loss and optimizer of the plain loop, and its training steps."""

    def __init__(self, network: nn.Module, images: PlainImages, batch_size: int, weight: Tensor, device: torch.device):
        self.network = network.to(device).to(memory_format=torch.contiguous_format).train()
        self.images, self.batch_size, self.device = images, batch_size, device
        self.loss = nn.CrossEntropyLoss(weight=weight.to(device), ignore_index=IGNORE)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def batches(self, workers: int) -> Iterator[list[Tensor]]:
        """Without end, so that workers are as busy in a round's last step as in its first."""
        sampler = RandomSampler(self.images, replacement=True, num_samples=10**9)
        return iter(DataLoader(self.images, self.batch_size, sampler=sampler, num_workers=workers))

    def round(self, workers: int, warmup: int, steps: int) -> float:
        """Images per second of `steps` steps, after `warmup` that are not counted."""
        batches = self.batches(workers)
        self.train(batches, warmup)
        began = now(self.device)
        self.train(batches, steps)
        return steps * self.batch_size / (now(self.device) - began)

    def train(self, batches: Iterator[list[Tensor]], steps: int) -> None:
        """`steps` training steps."""
        for _ in range(steps):
            image, mask = (part.to(self.device) for part in next(batches))
            self.optimizer.zero_grad()
            self.loss(self.network(image), mask).backward()
            self.optimizer.step()


class Rounds(L.Callback):
    """Times rounds of `steps` steps of the fit it is in, each after `warmup` steps that are not counted."""

    def __init__(self, warmup: int, steps: int):
        self.warmup, self.steps = warmup, steps
        self.done, self.began = 0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.done += 1
        if self.done == self.warmup:
            self.began = now(module.device)
        if self.done == self.warmup + self.steps:
            self.after_round(now(module.device) - self.began, module.device)
            self.done = 0

    def after_round(self, seconds: float, device: torch.device) -> None:
        """Keep a round's seconds, and let a rival have its turn."""
        raise NotImplementedError


class TakeTurns(Rounds):
    """Lets the plain loop have a round after each of segstudy's own fit."""

    def __init__(self, plain: PlainLoop, workers: list[int], warmup: int, steps: int):
        super().__init__(warmup, steps)
        self.plain, self.workers = plain, workers
        self.speeds: dict[str, list[float]] = {name: [] for name in (OURS, *map(plain_name, workers))}

    def after_round(self, seconds: float, device: torch.device) -> None:
        self.speeds[OURS].append(self.steps * self.plain.batch_size / seconds)
        for workers in self.workers:
            self.speeds[plain_name(workers)].append(self.plain.round(workers, self.warmup, self.steps))


def plain_name(workers: int) -> str:
    """The plain loop with so many loader processes, as tables and files call it."""
    return f"plain, workers={workers}"


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def measure(overrides: list[str], folder: Path, workers: list[int], rounds: int, warmup: int, steps: int) -> TakeTurns:
    """One network: fit it with segstudy and, by turns, with the plain loop."""
    cfg = compose_config([*overrides, *BARE, "trainer.max_epochs=-1", f"trainer.max_steps={rounds * (warmup + steps)}"])
    data = build_data(cfg)
    network, _ = build_network(cfg, len(data.classes))
    module = build_module(cfg, network, data)
    trainer, _ = build_trainer(cfg, folder)
    same, _ = build_network(cfg, len(data.classes))
    same.normalize = torch.nn.Identity()  # the plain loop's images are normalised by torchvision
    weight = torch.ones(len(data.classes))
    weight[0] = cfg.loss.background_weight
    images = PlainImages(data.roles["fit"].samples, data.size)
    turns = TakeTurns(
        PlainLoop(same, images, data.batch_size, weight, trainer.strategy.root_device), workers, warmup, steps
    )
    trainer.callbacks.append(turns)  # type: ignore[attr-defined]  # last, so that the others' time is segstudy's
    trainer.fit(module, data)
    return turns


def summarise(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and the ratio of segstudy to the faster plain loop: the median over the rounds, each with its own."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    rival = max((name for name in speeds if name != OURS), key=lambda name: medians[name])
    ratios = [ours / plain for ours, plain in zip(speeds[OURS], speeds[rival], strict=True)]
    return {
        "images_per_second": speeds,
        "median": medians,
        "compared_with": rival,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }


def show(results: dict[str, dict[str, Any]], console: Console) -> None:
    """The table; the ratio stands beside the plain loop that it refers to."""
    table = Table("network", "system", "images/s", "range", "segstudy is", title="training")
    for name, result in results.items():
        for system, values in result["images_per_second"].items():
            ratio = f"{result['ratio']:.2f}×" if system == result["compared_with"] else ""
            spread = f"{min(values):.1f}–{max(values):.1f}"
            table.add_row(name, system, f"{result['median'][system]:.1f}", spread, ratio)
        table.add_section()
    console.print(table)


def main(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="further settings, such as data.device_cache=true")
    ] = None,
    networks: Annotated[str, typer.Option(help="which: " + ", ".join(NETWORKS))] = ",".join(NETWORKS),
    rounds: Annotated[int, typer.Option(help="turns of each system")] = 5,
    steps: Annotated[int, typer.Option(help="counted steps a round")] = 5,
    warmup: Annotated[int, typer.Option(min=1, help="steps before each round that are not counted")] = 1,
    size: Annotated[int, typer.Option(help="side of the images")] = 256,
    batch: Annotated[int, typer.Option(help="images a step")] = 16,
    workers: Annotated[
        str, typer.Option(help="loader processes of the plain loop; the faster is compared with")
    ] = "0,2",
    root: Annotated[Path | None, typer.Option(help="a VOC folder; without it: generated scenes, 500×375")] = None,
    images: Annotated[int, typer.Option(help="how many generated scenes")] = 64,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Images per second of segstudy and of a plain training loop, by turns."""
    silence_warnings()
    console = Console()
    facts = machine()
    settings = {"rounds": rounds, "steps": steps, "warmup": warmup, "size": size, "batch": batch}
    processes = [int(w) for w in workers.split(",")]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        home = voc_root_or_scenes(root, folder / "photos", max(images, batch))
        data = ["data=voc", f"data.root='{home}'", "data.val=train", f"data.cache_dir='{folder / 'cache'}'"]
        data += [f"data.size={size}", f"data.batch_size={batch}", *(overrides or [])]
        for name in networks.split(","):
            title, parts = NETWORKS[name]
            console.print(f"{title}: {rounds} rounds of {warmup} + {steps} steps for each system", highlight=False)
            results[title] = summarise(measure([*parts, *data], folder / name, processes, rounds, warmup, steps).speeds)
    show(results, console)
    console.print(machine_line(facts), highlight=False)
    used = {"data": "a VOC folder" if root else "generated scenes", "overrides": overrides or []}
    write_json(out, {"benchmark": "training", "settings": settings | used, "machine": facts, "networks": results})


if __name__ == "__main__":
    use_fast_memory()
    typer.run(main)

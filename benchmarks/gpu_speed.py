"""Training images per second on a GPU: a real fit and the network alone on random tensors, by turns in one process.

`prepare` writes the caches, `measure` the figures: JSON after every case, so that a cut loses only the last.
A step of our own `make gpu-day`; each can be run by itself.
"""

import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
import typer
from augmentation import kornia_augmentation, voc_augmentation
from machine import machine, write_json
from scenes_as_voc import write_voc
from torch.profiler import ProfilerActivity, profile
from training import BARE, Rounds, now

from segstudy.build import build_data, build_module, build_network, build_trainer
from segstudy.config.compose import compose_config
from segstudy.console import silence_warnings

app = typer.Typer(help=__doc__, add_completion=False)

NETWORKS = {
    "V1": ["model=v1"],
    "V4": ["model=v4", "encoder.weights=null"],
    "ResNet-34 U-Net": ["model=unet", "network=smp", "encoder=resnet34", "encoder.weights=null"],
    "UPerNet": ["model=strong", "encoder=resnet50", "encoder.weights=null", "network.auxiliary=null"],
    "ade_unet": ["model=ade_unet"],
}


@dataclass(frozen=True)
class Case:
    """One measurement: a network at a size, and what is switched on."""

    network: str
    size: int = 256
    batch: int = 16
    device_cache: bool = True
    compile: bool = False
    augment: str = "segstudy"
    photos: str = ""
    """WIDTHxHEIGHT of generated scenes, of which windows are trained on; without it: the packed photos, squashed."""
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        switched = [
            "" if self.device_cache else "no device_cache", "compile" if self.compile else "",
            "" if self.augment == "segstudy" else self.augment, f"windows of {self.photos}" if self.photos else "",
        ]  # fmt: skip
        return " ".join([f"{self.network} {self.size}² batch {self.batch}", *(s for s in switched if s)])


CASES = (  # in the order of their worth: time may end anywhere
    Case("ResNet-34 U-Net", batch=64), Case("V1"), Case("V4"), Case("ResNet-34 U-Net"), Case("UPerNet"),
    Case("V1", device_cache=False), Case("ResNet-34 U-Net", batch=64, device_cache=False),
    Case("ResNet-34 U-Net", batch=64, augment="kornia"), Case("ResNet-34 U-Net", batch=64, augment="none"),
    Case("ade_unet"),
    Case("V1", size=512), Case("ResNet-34 U-Net", size=512), Case("V4", size=512), Case("UPerNet", size=512),
    Case("ResNet-34 U-Net", batch=64, compile=True), Case("V1", compile=True), Case("V4", compile=True),
)  # fmt: skip
WINDOWS = (
    Case("ResNet-34 U-Net", 512, photos="500x375"), Case("ResNet-34 U-Net", 512, photos="2000x1500"),
    Case("V1", 512, photos="500x375"), Case("ResNet-34 U-Net", 512, photos="500x375", device_cache=False),
    Case("ResNet-34 U-Net", 512, photos="2000x1500", device_cache=False),
)  # fmt: skip
NARROW = ("encoder.widths=[4,4,4]", "decoder.widths=[4,4]")
TINY = {
    "speed": tuple(Case("V1", 32, 4, device_cache=cached, changes=NARROW) for cached in (True, False)),
    "windows": (Case("V1", 32, 4, photos="80x60", changes=NARROW),),
}


class AloneByTurns(Rounds):
    """After each round of the fit, as many steps of the network alone.

    alone: one step of the same network on random tensors that lie on the device.
    """

    def __init__(self, alone: Callable[[], None], warmup: int, steps: int):
        super().__init__(warmup, steps)
        self.alone = alone
        self.fit_seconds: list[float] = []
        self.alone_seconds: list[float] = []

    def after_round(self, seconds: float, device: torch.device) -> None:
        self.fit_seconds.append(seconds)
        for _ in range(self.warmup):
            self.alone()
        began = now(device)
        for _ in range(self.steps):
            self.alone()
        self.alone_seconds.append(now(device) - began)


class ProfileSteps(L.Callback):
    """Profiles `steps` steps of a fit: how long the device is busy, and where the host waits for it."""

    def __init__(self, after: int, steps: int):
        self.after, self.steps, self.seen = after, steps, 0
        self.figures: dict[str, Any] = {}
        self.waits_at: set[str] = set()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.seen += 1
        if module.device.type == "cuda" and self.seen in (self.after - 2, self.after - 1):
            self._name_waits(self.seen == self.after - 2)
        if self.seen == self.after:
            now(module.device)
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (module.device.type == "cuda")
            self.profile = profile(activities=activities)
            self.profile.start()
            self.began = time.perf_counter()
        if self.seen == self.after + self.steps:
            queued = time.perf_counter() - self.began
            seconds = now(module.device) - self.began
            self.profile.stop()
            self.figures = self.summary(seconds, queued)

    def _name_waits(self, begin: bool) -> None:
        """For one step, PyTorch warns wherever the host waits for the device: the lines, for `waits_at`."""
        if begin:
            self.caught = warnings.catch_warnings(record=True)
            self.warned = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        else:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            for warning in self.warned or []:
                if "synchroniz" in str(warning.message):
                    self.waits_at.add(f"{'/'.join(Path(warning.filename).parts[-3:])}:{warning.lineno}")

    def summary(self, seconds: float, queued: float) -> dict[str, Any]:
        """Milliseconds a step, the device's busy share, and calls at which the host waits, a step."""
        events = self.profile.events() or []
        ranges = {e.name for e in events if e.device_type == torch.autograd.DeviceType.CPU}  # also shown on the device
        work = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA and e.name not in ranges]
        busy = covered([(e.time_range.start, e.time_range.end) for e in work]) / 1e6
        waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
        counts = {name: sum(e.name == name for e in events) / self.steps for name in waits}
        spent: dict[str, float] = {}
        for event in work:
            spent[event.name[:80]] = spent.get(event.name[:80], 0) + event.time_range.elapsed_us() / 1000 / self.steps
        return {
            "ms_per_step": 1000 * seconds / self.steps,
            "ms_per_step_until_queued": 1000 * queued / self.steps,
            "device_busy": busy / seconds,
            "kernels_per_step": len(work) / self.steps,
            "waits_per_step": {name: n for name, n in counts.items() if n},
            "waits_at": sorted(self.waits_at),
            "longest": [[k, round(ms, 3)] for k, ms in sorted(spent.items(), key=lambda item: -item[1])[:15]],
        }


def covered(ranges: list[tuple[float, float]]) -> float:
    """The length of the union of ranges."""
    total, end = 0.0, -math.inf
    for low, high in sorted(ranges):
        total += max(0.0, high - max(low, end))
        end = max(end, high)
    return total


def data_of(case: Case, root: Path) -> list[str]:
    """VOC's photos; for `ade_unet` those of ADE20K's stand-in with its 150 classes, drawn again and again."""
    if case.photos:
        width, height = map(int, case.photos.split("x"))
        scenes = root / f"scenes_{case.photos}"
        if not scenes.is_dir():
            write_voc(scenes, (20 if width < 1000 else 10) * case.batch, height, width)
        return ["data=voc", f"data.root='{scenes}'", "data.fit=crop"]
    if case.network == "ade_unet":
        return ["data=ade20k", f"data.root='{root / 'ade20k_standin'}'"]
    return ["data=voc", f"data.root='{root}'"]


def settings(case: Case, root: Path, cache: Path) -> list[str]:
    """The case as overrides of the config."""
    found = [
        *NETWORKS[case.network], *case.changes, *data_of(case, root), f"data.size={case.size}",
        f"data.batch_size={case.batch}", f"data.device_cache={str(case.device_cache).lower()}",
        f"data.cache_dir='{cache}'", *BARE, "trainer.max_epochs=-1",
    ]  # fmt: skip
    return [*found, *([] if case.augment == "segstudy" else ["data.augment=null"])]


def measured(
    case: Case, root: Path, cache: Path, turns: int, warmup: int, steps: int, profiler: ProfileSteps | None = None
) -> dict[str, Any]:
    """The figures of one case: its speed beside the network alone, or, with a profiler, what that found."""
    cfg = compose_config([*settings(case, root, cache), f"trainer.max_steps={turns * (warmup + steps)}"])
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    data = build_data(cfg)
    network, _ = build_network(cfg, len(data.classes))
    if case.compile:
        network.compile()
    module = build_module(cfg, network, data)
    if case.augment == "kornia":
        change, prepare = kornia_augmentation(voc_augmentation()), data.on_after_batch_transfer

        def after(batch: Any, index: int) -> Any:
            batch = prepare(batch, index)
            image, mask = change(batch["image"], batch["mask"][:, None].float())
            batch["image"], batch["mask"] = image.to(memory_format=torch.channels_last), mask[:, 0].long()
            return batch

        data.on_after_batch_transfer = after  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        trainer, device = build_trainer(cfg, Path(folder))
        clock = AloneByTurns(step_alone(module, case, trainer), warmup, steps)
        trainer.callbacks.append(profiler or clock)  # type: ignore[attr-defined]
        trainer.fit(module, data)
    found: dict[str, Any] = {"case": case.name, "device": device}
    if profiler is not None:
        return found | profiler.figures
    fit, alone = clock.fit_seconds, clock.alone_seconds
    ratios = [a / f for a, f in zip(alone, fit, strict=True)]
    images = case.batch * steps
    return found | {
        "images_per_second": images / statistics.median(fit),
        "images_per_second_alone": images / statistics.median(alone),
        "share_of_alone": statistics.median(ratios),
        "shares": ratios,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }


def step_alone(module: L.LightningModule, case: Case, trainer: L.Trainer) -> Callable[[], None]:
    """A training step on random tensors of the same shape, with the same optimizer, loss and precision."""
    made: dict[str, Any] = {}

    def step() -> None:
        if not made:
            shape = (case.batch, 3, case.size, case.size)
            made["image"] = torch.rand(shape, device=module.device).to(memory_format=torch.channels_last)
            classes = len(module.classes)
            made["mask"] = torch.randint(0, classes, (case.batch, *shape[2:]), device=module.device)
            made["optimizer"] = torch.optim.Adam(module.parameters(), lr=1e-5, fused=True)
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(trainer.precision))
        with torch.autocast(module.device.type, half) if half else nullcontext():
            loss = module.loss(module(made["image"]), made["mask"])
        made["optimizer"].zero_grad()
        loss.backward()
        made["optimizer"].step()

    return step


@app.command()
def prepare(
    root: Annotated[Path, typer.Argument(help="holds VOCdevkit")],
    cache: Annotated[Path, typer.Option()],
    sizes: Annotated[str, typer.Option(help="sides, such as 256,512")] = "256",
) -> None:
    """Write the caches of VOC's training list, so that the first case does not wait for them."""
    for size in sizes.split(","):
        began = time.perf_counter()
        data = build_data(compose_config([
            "data=voc", f"data.root='{root}'", f"data.size={size}", f"data.cache_dir='{cache}'", "data.batch_size=1",
        ]))  # fmt: skip
        print(f"{size}²: {len(data.roles['fit'])} images in {time.perf_counter() - began:.1f} s", flush=True)


@app.command()
def measure(
    root: Annotated[Path, typer.Argument(help="holds VOCdevkit")],
    cache: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option(help="JSON file")],
    which: Annotated[str, typer.Option("--cases", help="speed, or windows: of large photos")] = "speed",
    seconds: Annotated[float, typer.Option(help="begin no case after so many")] = 110,
    turns: Annotated[int, typer.Option()] = 3,
    warmup: Annotated[int, typer.Option()] = 5,
    steps: Annotated[int, typer.Option()] = 20,
    tiny: Annotated[bool, typer.Option(help="two small cases: does it run?")] = False,
) -> None:
    """Time every case while there is time, and profile one."""
    silence_warnings()
    began = time.monotonic()
    if tiny:
        turns, warmup, steps = 1, 1, 2
    rows: list[dict[str, Any]] = []
    document: dict[str, Any] = {"step": which, "machine": machine(), "rows": rows, "steps": steps, "turns": turns}
    for number, case in enumerate(TINY[which] if tiny else {"speed": CASES, "windows": WINDOWS}[which]):
        if time.monotonic() - began > seconds:
            rows.append({"case": case.name, "error": "no time was left"})
            continue
        try:
            rows.append(measured(case, root, cache, turns, warmup, steps))
        except Exception as error:  # out of memory, kornia missing: the others still count
            rows.append({"case": case.name, "error": f"{type(error).__name__}: {error}"[:300]})
        print(json.dumps(rows[-1]), flush=True)
        if number == 0 and which == "speed":
            document["profile"] = measured(case, root, cache, 1, warmup, steps, ProfileSteps(warmup, min(10, steps)))
        write_json(out, document)


if __name__ == "__main__":
    app()

"""Images per second of predicting photos end to end, beside the network alone, by turns in one process; latencies.

End to end is what `segstudy predict` does: find, decode, resize, the network, labels in the photo's own size, indexed
PNGs and the table. The network alone gets random tensors of the same batches. Then the network in several forms, each
in its turn: float32 and bf16, channels_last and not, and the files of `segstudy export`.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from machine import machine, machine_line, write_json
from PIL import Image
from rich.table import Table
from training import NETWORKS, now

from segstudy.allocator import use_fast_memory
from segstudy.build import build_network
from segstudy.config.compose import compose_config
from segstudy.console import console, silence_warnings
from segstudy.data.datasets.scenes import draw_scene
from segstudy.data.fit import Fit
from segstudy.inference.export import FORMATS, READERS, WRITERS, export
from segstudy.inference.loading import LoadedRun
from segstudy.inference.model import Model, load
from segstudy.inference.predict import PredictionTask
from segstudy.inference.predictions import predict_all
from segstudy.labels import voc_palette
from segstudy.tiles import tiles_per_batch

Form = Callable[[np.ndarray], Any]
"""A network that takes float32 (B,3,H,W)."""


def untrained(name: str, size: int, device: str) -> Model:
    """A network with random weights for VOC's 21 classes, as a run's model."""
    cfg = compose_config([*NETWORKS[name][1], f"data.size={size}"])
    classes, palette = [str(c) for c in range(21)], [list(map(int, rgb)) for rgb in voc_palette(21)]
    record = {"class_names": classes, "palette": palette, "data": {"background": 0}}
    return Model(LoadedRun(name, Path(name), build_network(cfg, 21)[0], record, cfg), device)


def photos(folder: Path, count: int) -> Path:
    """JPEGs of generated scenes, 500×375 as VOC's photos."""
    folder.mkdir()
    for i in range(count):
        image, _ = draw_scene(np.random.default_rng(i), 375, 500)
        Image.fromarray(image).save(folder / f"{i:04d}.jpg", quality=95)
    return folder


def end_to_end(model: Model, folder: Path, place: Path, task: PredictionTask) -> float:
    """Images per second of `segstudy predict FOLDER`, once the network is loaded."""
    with tempfile.TemporaryDirectory(dir=place) as out:
        began = now(model.device)
        console.quiet = True
        predict_all(model, task, [str(folder)], Path(out))
        console.quiet = False
        return len(list(folder.iterdir())) / (now(model.device) - began)


@torch.inference_mode()
def alone(model: Model, images: int, batch: int) -> float:
    """Images per second of the network on random tensors that lie on its device."""
    tensors = torch.rand(batch, 3, *model.fit.size, device=model.device).to(memory_format=torch.channels_last)
    began = now(model.device)
    for _ in range(images // batch):
        with model.autocast():
            model.network(tensors)
    return images // batch * batch / (now(model.device) - began)


def forms(model: Model, folder: Path) -> dict[str, Form]:
    """The network in the forms that can be had here, by name."""
    half = {"cuda": torch.float16, "mps": None}.get(model.device.type)
    if "bf16" in model.precision or model.device.type == "cpu":
        half = torch.bfloat16 if "bf16" in model.precision else None
    found: dict[str, Form] = {}
    for name, dtype in (("float32", None), ("bf16" if half is torch.bfloat16 else "float16", half)):
        for layout in (torch.contiguous_format, torch.channels_last):
            if name == "float32" or dtype is not None:
                say = f"PyTorch, {name}" + (", channels_last" if layout is torch.channels_last else "")
                found[say] = in_pytorch(model, dtype, layout)
    return found | in_files(model, folder)


def in_files(model: Model, folder: Path) -> dict[str, Form]:
    """The network as other programs run it, on the CPU: each file of `segstudy export` that holds a network."""
    if model.device.type != "cpu":
        return {}
    found: dict[str, Form] = {}
    for kind in WRITERS:
        run = READERS[kind](export(model, kind, folder / f"network{FORMATS[kind]}").path, model)
        found[f"{kind}, float32"] = lambda image, run=run: run(torch.from_numpy(image))  # type: ignore[misc]
    return found


def in_pytorch(model: Model, dtype: torch.dtype | None, layout: torch.memory_format) -> Form:
    """The network under autocast to `dtype`, its images in `layout`."""

    @torch.inference_mode()
    def run(image: np.ndarray) -> Any:
        tensor = torch.from_numpy(image).to(model.device).to(memory_format=layout)
        with torch.autocast(model.device.type, dtype) if dtype else nullcontext():
            return model.network(tensor).cpu()

    return run


def in_turns(found: dict[str, Form], size: tuple[int, int], batch: int, rounds: int, images: int) -> dict[str, Any]:
    """For each form: images per second of batches by round, and the milliseconds of single images."""
    results: dict[str, Any] = {name: {"images_per_second": [], "milliseconds": []} for name in found}
    many, one = (np.random.default_rng(0).random((n, 3, *size), np.float32) for n in (batch, 1))
    for turn in range(rounds + 1):
        for name, run in found.items():
            began = time.perf_counter()
            for _ in range(max(1, images // batch)):
                run(many)
            speed = max(1, images // batch) * batch / (time.perf_counter() - began)
            single = []
            for _ in range(images):
                began = time.perf_counter()
                run(one)
                single.append(1000 * (time.perf_counter() - began))
            if turn:  # the first warms up
                results[name]["images_per_second"].append(speed)
                results[name]["milliseconds"] += single
    return results


def show(paired: dict[str, list[float]], results: dict[str, Any], title: str) -> float:
    """Print both tables; the median over the rounds of end to end's share of the network alone."""
    share = statistics.median(a / b for a, b in zip(*paired.values(), strict=True))
    table = Table("", "images/s", "range", "of the network alone", title=title)
    for i, (name, values) in enumerate(paired.items()):
        spread = f"{min(values):.1f}–{max(values):.1f}"
        table.add_row(name, f"{statistics.median(values):.1f}", spread, "" if i else f"{share:.0%}")
    console.print(table)
    table = Table("network alone", "images/s", "range", "batch 1: p50", "p95", "p99", title=f"{title}: forms")
    for name, result in results.items():
        values, single = result["images_per_second"], result["milliseconds"]
        spread = f"{min(values):.1f}–{max(values):.1f}"
        quantiles = (f"{value:.1f} ms" for value in np.percentile(single, (50, 95, 99)))
        table.add_row(name, f"{statistics.median(values):.1f}", spread, *quantiles)
    if results:
        console.print(table)
    return share


def main(
    run: Annotated[Path | None, typer.Option(help="a run's folder; without it: untrained networks")] = None,
    networks: Annotated[str, typer.Option(help="untrained ones: " + ", ".join(NETWORKS))] = "v1,resnet34",
    size: Annotated[int | None, typer.Option(help="side of its images; the run's own, 256 of untrained ones")] = None,
    images: Annotated[int, typer.Option(help="photos, and so images of a round")] = 128,
    batch: Annotated[int | None, typer.Option(help="images at a time; as many as `segstudy predict` takes")] = None,
    rounds: Annotated[int, typer.Option(help="turns of each")] = 5,
    root: Annotated[Path | None, typer.Option(help="a folder of photos; without it: generated scenes, 500×375")] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="also write overlays")] = False,
    others: Annotated[bool, typer.Option(help="also measure the forms of the network")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Speed of predicting, end to end and of the network alone."""
    silence_warnings()
    facts = machine()
    measured: dict[str, Any] = {}
    models = [load(run, device)] if run else [untrained(name, size or 256, device) for name in networks.split(",")]
    for model in models:
        model.fit = Fit((size, size)) if size else model.fit
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        home = root or photos(place / "photos", images)
        task = PredictionTask(batch=batch, alpha=0.5 if overlay else None)
        for model in models:
            at_a_time = batch or tiles_per_batch(model.fit.size[0] * model.fit.size[1], model.device)
            paired: dict[str, list[float]] = {"predict, end to end": [], "network alone, random tensors": []}
            for turn in range(rounds + 1):
                speeds = end_to_end(model, home, place, task), alone(model, images, at_a_time)
                for values, speed in zip(paired.values(), speeds, strict=True):
                    values += [speed] if turn else []  # the first warms up
            found = forms(model, place) if others else {}
            results = in_turns(found, model.fit.size, at_a_time, rounds, images)
            title = f"{model.name}, {'×'.join(map(str, model.fit.size))}, batches of {at_a_time}"
            share = show(paired, results, title)
            measured[model.name] = {"batch": at_a_time, "end_to_end": paired, "share": share, "forms": results}
    console.print(machine_line(facts), highlight=False)
    settings = {"size": size, "images": images, "batch": batch, "rounds": rounds, "overlay": overlay}
    data = "a folder of photos" if root else "generated scenes"
    write_json(out, {"benchmark": "inference", "settings": settings | {"data": data}, "machine": facts} | measured)


if __name__ == "__main__":
    use_fast_memory()
    typer.run(main)

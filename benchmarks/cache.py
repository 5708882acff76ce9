"""Images per second of writing the cache, beside the decoder alone, and the seconds of opening it again."""

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from machine import machine, machine_line, write_json
from PIL import Image
from rich.console import Console
from rich.table import Table
from scenes_as_voc import voc_root_or_scenes

from segstudy.build import build_data
from segstudy.config.compose import compose_config
from segstudy.data.images import Sample


def write_speed(home: Path, size: int, cache: Path) -> tuple[int, float, float]:
    """(images, seconds of writing the cache of train, seconds of opening it again)."""
    settings = ["data=voc", f"data.root='{home}'", "data.val=train", f"data.size={size}", f"data.cache_dir='{cache}'"]
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        data = build_data(compose_config(settings))
        seconds.append(time.perf_counter() - began)
    return len(data.roles["fit"]), seconds[0], seconds[1]


def decode_speed(samples: list[Sample]) -> float:
    """Seconds in which Pillow decodes all images and masks on all cores and does nothing else."""

    def decode(sample: Sample) -> int:
        return sum(np.asarray(Image.open(path)).size for path in (sample.image, sample.mask) if path)

    began = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, samples))
    return time.perf_counter() - began


def main(
    size: Annotated[int, typer.Option(help="side of the images in the cache")] = 256,
    rounds: Annotated[int, typer.Option(help="how often each is measured, by turns")] = 3,
    images: Annotated[int, typer.Option(help="how many generated scenes")] = 600,
    root: Annotated[Path | None, typer.Option(help="a VOC folder; without it: generated scenes, 500×375")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Speed of the cache: decoding once, with both cores."""
    console, facts = Console(), machine()
    speeds: dict[str, list[float]] = {"write the cache": [], "Pillow decodes, nothing else": []}
    opened = []
    with tempfile.TemporaryDirectory() as temporary:
        home = voc_root_or_scenes(root, Path(temporary) / "photos", images)
        lister = build_data(compose_config(["data=voc", f"data.root='{home}'", "data.val=train", "data.size=16",
                                            f"data.cache_dir='{temporary}/small'"]))  # fmt: skip
        samples = lister.roles["fit"].samples
        for i in range(rounds):
            count, seconds, again = write_speed(home, size, Path(temporary) / f"cache{i}")
            speeds["write the cache"].append(count / seconds)
            speeds["Pillow decodes, nothing else"].append(count / decode_speed(samples))
            opened.append(again)
    table = Table("what", "images/s", "range", title=f"{count} images to {size}×{size}")
    for name, values in speeds.items():
        table.add_row(name, f"{statistics.median(values):.0f}", f"{min(values):.0f}–{max(values):.0f}")
    console.print(table)
    console.print(f"opening it again: {statistics.median(opened):.2f} s")
    console.print(machine_line(facts), highlight=False)
    figures: dict[str, Any] = {"images": count, "size": size, "images_per_second": speeds, "open_seconds": opened}
    write_json(out, {"benchmark": "cache", "machine": facts, "data": "a VOC folder" if root else "scenes"} | figures)


if __name__ == "__main__":
    typer.run(main)

"""A large data set: the cache's size, how long it takes to build and to open, and the memory of the open data set.

Writes files with generated scenes (links to a few of them), builds the cache and opens it in fresh processes, and
extrapolates to --extrapolate images. The stored images are reduced to --max-side, since the time to open a cache does
not depend on its size.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from machine import machine, machine_line, write_json
from rich.console import Console
from rich.table import Table
from scenes_as_voc import write_voc

OPEN = """
import json, resource, sys, time
from segstudy.data.datasets.voc import VOC

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize()

before, began = resident(), time.perf_counter()
root, cache_dir, max_side, cache = sys.argv[1:]
data = VOC(root, fit="crop", size=512, max_side=int(max_side), cache_dir=cache_dir, cache=cache == "1")
data.setup()
seconds = time.perf_counter() - began
next(iter(data.train_dataloader()))
print(json.dumps({"seconds": seconds, "bytes": resident() - before}))
"""


def opened(root: Path, cache: Path, max_side: int, stored: bool) -> dict[str, float]:
    """Seconds to set up the data set in a fresh process, and the memory that it then takes."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(root), str(cache), str(max_side), "1" if stored else "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main(
    images: Annotated[int, typer.Option(min=100, help="files in each of the two lists")] = 10_000,
    side: Annotated[int, typer.Option(help="side of the files' images")] = 1024,
    max_side: Annotated[int, typer.Option(help="data.max_side")] = 128,
    extrapolate: Annotated[int, typer.Option(help="images to extrapolate to")] = 100_000,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Start-up and memory with many images, with a cache and without."""
    console, facts = Console(), machine()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root, cache = write_voc(Path(temporary) / "photos", images, side, side), Path(temporary) / "cache"
        for stored in (True, False):
            name = "data.cache=true" if stored else "data.cache=false"
            first, second = opened(root, cache, max_side, stored), opened(root, cache, max_side, stored)
            figures[name] = {"build": first["seconds"], "open": second["seconds"], "bytes": second["bytes"]}
    table = Table("", f"{images:,} images", f"{extrapolate:,} (extrapolated)", title=f"images of {side}×{side}")
    factor = extrapolate / images
    for name, found in figures.items():
        for what, words in (("build", "first start"), ("open", "later starts")):
            table.add_row(f"{name}: {words}", f"{found[what]:.1f} s", f"{factor * found[what]:.0f} s")
        table.add_row(f"{name}: memory", f"{found['bytes'] / 2**20:.0f} MiB", "")
    table.add_row(
        "cache at full size", f"{images * side**2 * 4 / 2**30:.0f} GiB", f"{extrapolate * side**2 * 4 / 2**30:.0f} GiB"
    )
    console.print(table)
    console.print(machine_line(facts), highlight=False)
    settings = {"images": images, "side": side, "max_side": max_side}
    write_json(out, {"benchmark": "scale", "settings": settings, "machine": facts, "figures": figures})


if __name__ == "__main__":
    typer.run(main)

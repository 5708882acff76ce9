"""What the benchmarks share: a VOC folder of generated scenes, and the line that says where they ran."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segstudy.data.datasets.scenes import draw_scene
from segstudy.labels import voc_palette
from segstudy.precision import choose_device, cpu_flags
from segstudy.runs.record import environment

FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2")


def write_voc(root: Path, images: int, height: int = 375, width: int = 500) -> Path:
    """A VOCdevkit in `root` with generated scenes of VOC's usual size; the lists train and val name the same images."""
    home = root / "VOCdevkit" / "VOC2012"
    lists = home / "ImageSets" / "Segmentation"
    for folder in (home / "JPEGImages", home / "SegmentationClass", lists):
        folder.mkdir(parents=True)
    names = [f"2012_{i:06d}" for i in range(images)]
    for i, name in enumerate(names):
        image, mask = draw_scene(np.random.default_rng(i), height, width)
        # 95 gives about 90 kB a file; VOC's own have about 110 kB.
        Image.fromarray(image).save(home / "JPEGImages" / f"{name}.jpg", quality=95)
        labels = Image.fromarray(mask, mode="P")
        labels.putpalette([value for rgb in voc_palette(256) for value in rgb])
        labels.save(home / "SegmentationClass" / f"{name}.png")
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def voc_root_or_scenes(root: Path | None, folder: Path, images: int) -> Path:
    """The folder that the user named, or one with generated scenes."""
    return root.expanduser().resolve() if root is not None else write_voc(folder, images)


def machine(accelerator: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """What the figures depend on besides the code; `load` is the machine's load before the benchmark began."""
    device, chosen, reason = choose_device(accelerator, precision)
    around = environment()
    found = cpu_flags()
    return {
        "cpu": around["machine"]["cpu"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in found],
        "isa_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "precision": chosen,
        "reason": reason,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "git": around["git"],
        "versions": around["versions"],
        "date": around["started"],
    }


def machine_line(facts: dict[str, Any]) -> str:
    """The machine in one line, under a table."""
    gpu = f"{facts['gpu']}, " if facts["gpu"] else ""
    limit = f", ONEDNN_MAX_CPU_ISA={facts['isa_limit']}" if facts["isa_limit"] else ""
    return (
        f"{gpu}{facts['cpu']}, {facts['cores']} cores, flags {' '.join(facts['flags']) or 'none'}{limit}; "
        f"precision {facts['precision']} ({facts['reason']}); torch {facts['versions']['torch']}; "
        f"load before: {facts['load']}"
    )


def write_json(path: Path | None, values: dict[str, Any]) -> None:
    """Write the figures, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(values, indent=1) + "\n")

"""The machine a benchmark ran on, in one line and as JSON beside its figures."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from segstudy.precision import choose_device, cpu_flags
from segstudy.runs.record import environment

FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2")


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

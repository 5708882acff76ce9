"""A trained network's speed on this machine: for one image, and for the fastest batch."""

import math
import os
import time
from dataclasses import dataclass

import numpy as np
import torch

from segstudy.inference.model import Model

PASSES = 10, 100
"""Fewest and most timed passes of one image."""
BATCHES = (2, 4, 8, 16, 32, 64, 128, 256)
CPU_PIXELS = 64 * 256**2
"""Most pixels in a batch on a CPU, where the system kills the process when memory is full, without an error."""
FASTER = 1.05
"""The batch is doubled while images per second grow by at least this factor."""


@dataclass(frozen=True)
class Latency:
    """Speed of the network alone, with image and labels in the device's memory. p50, p95: seconds for one image.

    batch: the fastest one, with its images_per_second. load: load average of the machine before, in busy cores.
    """

    device: str
    precision: str
    threads: int
    p50: float
    p95: float
    batch: int
    images_per_second: float
    load: float


def measure_latency(model: Model, seconds: float = 3.0) -> Latency:
    """Measure the speed on the model's device, in its precision, for images of its training size.

    seconds: duration of the passes with one image; each larger batch takes a third of it.
    """
    load = os.getloadavg()[0]
    for _ in range(3):  # a GPU's library chooses its algorithms in the first passes
        _pass(model, 1)
    times = _times(model, 1, seconds, *PASSES)
    p50, p95 = (float(np.percentile(times, p)) for p in (50, 95))
    batch, speed = 1, 1 / p50
    for larger in BATCHES:
        if model.device.type == "cpu" and larger * math.prod(model.fit.size) > CPU_PIXELS:
            break
        try:
            _pass(model, larger)
            found = larger / float(np.median(_times(model, larger, seconds / 3, 3, 50)))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if found < speed * FASTER:
            break
        batch, speed = larger, found
    name = torch.cuda.get_device_name() if model.device.type == "cuda" else model.device.type.upper()
    return Latency(name, model.precision, torch.get_num_threads(), p50, p95, batch, speed, load)


def _times(model: Model, batch: int, seconds: float, fewest: int, most: int) -> list[float]:
    times: list[float] = []
    while len(times) < most and (len(times) < fewest or sum(times) < seconds):
        times.append(_pass(model, batch))
    return times


@torch.inference_mode()
def _pass(model: Model, batch: int) -> float:
    """Seconds of one pass from image to labels, until the device has finished."""
    image = torch.rand(batch, model.bands.number, *model.fit.size, device=model.device)
    image = image.to(memory_format=torch.channels_last)
    began = _now(model.device)
    with model.autocast():
        model.network(image).argmax(1)
    return _now(model.device) - began


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()

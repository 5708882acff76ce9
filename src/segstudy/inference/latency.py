"""How fast a trained network is on this machine: one image at a time, and at the batch that suits it best."""

import math
import os
import time
from dataclasses import dataclass

import numpy as np
import torch

from segstudy.inference.model import Model

PASSES, SECONDS = (10, 100), 3.0
"""Fewest and most timed passes of one image, and after how long the fewest are enough."""
BATCHES = (2, 4, 8, 16, 32, 64, 128, 256)
BATCH_SECONDS = 1.0
LONGEST = 4.0
"""Seconds of one pass from which on no larger batch is tried."""
CPU_PIXELS = 64 * 256**2
"""Of a batch on a CPU, where nothing says that memory is full before the system ends the process."""
FLAT = 1.05
"""The search ends after two batches, each twice the last, that are not faster by this factor than the best before."""


@dataclass(frozen=True)
class Latency:
    """Of the network alone, image and labels in the device's memory. p50, p95: seconds of one image.

    batch: the one with most images a second. load: other programs' share of the machine before, in busy cores.
    """

    device: str
    precision: str
    size: tuple[int, int]
    threads: int
    p50: float
    p95: float
    batch: int
    images_per_second: float
    load: float


def measure_latency(model: Model, seconds: float = SECONDS) -> Latency:
    """Measured now, on the model's device in its precision, at the size that it was trained at."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    for _ in range(3):  # a GPU's library chooses its algorithms in the first passes
        _pass(model, 1)
    times = _times(model, 1, seconds, *PASSES)
    batch, speed = _best_batch(model, 1 / float(np.median(times)), min(seconds, BATCH_SECONDS))
    name = torch.cuda.get_device_name() if model.device.type == "cuda" else model.device.type.upper()
    p50, p95 = (float(np.percentile(times, p)) for p in (50, 95))
    return Latency(name, model.precision, model.size, torch.get_num_threads(), p50, p95, batch, speed, load)


def _best_batch(model: Model, speed: float, seconds: float) -> tuple[int, float]:
    """The batch with most images a second and these, from `speed` at a batch of one on."""
    batch, flat = 1, 0
    for wanted in BATCHES:
        if model.device.type == "cpu" and wanted * model.size[0] * model.size[1] > CPU_PIXELS:
            break
        try:
            first = _pass(model, wanted)
            found = wanted / float(np.median(_times(model, wanted, seconds, 3, 50)))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        flat = 0 if found > speed * FLAT else flat + 1
        if found > speed:
            batch, speed = wanted, found
        if flat == 2 or 2 * first > LONGEST:
            break
    return batch, speed


def _times(model: Model, batch: int, seconds: float, fewest: int, most: int) -> list[float]:
    times: list[float] = []
    while len(times) < most and (len(times) < fewest or math.fsum(times) < seconds):
        times.append(_pass(model, batch))
    return times


@torch.inference_mode()
def _pass(model: Model, batch: int) -> float:
    """Seconds of one pass from image to labels, with all that the device still had to do."""
    image = torch.rand(batch, 3, *model.size, device=model.device).to(memory_format=torch.channels_last)
    _wait(model.device)
    began = time.perf_counter()
    with model.autocast():
        model.network(image).argmax(1)
    _wait(model.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()

"""Memory: detects out-of-memory errors, finds what fits, and measures the peak."""

import os
import resource
import sys
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch

from segstudy.networks.normalize import input_channels
from segstudy.precision import AUTOCAST


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device (or, on a CPU, the process) ran out of memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def largest_fit(fits: Callable[[int, int], bool], batch_size: int, side: int, stride: int = 32) -> tuple[int, int]:
    """(largest batch at this size, largest size, a multiple of `stride`, at this batch), by bisection; 0 if none fits.

    fits: (batch_size, side) → whether a training step works.
    """

    def largest(end: int, fits_at: Callable[[int], bool]) -> int:  # `end` itself does not fit
        return bisect_left(range(1, end), True, key=lambda n: not fits_at(n))

    batch = largest(batch_size, lambda b: fits(b, side))
    return batch, stride * largest(-(-side // stride), lambda n: fits(batch_size, n * stride))


def memory_advice(module: L.LightningModule, batch_size: int, size: tuple[int, int], autocast: str) -> str:
    """Try training steps with smaller batches and sizes, and return an error message with settings that fit."""
    device = module.device
    dtype = AUTOCAST.get(autocast)

    def fits(batch: int, side: int) -> bool:
        try:
            image = torch.zeros(batch, input_channels(module), side, side, device=device)
            mask = torch.zeros(batch, side, side, dtype=torch.int64, device=device)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = module.loss(module(image), mask)  # type: ignore[operator]
            loss.backward()
            return True
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return False
        finally:
            module.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()

    module.train()
    module.zero_grad(set_to_none=True)
    batch, side = largest_fit(fits, batch_size, max(size))
    settings = []
    if batch:
        settings.append(f"data.batch_size={batch} trainer.accumulate_grad_batches={-(-batch_size // batch)}")
    if side:
        settings.append(f"data.size={side}")
    advice = f"what fits: {'    or    '.join(settings)}"
    if not settings:
        advice = "not even one image of 32 pixels fits: use another device or a smaller network"
    return f"out of memory at data.batch_size={batch_size} data.size={list(size)} on {device}\n  → {advice}"


def available_memory() -> int:
    """Bytes that new processes can use: free or reclaimable memory, or the rest of this container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not on Linux: half of the machine's
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        limit, used = ((Path("/sys/fs/cgroup") / f"memory.{name}").read_text() for name in ("max", "stat"))
        return min(available, int(limit) - int(used.split()[1]))  # its first line: anon BYTES
    except (OSError, ValueError):  # no limit
        return available


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB: of the GPU if there is one, else the largest resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

"""Memory: whether an error means that it is full, what would fit, and how much was used."""

import resource
import sys
from bisect import bisect_left
from collections.abc import Callable

import lightning as L
import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device (or, on a CPU, an allocation) ran out of memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def largest_fit(fits: Callable[[int, int], bool], batch_size: int, side: int, stride: int = 32) -> tuple[int, int]:
    """The largest batch at this size, and the largest size (a multiple of `stride`) at this batch; 0 where none fits.

    `fits(batch_size, side)` tries a training step. Both are found by bisection.
    """

    def largest(end: int, fits_at: Callable[[int], bool]) -> int:  # `end` does not fit
        return bisect_left(range(1, end), True, key=lambda n: not fits_at(n))

    batch = largest(batch_size, lambda b: fits(b, side))
    return batch, stride * largest(-(-side // stride), lambda n: fits(batch_size, n * stride))


def memory_advice(module: L.LightningModule, batch_size: int, size: tuple[int, int], autocast: str) -> str:
    """Try training steps of smaller batches and sizes, and say what fits and what to type."""
    device = module.device
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(autocast)

    def fits(batch: int, side: int) -> bool:
        try:
            image = torch.zeros(batch, 3, side, side, device=device)
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
    ways = []
    if batch:
        rest = -(-batch_size // batch)
        ways.append(f"data.batch_size={batch} trainer.accumulate_grad_batches={rest}")
    if side:
        ways.append(f"data.size={side}")
    found = "    or    ".join(ways) or "not even one image of 32 pixels fits: another device or a smaller network"
    return f"out of memory at data.batch_size={batch_size} data.size={list(size)} on {device}\n  → what fits: {found}"


def peak_memory(device: torch.device) -> float:
    """GiB: of the GPU where there is one, else this process's largest resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

"""Guards: a loss that is not finite, and too little memory, end the run with what to do."""

import signal
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from segstudy.errors import TrainingError


class FiniteLoss(L.Callback):
    """Ends the run at a loss that is NaN or infinite: names the step, the batch's images and the last good checkpoint.

    On a GPU it looks every `every` steps (a look waits for the device), on a CPU at each.
    """

    def __init__(self, every: int = 50):
        self.every = every
        self.recent: deque[tuple[int, Tensor, Tensor]] = deque(maxlen=every)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Any, i: int) -> None:
        self.recent.append((trainer.global_step, out["loss"].detach(), batch["index"]))
        if module.device.type == "cpu" or i % self.every == self.every - 1:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._look(trainer)  # before ModelCheckpoint, which Lightning moves to the end

    def _look(self, trainer: L.Trainer) -> None:
        if not self.recent or torch.stack([loss for _, loss, _ in self.recent]).isfinite().all():
            self.recent.clear()
            return
        step, loss, index = next(entry for entry in self.recent if not entry[1].isfinite())
        samples = trainer.datamodule.roles["fit"].samples  # type: ignore[attr-defined]
        names = ", ".join(samples[i].name for i in index.tolist())
        last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        raise TrainingError(
            f"the loss became {loss.item()} at step {step} (epoch {trainer.current_epoch})\n"
            f"  images of that batch: {names}\n"
            f"  last good checkpoint: {last if last.is_file() else 'none yet'}\n"
            "  → try a lower optim.lr, trainer.gradient_clip_val=1, or trainer.precision=32-true"
        )


class Terminable(L.Callback):
    """Puts the command's own handler of SIGTERM back, which Lightning replaces while a trainer works.

    Lightning's waits in it for the other processes, which may wait for this one; and a test would go on to its end.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._put_back()

    def on_sanity_check_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._put_back()

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._put_back()

    def _put_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device (or, on a CPU, an allocation) ran out of memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def largest_fit(fits: Callable[[int, int], bool], batch_size: int, side: int, stride: int = 32) -> tuple[int, int]:
    """The largest batch at this size, and the largest size (a multiple of `stride`) at this batch; 0 where none fits.

    `fits(batch_size, side)` tries a training step. Both are found by bisection.
    """

    def largest(low: int, high: int, fits_at: Callable[[int], bool]) -> int:  # low fits, high does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits_at(middle) else (low, middle)
        return low

    batch = largest(0, batch_size, lambda b: fits(b, side))
    return batch, stride * largest(0, -(-side // stride), lambda n: fits(batch_size, n * stride))


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

"""One seed, separate streams: each consumer of random numbers has its own named stream.

So a module has the same initial weights in all variants that have its path, all variants see the same batches with the
same augmentation, and one more callback or loader process changes nothing.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names`, equal on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def stream(seed: int, *names: str | int) -> Iterator[None]:
    """Inside the context, torch's global CPU generator draws from the stream `names`; afterwards it is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, *names))
        yield


def initialise(network: nn.Module, seed: int) -> None:
    """Initialise every layer again by the default rule of its type, from the stream of its module path.

    Parts with loaded weights keep them: their `weights_origin` is set and does not begin with "random". Layers without
    `reset_parameters` (some of timm's) keep the values they were built with.
    """
    loaded = [part for part in network.modules() if not getattr(part, "weights_origin", "random").startswith("random")]
    kept = {id(layer) for part in loaded for layer in part.modules()}
    for path, module in network.named_modules():
        if id(module) not in kept and callable(reset := getattr(module, "reset_parameters", None)):
            with stream(seed, "weights", path):
                reset()


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of a training epoch: int64 (n,)."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(n, generator=generator)


def uniform_numbers(seed: int, epoch: int, indices: Tensor, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1) for each sample, from (seed, epoch, index) alone: float32 (B, count).

    Counter-based (the splitmix64 finaliser of Steele et al. 2014, section 4): no loop over a batch, and no state.
    """
    base = np.uint64(derive(seed, "augment", epoch))
    index = indices.cpu().numpy().astype(np.uint64)[:, None]
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64 by design
        key = _mix(base + index * np.uint64(0x9E3779B97F4A7C15))
        bits = _mix(key + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

"""Predict images of any size in overlapping tiles, and blend the tiles' probabilities smoothly."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from segstudy.errors import ConfigError

Place = tuple[int, int]
"""Top and left of a tile, in pixels."""
GRID = 32
"""A shift of the image by multiples of this only shifts the output, for networks whose stride is a divisor of it."""

STEEPNESS = 8
"""How fast a tile's weight falls from its middle. Among values from 1 to 64, 8 agreed best, or nearly best, with the
prediction of the whole image, for the networks of results/formats.md; 2 was clearly worse."""


@dataclass(frozen=True)
class Tiles:
    """Square tiles with `side` pixels; neighbours overlap by at least `overlap` of their side.

    The side need not be a multiple of the network's stride, since networks pad. Where tiles overlap, a tile's weight
    falls towards its border, where it lacks context. Tiles with a side of at least 2·GRID start at multiples of GRID,
    so that pooling has the same phase as in the whole image; the last tile may be smaller. If the overlap leaves a step
    below GRID, they start at multiples of the largest power of two within the step.
    Raises ConfigError for a side below 1, or an overlap outside 0…0.9.
    """

    side: int
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ConfigError(f"--tiles {self.side}: the side of a tile must be 1 pixel or more\n  → --tiles 512")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"--overlap {self.overlap}: must be from 0 to 0.9\n  → --overlap 0.5")

    def starts(self, length: int) -> list[int]:
        """Start positions of the tiles along `length` pixels, evenly spread; [0] if one tile is enough."""
        if length <= self.side:
            return [0]
        most = max(1, math.floor(self.side * (1 - self.overlap)))
        grid = min(GRID, 2 ** (most.bit_length() - 1)) if self.side >= 2 * GRID else 1
        step = most // grid * grid
        gaps = math.ceil((length - self.side) / step)
        return [math.ceil(i * (length - self.side) / gaps / grid) * grid for i in range(gaps + 1)]

    def weights(self, length: int) -> list[Tensor]:
        """For each tile along `length` pixels, the weights float32 (n) of its pixels; they sum to 1 at each pixel."""
        starts = self.starts(length)
        humps = []
        total = torch.zeros(length, dtype=torch.float64)
        for start in starts:
            side = min(self.side, length - start)
            humps.append(torch.sin((torch.arange(side, dtype=torch.float64) + 0.5) * (math.pi / side)) ** STEEPNESS)
            total[start : start + side] += humps[-1]
        return [(hump / total[start : start + len(hump)]).float() for start, hump in zip(starts, humps, strict=True)]


DEFAULT_SIDE = 1024
"""Side of the tiles in which large images are tested, if data.tiles does not say otherwise."""


def tiles_of_large(shape: Sequence[int], side: int | None) -> Tiles | None:
    """The tiles in which an image of `shape` (H,W) is seen, if it has more than 4·side² pixels; None: as a whole."""
    return Tiles(side, overlap=0.25) if side and math.prod(shape) > 4 * side**2 else None


def tiles_per_batch(pixels: int, device: torch.device) -> int:
    """Batch size for tiles with so many pixels. Larger batches are not faster, and fill a CPU's memory."""
    return max(1, (2**22 if device.type == "cuda" else 2**19) // pixels)


def blend_tiles(
    shape: Sequence[int], tiles: Tiles, chances: Callable[[Sequence[Place]], Tensor], batch: int = 1
) -> Iterator[tuple[int, int, Tensor]]:
    """The blended probabilities of an image of `shape` (H,W), as (top, left, finished block (C,rows,columns)).

    chances: start positions → probabilities (B,C,h,w) of the tiles, cut at the image's border; all have the same size.
    Only one tile and the overlap with the tiles below are in memory; a block is valid until the next one is requested.
    """
    height, width = shape
    tops, lefts = tiles.starts(height), tiles.starts(width)
    down, across = tiles.weights(height), tiles.weights(width)
    ends = (top + len(rises) for top, rises in zip(tops, down, strict=True))
    shared = max((end - below for end, below in zip(ends, tops[1:], strict=False)), default=0)
    last = len(lefts) - 1  # in its own batch: it may be smaller
    groups = [range(i, min(i + batch, last)) for i in range(0, last, batch)] + [range(last, last + 1)]
    part = above = torch.empty(0)
    for (top, below), rises in zip(pairwise([*tops, height]), down, strict=True):
        for group in groups:
            found = chances([(top, lefts[i]) for i in group])
            if not len(part):
                part = found.new_zeros(found.shape[1], min(tiles.side, height), min(tiles.side, width))
                above = found.new_zeros(found.shape[1], shared, width)
            for i, each in zip(group, found, strict=True):
                columns = slice(lefts[i], [*lefts, width][i + 1])
                ready = columns.stop - columns.start
                weight = rises.to(found)[:, None] * across[i].to(found)
                part[:, : len(rises), : len(across[i])] += each * weight
                part[:, :shared, :ready] += above[..., columns]
                yield top, columns.start, part[:, : below - top, :ready]
                left = part[:, below - top :, :ready]
                above[:, : left.shape[1], columns] = left[:, :shared]
                above[:, left.shape[1] :, columns] = 0
                part[..., :-ready], part[..., -ready:] = part[..., ready:].clone(), 0


def predict_tiled(network: Callable[[Tensor], Tensor], image: Tensor, tiles: Tiles) -> Tensor:
    """Blended probabilities float32 (B,C,H,W) of images float (B,3,H,W). network: tiles (n,3,h,w) → probabilities."""

    side, shape = tiles.side, image.shape[2:]
    whole = []
    for one in image:

        def chances(places: Sequence[Place], one: Tensor = one) -> Tensor:
            return network(torch.stack([one[:, y : y + side, x : x + side] for y, x in places])).float()

        whole.append(join_blocks(shape, blend_tiles(shape, tiles, chances, tiles_per_batch(side**2, image.device))))
    return torch.stack(whole)


def logits_in_tiles(network: Callable[[Tensor], Tensor], image: Tensor, tiles: Tiles) -> Tensor:
    """Logits float32 (B,C,H,W) of images in overlapping tiles. network: tiles (n,3,h,w) → logits.

    The logarithms of the blended probabilities, since the logits of different tiles have no common scale.
    """
    return as_logits(predict_tiled(lambda tile: network(tile).float().softmax(1), image, tiles))


def as_logits(probabilities: Tensor) -> Tensor:
    """Logits with these probabilities, which are overwritten."""
    return probabilities.clamp_(min=1e-12).log_()


def join_blocks(shape: Sequence[int], blocks: Iterable[tuple[int, int, Tensor]]) -> Tensor:
    """The whole (C,H,W) of `shape` (H,W) from blocks that cover it."""
    whole = torch.empty(0)
    for top, left, block in blocks:
        if not len(whole):
            whole = block.new_empty(len(block), *shape)
        whole[:, top : top + block.shape[1], left : left + block.shape[2]] = block
    return whole

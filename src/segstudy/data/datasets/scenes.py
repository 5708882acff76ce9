"""Generated scenes: a data set without files, designed to show the differences between V1 … V4."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from segstudy.data.datamodule import SegmentationData
from segstudy.data.images import Sample
from segstudy.data.transforms.augment import Augment
from segstudy.labels import IGNORE, voc_palette

Field = np.ndarray

# Each shape is an implicit function of (u, v): negative inside, about 1 at distance 1 from the edge.
SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda u, v: np.hypot(u, v) - 1,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.85,
    "triangle": lambda u, v: np.maximum(v, np.maximum(0.866 * u, -0.866 * u) - 0.5 * v) - 0.5,
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.72) - 0.28,
    "cross": lambda u, v: np.minimum(
        np.maximum(abs(u) - 1, abs(v) - 0.3), np.maximum(abs(u) - 0.3, abs(v) - 1)
    ),
    "star": lambda u, v: np.hypot(u, v) - (0.62 + 0.38 * np.cos(5 * np.arctan2(v, u))),
    "bar": lambda u, v: np.maximum(abs(u) - 1, abs(v) - 0.14),
}  # fmt: skip

FREQUENCY = np.array([0.30, 0.22, 0.16, 0.12, 0.09, 0.07, 0.04])  # a long tail

VERSION = 2
"""Part of the cache's key. Increase it when the same seed draws other scenes."""

AUGMENTATION = Augment()
"""The augmentation of conf/data/scenes.yaml."""


class Scenes(SegmentationData):
    """Generated scenes of shapes with shared textures.

    Classes: background and 7 shapes, some of them rare. Format: arrays, drawn from a seed; no files, no download.
    No data: 255 on the edges of objects.

    Only the whole shape gives the class: each of the six textures occurs on three or four classes, and in paler colours
    on the background. So local texture separates objects from background, but not classes from each other. The radius
    of objects is log-uniform from 5 to 45 % of the side: some are small, and at 256 pixels some are larger than a small
    receptive field. Objects occlude each other. Scene i of a split depends on (scene_seed, split, i) and size alone.

    train_images, val_images: numbers of images. scene_seed: seed of the scenes, separate from the seed of training.
    size, batch_size, augment: by default smaller than for photos, and without zoom. loading: see `SegmentationData`.
    """

    terms = "They are generated from a seed: nobody else has rights in them."

    classes = ("background", *SHAPES)
    palette = voc_palette(len(SHAPES) + 1)
    labels = {IGNORE: IGNORE}  # states that 255 is ignored, so that the cache raises no error

    def __init__(
        self,
        train_images: int = 800,
        val_images: int = 200,
        scene_seed: int = 0,
        size: int | Sequence[int] = 64,
        batch_size: int = 8,
        augment: Augment | None = AUGMENTATION,
        **loading: Any,
    ):
        super().__init__(size, batch_size, augment, **loading)
        self.counts = {"train": train_images, "val": val_images}
        self.scene_seed = scene_seed

    def samples(self, split: str) -> list[Sample]:
        return [Sample(f"{split}_{i:05d}") for i in range(self.counts[split])]

    def recipe(self) -> Any:
        return ["Scenes", VERSION, self.scene_seed]

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        split, index = sample.name.rsplit("_", 1)
        rng = np.random.default_rng([self.scene_seed, list(self.counts).index(split), int(index)])
        return (*draw_scene(rng, *self.size), "")


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image (H,W,3) and mask (H,W), uint8."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    side = min(height, width)
    image = 0.5 + 0.3 * (_texture(rng, int(rng.integers(6)), x, y, side) - 0.5)  # paler than any object
    mask = np.zeros((height, width), np.uint8)
    border = max(0.75, side / 170)
    for _ in range(rng.integers(1, 5)):
        kind = int(rng.choice(len(SHAPES), p=FREQUENCY))
        radius = side * math.exp(rng.uniform(math.log(0.05), math.log(0.45)))
        angle, cx, cy = rng.uniform(0, 2 * math.pi), rng.uniform(0, width), rng.uniform(0, height)
        u = ((x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)) / radius
        v = ((y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)) / radius
        edge = list(SHAPES.values())[kind](u, v) * radius  # in pixels
        texture = _texture(rng, (kind + int(rng.integers(3))) % 6, x, y, side)
        inside = np.clip(0.5 - edge, 0, 1)[..., None]  # antialiased
        image = image * (1 - inside) + texture * inside
        mask[edge < 0] = kind + 1
        mask[abs(edge) < border] = IGNORE
    light = 1 + rng.uniform(-0.3, 0.3) * (x / width - 0.5) + rng.uniform(-0.3, 0.3) * (y / height - 0.5)
    image = image * light[..., None] + rng.normal(0, 0.03, image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8), mask


def _texture(rng: np.random.Generator, kind: int, x: Field, y: Field, side: int) -> Field:
    """Two colours mixed by stripes, diagonal stripes, checks, dots, blotches or nothing: (H,W,3) in 0…1."""
    first, second = rng.uniform(0.1, 0.9, 3), rng.uniform(0.1, 0.9, 3)
    period = side * rng.uniform(0.04, 0.1)
    a, b = 2 * math.pi * x / period + rng.uniform(0, 6), 2 * math.pi * y / period + rng.uniform(0, 6)
    mix = (
        lambda: np.sin(a),
        lambda: np.sin((a + b) / 1.4),
        lambda: np.sin(a) * np.sin(b) * 2,
        lambda: 2.5 * (np.cos(a) + np.cos(b) - 1),
        lambda: np.sin(a / 3 + 2 * np.sin(b / 4)) + np.sin(b / 3 + 2 * np.sin(a / 5)),
        lambda: np.zeros_like(x),
    )[kind]()
    share = 1 / (1 + np.exp(-3 * mix))[..., None]
    return first * share + second * (1 - share)

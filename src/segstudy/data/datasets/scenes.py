"""Generated scenes: a data set without files, in which the reasons for V1 … V4 decide."""

import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segstudy.data.datamodule import SegmentationData
from segstudy.data.images import Sample
from segstudy.data.transforms.augment import Augment
from segstudy.errors import ConfigError
from segstudy.labels import IGNORE, voc_palette
from segstudy.ranges import Count, Images, Size, Whole, checked

Field = np.ndarray

CLASSES = ("striped butterfly", "striped moth", "dotted butterfly", "dotted moth", "checked beetle", "wavy beetle")
"""Butterflies fly by day and moths by night: (pattern, light) → class for the first two patterns."""

COLOURS = np.array([[0.85, 0.45, 0.20], [0.25, 0.50, 0.85], [0.35, 0.70, 0.30], [0.75, 0.30, 0.65]])
"""Of the patterns: stripes, dots, checks, waves."""

FREQUENCY = np.array([0.50, 0.34, 0.09, 0.07])
"""Of the patterns, by object: with two lights, the classes are a long tail."""

SKY_COLOURS = np.array([[0.97, 0.93, 0.60], [0.08, 0.08, 0.30]])  # day, night
SKY = 0.2
"""Share of the longer side that the sky takes."""

VERSION = 3
"""Part of the cache's key. Increase it when the same seed draws other scenes."""

AUGMENTATION = Augment(brightness=0.0, contrast=0.0)
"""The augmentation of conf/data/scenes.yaml: flips only."""


@checked
class Scenes(SegmentationData):
    """Generated panoramas of butterflies, moths and beetles: what decides a label is far from the object.

    Classes: background and 6 insects. Format: arrays, drawn from a seed; no files, no download. No data: 255 on the
    edges of objects.

    * Butterflies and moths look the same; the sky at one end of the scene, by day or by night, tells which they are.
      Insects are in the third away from it, so a network needs context from further than its convolutions reach after a
      short training (V3's ASPP has it, V2 guesses).
    * Pale patches of the insects' patterns lie on the ground: a loss that makes little of the background (V1's) paints
      them as insects.
    * Sizes are log-uniform, objects occlude each other, and classes are a long tail.

    Scene i of a split depends on (scene_seed, split, i) and size alone. docs/scenes.md shows what each variant and each
    control makes of them.

    train_images, val_images: numbers of images. scene_seed: seed of the scenes, separate from the seed of training.
    size, batch_size, augment: by default a small panorama, and flips only. loading: see `SegmentationData`.
    """

    terms = "They are generated from a seed: nobody else has rights in them."

    classes = ("background", *CLASSES)
    palette = voc_palette(len(CLASSES) + 1)
    labels = {IGNORE: IGNORE}  # states that 255 is ignored, so that the cache raises no error

    def __init__(
        self,
        train_images: Images = 800,
        val_images: Images = 120,
        scene_seed: Whole = 0,
        size: Size = (32, 112),
        batch_size: Count = 9,
        augment: Augment | None = AUGMENTATION,
        **loading: Any,
    ):
        super().__init__(size, batch_size, augment, **loading)
        if not self.bands.are_photos:
            raise ConfigError("data=scenes draws RGB images: leave out data.channels and data.value_range")
        self.counts = {"train": train_images, "val": val_images}
        self.scene_seed = scene_seed

    def samples(self, split: str) -> list[Sample]:
        return [Sample(f"{split}_{i:05d}") for i in range(self.counts[split])]

    def recipe(self) -> Any:
        return ["Scenes", VERSION, self.scene_seed, *self.size]

    def original_mask(self, role: str, index: int) -> Tensor:
        """From the cache, which holds scenes as they were drawn unless `max_side` is smaller."""
        images = self.roles[role]
        mask = images.cache.mask(int(images.ids[index]))
        is_drawn = mask.shape == tuple(self.size)
        return torch.from_numpy(mask.astype(np.int64)) if is_drawn else super().original_mask(role, index)

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        split, index = sample.name.rsplit("_", 1)
        rng = np.random.default_rng([self.scene_seed, list(self.counts).index(split), int(index)])
        return (*draw_scene(rng, *self.size), "")


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image (H,W,3) and mask (H,W), uint8. The sky lies at one end of the longer side."""
    if height > width:
        image, mask = draw_scene(rng, width, height)
        return image.transpose(1, 0, 2).copy(), mask.T.copy()
    y, x = np.mgrid[:height, :width].astype(np.float32)
    night, mirrored = int(rng.integers(2)), bool(rng.integers(2))
    image = np.array([0.50, 0.48, 0.42]) + rng.normal(0, 0.03, 3)
    image = image + 0.35 * _noise(rng, height, width)[..., None] * np.array([1.0, 0.95, 0.8])
    for _ in range(rng.poisson(2.3 * width / height)):
        image = _add_patch(rng, image, x, y)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(4, 7)):
        image = _add_insect(rng, image, mask, x, y, night)
    image = _add_sky(rng, image, mask, x, night)
    image = (image + rng.normal(0, 0.03, image.shape)).clip(0, 1)
    image = (image * 255).astype(np.uint8)
    return (image[:, ::-1].copy(), mask[:, ::-1].copy()) if mirrored else (image, mask)


def _add_patch(rng: np.random.Generator, image: Field, x: Field, y: Field) -> Field:
    """Blend a pale, soft-edged patch of a random pattern into the ground."""
    height, width = x.shape
    pattern, radius = int(rng.integers(len(COLOURS))), height * rng.uniform(0.12, 0.35)
    cx, cy = rng.uniform(0, width), rng.uniform(0, height)
    strength = np.clip(2 - 2 * np.hypot(x - cx, 1.3 * (y - cy)) / radius, 0, 1) * rng.uniform(0.35, 0.75)
    return _blend(image, _texture(rng, pattern, x, y), strength)


def _add_insect(rng: np.random.Generator, image: Field, mask: np.ndarray, x: Field, y: Field, night: int) -> Field:
    """Draw an insect of two wings into the image and, in place, into the mask."""
    height, width = x.shape
    pattern = int(rng.choice(len(FREQUENCY), p=FREQUENCY))
    label = 1 + 2 * pattern + night if pattern < 2 else 3 + pattern
    radius = height * math.exp(rng.uniform(math.log(0.14), math.log(0.5)))
    angle, cx, cy = rng.uniform(0, 2 * math.pi), rng.uniform(0.65 * width, width), rng.uniform(0, height)
    u = ((x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)) / radius
    v = ((y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)) / radius
    # Implicit function of two ellipses: negative inside, in pixels.
    edge = (np.hypot((abs(u) - 0.45) / 0.55, v / rng.uniform(0.6, 0.9)) - 1) * radius * 0.55
    opacity = np.clip(0.5 - edge, 0, 1) * rng.uniform(0.75, 1)  # antialiased
    mask[edge < 0] = label
    mask[abs(edge) < max(0.6, height / 170)] = IGNORE
    return _blend(image, _texture(rng, pattern, x, y), opacity)


def _add_sky(rng: np.random.Generator, image: Field, mask: np.ndarray, x: Field, night: int) -> Field:
    """Draw the sky over the left end, with a wavy edge; in the mask, in place, it is background."""
    height, width = x.shape
    inside = np.clip(width * SKY * (1 + 0.25 * _noise(rng, height, 1)) - x, 0, 1)
    colour = SKY_COLOURS[night] + rng.normal(0, 0.03, 3) + 0.1 * _noise(rng, height, width)[..., None]
    mask[inside > 0.5] = 0
    return _blend(image, colour, inside)


def _blend(image: Field, other: Field, strength: Field) -> Field:
    """(H,W,3): `other` over `image` with the given strength (H,W) in 0…1."""
    return image + (other - image) * strength[..., None]


def _texture(rng: np.random.Generator, pattern: int, x: Field, y: Field) -> Field:
    """A pattern in its colour, turned and scaled at random: (H,W,3) in 0…1."""
    angle, period = rng.uniform(0, math.pi), len(x) * rng.uniform(0.11, 0.17)
    a = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period + rng.uniform(0, 6)
    b = 2 * math.pi * (y * math.cos(angle) - x * math.sin(angle)) / period + rng.uniform(0, 6)
    waves = (
        lambda: np.sin(a),
        lambda: 2.5 * (np.cos(a) + np.cos(b) - 1),
        lambda: 2 * np.sin(a) * np.sin(b),
        lambda: np.sin(a + 1.5 * np.sin(b)),
    )[pattern]()
    colour = (COLOURS[pattern] + rng.normal(0, 0.09, 3)).clip(0.05, 0.95)
    return colour * (0.45 + 0.55 / (1 + np.exp(-3 * waves)))[..., None]


def _noise(rng: np.random.Generator, height: int, width: int) -> Field:
    """Smooth noise of four octaves about 0: (H,W)."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        grid = rng.random((2 ** (octave + 1) + 1,) * 2, np.float32) - 0.5
        at = [np.linspace(0, len(grid) - 1, n, dtype=np.float32) for n in (height, width)]
        total += 0.55**octave * ndimage.map_coordinates(grid, np.meshgrid(*at, indexing="ij"), order=1)
    return total

"""Generated scenes as JPEG and PNG in VOC's layout, for benchmarks that need files."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from segstudy.data.datasets.scenes import draw_scene
from segstudy.labels import voc_palette

DRAWN = 32
"""Different scenes of VOC's usual size, fewer of a larger one; further files are links to them."""


def write_voc(root: Path, images: int, height: int = 375, width: int = 500) -> Path:
    """A VOCdevkit in `root` with generated scenes, by default of VOC's usual size.

    The lists train and val name the same images.
    """
    home = root / "VOCdevkit" / "VOC2012"
    lists = home / "ImageSets" / "Segmentation"
    for folder in (home / "JPEGImages", home / "SegmentationClass", lists):
        folder.mkdir(parents=True)
    names = [f"2012_{i:06d}" for i in range(images)]
    drawn = max(4, DRAWN * 375 * 500 // max(height * width, 375 * 500))
    for i, name in enumerate(names):
        if i >= drawn:
            for kind, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
                os.link(home / kind / f"{names[i % drawn]}.{suffix}", home / kind / f"{name}.{suffix}")
            continue
        image, mask = draw_scene(np.random.default_rng(i), height, width)
        # 95 gives about 90 kB a file; VOC's own have about 110 kB.
        Image.fromarray(image).save(home / "JPEGImages" / f"{name}.jpg", quality=95)
        labels = Image.fromarray(mask, mode="P")
        labels.putpalette([value for rgb in voc_palette(256) for value in rgb])
        labels.save(home / "SegmentationClass" / f"{name}.png")
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def voc_root_or_scenes(root: Path | None, folder: Path, images: int, *shape: int) -> Path:
    """The folder that the user named, or one with generated scenes. shape: their height and width."""
    return root.expanduser().resolve() if root is not None else write_voc(folder, images, *shape)

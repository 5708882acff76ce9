"""A photo with its classes in colour, and a legend of those that occur."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LARGEST = 4096
"""Pixels of the longer side: overlays are for people."""

Colour = tuple[int, int, int]


def overlay(
    photo: Image.Image, labels: np.ndarray, palette: Sequence[Colour], alpha: float = 0.5, background: int | None = None
) -> Image.Image:
    """The photo with the colours of its labels uint8 (H,W) laid over it, `alpha` of each; none over the background."""
    # Not torchvision's draw_segmentation_masks: with a mask for each class it takes 30 times as long (2.5 s instead of
    # 0.08 for 3 million pixels and 20 classes on one core), for the same picture up to rounding.
    mask = Image.fromarray(labels)
    scale = min(1.0, LARGEST / max(photo.size))
    if scale < 1:
        size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
        photo, mask = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), mask.resize(size, 0)
    photo = photo if photo.mode == "RGB" else photo.convert("RGB")
    shown = mask.point([0 if c == background else round(255 * alpha) for c in range(256)])
    mask.putpalette([value for rgb in palette for value in rgb])
    return Image.composite(mask.convert("RGB"), photo, shown)


def with_legend(picture: Image.Image, areas: Mapping[str, tuple[Colour, float]]) -> Image.Image:
    """The picture, and below it a strip with the colour, the name and the share of each class, largest first."""
    size = max(11, min(48, round(picture.width / 45)))
    font = ImageFont.load_default(size)
    gap, line = size // 2, round(1.6 * size)
    entries = [(f"{name} {share:.1%}" if share >= 0.0005 else f"{name} <0.1%", rgb)
               for name, (rgb, share) in sorted(areas.items(), key=lambda item: -item[1][1])]  # fmt: skip
    widths = [size + gap + round(font.getlength(text)) + 2 * gap for text, _ in entries]
    places, x, y = [], gap, 0
    for width in widths:
        if x > gap and x + width > picture.width:
            x, y = gap, y + line
        places.append((x, y))
        x += width
    wide = max([picture.width, *(left + width for (left, _), width in zip(places, widths, strict=True))])
    whole = Image.new("RGB", (wide, picture.height + y + line + gap), "white")
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    for (text, rgb), (left, below) in zip(entries, places, strict=True):
        top = picture.height + below + gap
        draw.rectangle((left, top, left + size, top + size), fill=rgb, outline="grey")
        draw.text((left + size + gap, top + size / 2), text, fill="black", font=font, anchor="lm")
    return whole

"""Predict photos with a trained run: `segstudy.load("runs/study/v4").predict("photo.jpg")`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segstudy.data.datamodule import LARGEST_SCORES
from segstudy.data.fit import Fit
from segstudy.data.images import open_upright, to_eight_bits, to_rgb
from segstudy.errors import DataError
from segstudy.inference.loading import LoadedRun, load_runs
from segstudy.inference.tta import TestTimeAugmentation
from segstudy.labels import labels_and_mean_confidence, scores_at
from segstudy.module import two_channels
from segstudy.precision import AUTOCAST, choose_device, describe_device
from segstudy.runs.headline import headline_metrics
from segstudy.tiles import (
    DEFAULT_SIDE,
    Place,
    Tiles,
    as_logits,
    blend_tiles,
    join_blocks,
    tiles_of_large,
    tiles_per_batch,
)

Photo = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a picture, or RGB or grey values: uint8 (H,W,3) or (H,W), or a tensor (3,H,W), uint8 or float in 0…1."""


class TwoChannels(nn.Module):
    """Wraps a network so that a single output channel (for two classes) becomes two."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return two_channels(self.network(image))


class Model:
    """A trained network with its classes and colours.

    classes: names. palette: an RGB colour for each. background: number of the background class, or None. fit: at which
    size the run's test sees an image. tiles: side of the tiles in which it sees a large one. network: image float
    (B,3,H,W) in 0…1 → logits (B,C,H,W). plain: the run's own network, which may have one channel for two classes.
    device_line: device and precision, and why.
    """

    def __init__(self, member: LoadedRun, device: str = "auto"):
        """device: auto, cpu, cuda or mps. Raises ConfigError if it is not available."""
        self.name, self.folder, self.record, self.cfg = member.name, member.folder, member.record, member.cfg
        self.classes: list[str] = list(member.record["class_names"])
        self.palette = [tuple(rgb) for rgb in member.record["palette"]]
        self.background: int | None = member.record["data"].get("background")
        self.fit, self.tiles = Fit.of(member.cfg.data), member.cfg.data.get("tiles", DEFAULT_SIDE)
        accelerator, self.precision, reason = choose_device(device, member.cfg.trainer.precision)
        self.device = torch.device(accelerator)
        self.device_line = describe_device(accelerator, self.precision, reason)
        self.plain = member.network
        self.network = TwoChannels(member.network).to(self.device).eval()

    def __repr__(self) -> str:
        miou = headline_metrics(self.record).get("miou")
        tested = "" if miou is None else f", mIoU {miou:.3f}"
        return f"Model({self.name}, {len(self.classes)} classes{tested})"

    def predict(
        self,
        photo: Photo | list[Any],
        size: str = "train",
        views: TestTimeAugmentation | None = None,
        tiles: Tiles | None = None,
    ) -> Any:
        """Labels uint8 (H,W) in the photo's own size; of a list of photos, a list.

        size: of the image that the network sees, as `Fit.at` describes: train (as in the run's test), original, N or
        HEIGHTxWIDTH. views: average these. tiles: see it in parts; None: only large images, as in the run's test.
        Raises DataError for what is no photo.
        """
        if isinstance(photo, list):
            return [self.predict(each, size, views, tiles) for each in photo]
        return self.labels(as_picture(photo), size, views, tiles)[0]

    def probabilities(self, photo: Photo, size: str = "train", views: TestTimeAugmentation | None = None) -> np.ndarray:
        """float32 (C,H,W) in the photo's own size, interpolated from the network's where they differ."""
        picture = as_picture(photo)
        scores = self.scores(picture, size, views).float()
        return scores_at(scores if views else scores.softmax(0), (picture.height, picture.width)).cpu().numpy()

    @torch.inference_mode()
    def labels(
        self,
        picture: Image.Image,
        size: str = "train",
        views: TestTimeAugmentation | None = None,
        tiles: Tiles | None = None,
        batch: int | None = None,
        advance: Callable[[float], None] = lambda share: None,
    ) -> tuple[np.ndarray, float]:
        """Labels uint8 (H,W) of an upright picture, and the mean of the highest probability over the network's pixels.

        batch: tiles in a batch. advance: called with the share of the picture predicted since the last call.
        """
        shape = picture.height, picture.width
        seen, parts = self.input_of(shape, size, tiles)
        if parts is None or seen != shape:
            scores = self.scores(picture, size, views, tiles, batch, advance)
            return labels_and_mean_confidence(scores, shape, views is not None)
        labels, total = np.empty(shape, np.uint8), 0.0
        for top, left, block in self.tiled(picture, parts, views, batch, advance):  # the scores of a part at a time
            best, winner = block.max(0)
            rows, columns = winner.shape
            labels[top : top + rows, left : left + columns] = winner.to(torch.uint8).cpu().numpy()
            total += best.sum(dtype=torch.float64).item()
        return labels, total / labels.size

    @torch.inference_mode()
    def scores(
        self,
        picture: Image.Image,
        size: str = "train",
        views: TestTimeAugmentation | None = None,
        tiles: Tiles | None = None,
        batch: int | None = None,
        advance: Callable[[float], None] = lambda share: None,
    ) -> Tensor:
        """Logits (C,h,w) of an upright picture, at the network's size; with views, probabilities.

        Raises DataError if they would take too much memory.
        """
        seen, tiles = self.input_of((picture.height, picture.width), size, tiles)
        if (needed := math.prod(seen) * len(self.classes) * 4) > LARGEST_SCORES:
            raise DataError(
                f"a photo of {picture.width}×{picture.height} pixels, seen at {seen[1]}×{seen[0]}: scores for "
                f"{len(self.classes)} classes take {needed / 2**30:.0f} GiB, at most {LARGEST_SCORES / 2**30:.0f} GiB "
                "are possible\n  → size original with tiles (--size original --tiles 512), or a smaller photo"
            )
        if tiles is None:
            scores = self.batch_scores(self.resized(picture, seen)[None], views)[0]
            advance(1)
            return scores
        if seen != (picture.height, picture.width):
            picture = Image.fromarray(self.resized(picture, seen))
        whole = join_blocks(seen, self.tiled(picture, tiles, views, batch, advance))
        return whole if views else as_logits(whole)

    def input_of(
        self, shape: tuple[int, int], size: str = "train", tiles: Tiles | None = None
    ) -> tuple[tuple[int, int], Tiles | None]:
        """(H,W) at which the network sees a picture of `shape` (H,W), and in which tiles; None: as a whole."""
        seen = self.fit.at(size, tiles is not None).shape(*shape)
        return seen, tiles or tiles_of_large(seen, self.tiles)

    def tiled(
        self,
        picture: Image.Image,
        tiles: Tiles,
        views: TestTimeAugmentation | None = None,
        batch: int | None = None,
        advance: Callable[[float], None] = lambda share: None,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """The probabilities of a picture at its own size, in blocks (see `blend_tiles`)."""
        number = len(tiles.starts(picture.height)) * len(tiles.starts(picture.width))

        def chances(places: Sequence[Place]) -> Tensor:
            ends = [
                (min(left + tiles.side, picture.width), min(top + tiles.side, picture.height)) for top, left in places
            ]
            boxes = [(left, top, *end) for (top, left), end in zip(places, ends, strict=True)]
            scores = self.batch_scores(np.stack([to_rgb(picture.crop(box)) for box in boxes]), views)
            advance(len(places) / number)
            return scores.float() if views else scores.float().softmax(1)

        batch = batch or tiles_per_batch(tiles.side**2, self.device)
        return blend_tiles((picture.height, picture.width), tiles, chances, batch)

    def resized(self, picture: Image.Image, shape: tuple[int, int]) -> np.ndarray:
        """The picture at `shape` (h,w), RGB uint8 (h,w,3), resized in the same way as in a data set's cache."""
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        if picture.size != shape[::-1]:
            picture = picture.resize(shape[::-1], Image.Resampling.BILINEAR)
        return np.array(picture)

    @torch.inference_mode()
    def batch_scores(self, images: np.ndarray, views: TestTimeAugmentation | None = None) -> Tensor:
        """Logits (B,C,h,w) of images uint8 (B,h,w,3), in the network's precision; with views, probabilities."""
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        with self.autocast():
            if views is None:
                return self.network(pixels)
            return views.mean_probability(self.network, pixels)

    def autocast(self) -> AbstractContextManager:
        """The precision of the run's test, if the device has it."""
        dtype = AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()


def load(run: str | Path, device: str = "auto") -> Model:
    """The tested network of a run's folder, ready to predict. No code in the folder is executed.

    Raises ConfigError if it is no finished run, if it names parts that segstudy does not build, or if the device is not
    available.
    """
    return Model(load_runs([Path(run).expanduser()])[0], device)


def as_picture(photo: Photo) -> Image.Image:
    """A picture with 8 bits per channel, upright if it is a file. Raises DataError as `as_image` does."""
    if isinstance(photo, str | Path):
        path = Path(photo).expanduser()
        if not path.is_file():
            raise DataError(f"{path} is a folder, not a photo" if path.is_dir() else f"there is no file {path}")
        return open_upright(path)[0]
    return to_eight_bits(photo) if isinstance(photo, Image.Image) else Image.fromarray(as_image(photo))


def as_image(photo: Photo) -> np.ndarray:
    """RGB uint8 (H,W,3). Raises DataError for a file that cannot be read, and for values of another shape or type."""
    if isinstance(photo, str | Path | Image.Image):
        return to_rgb(as_picture(photo))
    values = photo
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        if values.ndim == 3 and values.shape[0] in (1, 3):
            values = values.permute(1, 2, 0)
        values = values.numpy()
    if values.dtype.kind == "f" and values.size and values.min() >= 0 and values.max() <= 1:
        values = (values * 255).round().astype(np.uint8)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, 2)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise DataError(
            f"an array of shape {tuple(photo.shape)} and type {photo.dtype} is not a photo\n"  # type: ignore[union-attr]
            "  → shape (H,W,3) or (H,W), for a tensor also (3,H,W); uint8, or floats in 0…1"
        )
    return np.ascontiguousarray(values)

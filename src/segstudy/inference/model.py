"""Predict photos with a trained run: `segstudy.load("runs/study/v4").predict("photo.jpg")`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segstudy.data.bands import Bands, picture_values
from segstudy.data.datamodule import LARGEST_SCORES
from segstudy.data.fit import Fit
from segstudy.data.images import resize_image, to_eight_bits, to_rgb
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
"""A file, a picture, or its values: uint8 (H,W,C) or (H,W), or a tensor (C,H,W), uint8 or float in 0…1; for a run with
`data.value_range`, values as its files hold them."""


@dataclass(frozen=True)
class InputSettings:
    """How a network sees a photo.

    size: see `Fit.at`. views: the probabilities of these are averaged. tiles: it is seen in parts; None: only if it is
    large, as in the run's test. batch: tiles in a batch; None: as many as are fast.
    """

    size: str = "train"
    views: TestTimeAugmentation | None = None
    tiles: Tiles | None = None
    batch: int | None = None


AS_TESTED = InputSettings()

Advance = Callable[[float], None]
"""Called with the share of a photo that has been predicted since the last call."""


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
    size the run's test sees an image. tiles: side of the tiles in which it sees a large one. bands: which channels of a
    file it sees, and how. network: image float (B,channels,H,W) in 0…1 → logits (B,C,H,W). plain: the run's own
    network, which may have one channel for two classes. device_line: device and precision, and why.
    """

    def __init__(self, member: LoadedRun, device: str = "auto"):
        """device: auto, cpu, cuda or mps. Raises ConfigError if it is not available."""
        self.name, self.folder, self.record, self.cfg = member.name, member.folder, member.record, member.cfg
        self.classes: list[str] = list(member.record["class_names"])
        self.palette = [tuple(rgb) for rgb in member.record["palette"]]
        self.background: int | None = member.record["data"].get("background")
        self.fit, self.tiles = Fit.of(member.cfg.data), member.cfg.data.get("tiles", DEFAULT_SIDE)
        self.bands = Bands.of(member.cfg.data)
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
        return self.labels(as_image(photo, self.bands), InputSettings(size, views, tiles))[0]

    def probabilities(self, photo: Photo, size: str = "train", views: TestTimeAugmentation | None = None) -> np.ndarray:
        """float32 (C,H,W) in the photo's own size, interpolated from the network's where they differ."""
        image = as_image(photo, self.bands)
        scores = self.scores(image, InputSettings(size, views)).float()
        return scores_at(scores if views else scores.softmax(0), image.shape[:2]).cpu().numpy()

    @torch.inference_mode()
    def labels(
        self, image: np.ndarray, settings: InputSettings = AS_TESTED, advance: Advance = lambda share: None
    ) -> tuple[np.ndarray, float]:
        """Labels uint8 (H,W) of an image uint8 (H,W,channels), and the mean of the highest probability over the
        network's pixels."""
        shape = image.shape[:2]
        seen, parts = self.input_of(shape, settings)
        if parts is None or seen != shape:
            scores = self.scores(image, settings, advance)
            return labels_and_mean_confidence(scores, shape, settings.views is not None)
        labels, total = np.empty(shape, np.uint8), 0.0
        for top, left, block in self.tiled(image, parts, settings, advance):  # the scores of a part at a time
            best, winner = block.max(0)
            rows, columns = winner.shape
            labels[top : top + rows, left : left + columns] = winner.to(torch.uint8).cpu().numpy()
            total += best.sum(dtype=torch.float64).item()
        return labels, total / labels.size

    @torch.inference_mode()
    def scores(
        self, image: np.ndarray, settings: InputSettings = AS_TESTED, advance: Advance = lambda share: None
    ) -> Tensor:
        """Logits (C,h,w) of an image uint8 (H,W,channels), at the network's size; with views, probabilities.

        Raises DataError if they would take too much memory.
        """
        height, width = image.shape[:2]
        seen, tiles = self.input_of((height, width), settings)
        if (needed := math.prod(seen) * len(self.classes) * 4) > LARGEST_SCORES:
            raise DataError(
                f"a photo of {width}×{height} pixels, seen at {seen[1]}×{seen[0]}: scores for "
                f"{len(self.classes)} classes take {needed / 2**30:.0f} GiB, at most {LARGEST_SCORES / 2**30:.0f} GiB "
                "are possible\n  → size original with tiles (--size original --tiles 512), or a smaller photo"
            )
        if tiles is None:
            scores = self.batch_scores(resize_image(image, seen)[None], settings.views)[0]
            advance(1)
            return scores
        whole = join_blocks(seen, self.tiled(resize_image(image, seen), tiles, settings, advance))
        return whole if settings.views else as_logits(whole)

    def input_of(self, shape: tuple[int, int], settings: InputSettings) -> tuple[tuple[int, int], Tiles | None]:
        """(H,W) at which the network sees an image of `shape` (H,W), and in which tiles; None: as a whole."""
        seen = self.fit.at(settings.size, settings.tiles is not None).shape(*shape)
        return seen, settings.tiles or tiles_of_large(seen, self.tiles)

    def tiled(
        self, image: np.ndarray, tiles: Tiles, settings: InputSettings, advance: Advance
    ) -> Iterator[tuple[int, int, Tensor]]:
        """The probabilities of an image uint8 (H,W,channels) at its own size, in blocks (see `blend_tiles`)."""
        height, width = image.shape[:2]
        number = len(tiles.starts(height)) * len(tiles.starts(width))

        def chances(places: Sequence[Place]) -> Tensor:
            parts = [image[top : top + tiles.side, left : left + tiles.side] for top, left in places]
            scores = self.batch_scores(np.stack(parts), settings.views)
            advance(len(places) / number)
            return scores.float() if settings.views else scores.float().softmax(1)

        batch = settings.batch or tiles_per_batch(tiles.side**2, self.device)
        return blend_tiles((height, width), tiles, chances, batch)

    @torch.inference_mode()
    def batch_scores(self, images: np.ndarray, views: TestTimeAugmentation | None = None) -> Tensor:
        """Logits (B,C,h,w) of images uint8 (B,h,w,channels), in the network's precision; with views, probabilities."""
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


def as_image(photo: Photo, bands: Bands | None = None) -> np.ndarray:
    """uint8 (H,W,channels), as a network with these bands sees a photo; RGB by default.

    Raises DataError for a file that cannot be read, and for values of another shape or type.
    """
    bands = bands or Bands()
    if isinstance(photo, str | Path):
        path = Path(photo).expanduser()
        if not path.is_file():
            raise DataError(f"{path} is a folder, not a photo" if path.is_dir() else f"there is no file {path}")
        bands.check([path])
        return bands.read(path)[0]
    if isinstance(photo, Image.Image):
        bands.check([photo])
        if bands.are_photos:
            return to_rgb(to_eight_bits(photo))
        return bands.convert(picture_values(photo, bands.value_range is not None), "the picture")[0]
    values: Any = photo
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        if values.ndim == 3 and values.shape[0] in (1, bands.number):
            values = values.permute(1, 2, 0)
        values = values.numpy()
    floats = values.dtype.kind == "f" and values.size and values.min() >= 0 and values.max() <= 1
    if floats and bands.value_range is None:
        values = (values * 255).round().astype(np.uint8)
    if values.ndim == 2:
        values = values[..., None]
    typed = values.dtype.kind in "uif" if bands.value_range else values.dtype == np.uint8
    if not typed or values.ndim != 3 or 0 in values.shape or (bands.are_photos and values.shape[2] not in (1, 3)):
        c = bands.number
        kinds = "numbers" if bands.value_range else "uint8, or floats in 0…1"
        raise DataError(
            f"an array of shape {tuple(photo.shape)} and type {photo.dtype} is not a photo\n"
            f"  → shape (H,W,{c}) or (H,W), for a tensor also ({c},H,W); {kinds}"
        )
    return np.ascontiguousarray(bands.convert(values, "the array")[0])

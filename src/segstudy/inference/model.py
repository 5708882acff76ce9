"""A trained run, ready for photos: `segstudy.load("runs/study/v4").predict("photo.jpg")`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segstudy.build import choose_device
from segstudy.callbacks.counts import labels_at
from segstudy.callbacks.tta import mean_over_views
from segstudy.data.reading import read_image
from segstudy.errors import DataError
from segstudy.inference.runs import Member, Views, open_members, sides
from segstudy.module import two_channels
from segstudy.networks.encoders import IMAGENET_MEAN, IMAGENET_STD

Photo = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a picture, or RGB or grey values: uint8 (H,W,3) or (H,W), or a tensor (3,H,W), uint8 or float in 0…1."""
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Normalised(nn.Module):
    """A network with the normalisation that it expects: image in 0…1 → logits of all classes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        encoder = getattr(network, "encoder", None)
        self.mean: Sequence[float] = IMAGENET_MEAN if encoder is None else encoder.mean
        self.std: Sequence[float] = IMAGENET_STD if encoder is None else encoder.std
        self.network = TwoChannels(network)

    def normalised(self, image: Tensor) -> Tensor:
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (image - mean) / std

    def forward(self, image: Tensor) -> Tensor:
        return self.network(self.normalised(image))

    def seen(self, image: Tensor, views: Views) -> Tensor:
        """The mean probability (B,C,H,W) over views of the normalised image."""
        return mean_over_views(self.network, self.normalised(image), views.scales, views.flip)


class TwoChannels(nn.Module):
    """A network whose one channel for two classes, if it has one, comes as two."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.plain = network

    def forward(self, image: Tensor) -> Tensor:
        return two_channels(self.plain(image))


class Model:
    """A trained network with its classes and colours.

    classes: their names; palette: an RGB colour for each; background: a class's number or None; size: the (H,W) that it
    was trained at; network: image float (B,3,H,W) in 0…1 → logits (B,C,H,W), its normalisation inside; device_line:
    device and precision, and why.
    """

    def __init__(self, member: Member, device: str = "auto"):
        """device: auto, cpu, cuda or mps. Raises ConfigError if it is not there."""
        self.name, self.folder, self.record, self.cfg = member.name, member.folder, member.record, member.cfg
        self.classes: list[str] = list(member.record["class_names"])
        self.palette = [tuple(rgb) for rgb in member.record["palette"]]
        self.background: int | None = member.record["data"]["background"]
        self.size = sides(member.cfg.data.size)
        accelerator, self.precision, reason = choose_device(device, member.cfg.trainer.precision)
        self.device = torch.device(accelerator)
        self.device_line = f"{accelerator}, {self.precision}: {reason}"
        self.network = Normalised(member.network).to(self.device).eval()

    @overload
    def predict(self, photo: Photo, size: str = "train", views: Views | None = None) -> np.ndarray: ...
    @overload
    def predict(self, photo: list[Any], size: str = "train", views: Views | None = None) -> list[np.ndarray]: ...
    def predict(self, photo: Any, size: str = "train", views: Views | None = None) -> Any:
        """Labels uint8 (H,W) in the photo's own size; of a list of photos, a list.

        size: of the image that the network sees: train (as its test), original, N or HEIGHTxWIDTH. views: average
        these. Raises DataError for what is no photo.
        """
        if isinstance(photo, list):
            return [self.predict(each, size, views) for each in photo]
        image = as_image(photo)
        return labels_at(self.scores(image, size, views), image.shape[:2]).to(torch.uint8).cpu().numpy()

    def probabilities(self, photo: Photo, size: str = "train", views: Views | None = None) -> np.ndarray:
        """float32 (C,H,W) in the photo's own size, interpolated from the network's where they differ."""
        image = as_image(photo)
        scores = self.scores(image, size, views)
        chances = (scores if views else scores.softmax(0))[None]
        return nn.functional.interpolate(chances, size=image.shape[:2], mode="bilinear")[0].cpu().numpy()

    @torch.inference_mode()
    def scores(self, image: np.ndarray, size: str = "train", views: Views | None = None) -> Tensor:
        """Logits float32 (C,h,w) of an image uint8 (H,W,3), at the network's size; with views, probabilities."""
        height, width = self.size if size == "train" else image.shape[:2] if size == "original" else sides(size)
        if image.shape[:2] != (height, width):  # as the cache of a data set does
            image = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(image).to(self.device)[None].permute(0, 3, 1, 2).float() / 255
        with self.autocast():
            scores = self.network.seen(pixels, views) if views else self.network(pixels)
        return scores[0].float()

    def autocast(self) -> AbstractContextManager:
        """The precision that the run's test had, where the device has it."""
        dtype = DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()


def load(run: str | Path, device: str = "auto") -> Model:
    """The tested network of a run's folder, ready to predict. Nothing in the folder is executed.

    Raises ConfigError if it is no finished run or holds what segstudy does not build, and if the device is not there.
    """
    return Model(open_members([Path(run).expanduser()])[0], device)


def as_image(photo: Photo) -> np.ndarray:
    """RGB uint8 (H,W,3). Raises DataError for a file that cannot be read and for values of another shape or kind."""
    if isinstance(photo, str | Path):
        return read_image(Path(photo).expanduser())[0]
    if isinstance(photo, Image.Image):
        return np.array(photo.convert("RGB"))
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
            f"no photo: values of shape {tuple(photo.shape)}, {photo.dtype}\n"  # type: ignore[union-attr]
            "  → uint8 (H,W,3) or (H,W), a tensor (3,H,W), or floats in 0…1"
        )
    return np.ascontiguousarray(values)

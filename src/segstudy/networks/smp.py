"""Whole architectures of segmentation-models-pytorch, for those that the modular network cannot express."""

from typing import Annotated

import segmentation_models_pytorch as library
import torch
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.errors import did_you_mean
from segstudy.networks.encoders import LibraryEncoder, normalize_for

PAN_SIZE = 128
"""Smallest height and width that PAN can take. Smaller images are padded, but not in training: most of it would be
padding."""


def architectures() -> dict[str, str]:
    """{name in lower case: name} of the library's architectures that accept a pyramid of maps.

    DPT needs the maps of a vision transformer, all of one stride; no encoder here has them.
    """
    found = {name.lower(): name for name in vars(library) if isinstance(getattr(library, name), type)}
    return {key: name for key, name in found.items() if key not in ("segmentationmodel", "dpt")}


def _architecture(name: str) -> str:
    known = architectures()
    if name.lower() not in known:
        raise ValueError(f"must be one of {', '.join(known.values())}{did_you_mean(name, list(known.values()))}")
    return name


Architecture = Annotated[str, AfterValidator(_architecture)]


class SMPNetwork(nn.Module):
    """Image (B,C,H,W) in 0…1 → logits (B,num_classes,H,W) by `arch` (Unet, DeepLabV3Plus, …) around `encoder`.

    Only the name and weights of `encoder` are used; bridge, decoder and head are those of the architecture. So under
    bf16 the logits are bf16 too: about one pixel of a thousand is a tie, which goes to the first class.
    Raises ValueError for an encoder that is not the library's.
    """

    def __init__(
        self,
        num_classes: int,
        encoder: LibraryEncoder,
        arch: Architecture = "Unet",
        in_channels: int = 3,
        **options: object,
    ):
        super().__init__()
        if not isinstance(encoder, LibraryEncoder):
            raise ValueError("network=smp needs a library encoder: add encoder=resnet34 or encoder.name=…")
        self.normalize = normalize_for(encoder, in_channels)
        self.model = library.create_model(
            arch.lower(), encoder_name=encoder.name, encoder_weights=None, in_channels=in_channels, classes=num_classes,
            **options,
        )  # fmt: skip
        if not encoder.weights_origin.startswith("random"):
            want, state = self.model.encoder.state_dict(), encoder.body.state_dict()
            # the encoder of a shallow architecture lacks the last layers
            self.model.encoder.load_state_dict({k: v for k, v in state.items() if k in want})
        self.model.encoder.weights_origin = encoder.weights_origin
        encoder.body = self.model.encoder
        # A plain attribute, not a submodule: its weights are those of the model and must not be listed twice.
        object.__setattr__(self, "encoder", encoder)
        self.stride = max(32, getattr(self.model.encoder, "output_stride", 32))
        self.is_pan = arch.lower() == "pan"

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        right: int | torch.SymInt = -width % self.stride
        below: int | torch.SymInt = -height % self.stride
        if self.is_pan and not self.training:  # its attention halves the map of stride 16 three times
            right = torch.sym_max(right, PAN_SIZE - width)
            below = torch.sym_max(below, PAN_SIZE - height)
        padded = F.pad(self.normalize(image), (0, right, 0, below))  # type: ignore[arg-type]
        return self.model(padded)[:, :, :height, :width]

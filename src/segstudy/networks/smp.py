"""Any whole architecture of segmentation-models-pytorch, where the sockets do not fit."""

import segmentation_models_pytorch as library
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.errors import did_you_mean
from segstudy.networks.encoders import LibraryEncoder, normalize_for


class SMPNetwork(nn.Module):
    """Image (B,3,H,W) in 0…1 → logits (B,num_classes,H,W) by `arch` (Unet, DeepLabV3Plus, …) around `encoder`.

    Only the encoder's name and weights are read from the socket; bridge, decoder and head are the architecture's own,
    so that under bf16 its logits are bf16 too: about one pixel of a thousand is a tie, which goes to the first class.
    Raises ValueError for an unknown architecture or an encoder that is not the library's.
    """

    def __init__(self, num_classes: int, encoder: LibraryEncoder, arch: str = "Unet", **options: object):
        super().__init__()
        known = architectures()
        if arch.lower() == "dpt":
            raise ValueError(
                "network.arch=DPT needs a vision transformer's maps of one stride, which no encoder here has\n"
                f"  → network.arch= one of {', '.join(known.values())}"
            )
        if arch.lower() not in known:
            raise ValueError(f"network.arch={arch!r} is unknown{did_you_mean(arch, list(known.values()))}")
        if not isinstance(encoder, LibraryEncoder):
            raise ValueError("network=smp needs a library encoder: add encoder=resnet34 or encoder.name=…")
        self.normalize = normalize_for(encoder)
        self.model = library.create_model(
            arch.lower(), encoder_name=encoder.name, encoder_weights=None, in_channels=3, classes=num_classes, **options
        )
        if not encoder.weights_origin.startswith("random"):
            want, state = self.model.encoder.state_dict(), encoder.body.state_dict()
            # a shallow architecture's encoder lacks the last layers
            self.model.encoder.load_state_dict({k: v for k, v in state.items() if k in want})
        self.model.encoder.weights_origin = encoder.weights_origin
        encoder.body = self.model.encoder
        # A plain attribute, not a submodule: its weights are the model's and must not be listed twice.
        object.__setattr__(self, "encoder", encoder)
        self.stride = max(32, getattr(self.model.encoder, "output_stride", 32))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        image = F.pad(self.normalize(image), (0, -width % self.stride, 0, -height % self.stride))
        return self.model(image)[:, :, :height, :width]


def architectures() -> dict[str, str]:
    """The library's architectures that take a pyramid of maps, by their names in lower case."""
    found = {name.lower(): name for name in vars(library) if isinstance(getattr(library, name), type)}
    return {key: name for key, name in found.items() if key not in ("segmentationmodel", "dpt")}

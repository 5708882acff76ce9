"""What the config of a run folder may build: the folder may come from a stranger."""

import inspect
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

ALLOWED = ("segstudy.", "lightning.Trainer", "lightning.pytorch.callbacks.", "torch.optim.", "torch.nn.")
"""Targets that a run folder's config may build, if they are of the right kind for their group (`is_allowed`). The
classes of segmentation_models_pytorch are not among them: they download.

Users add their own modules with SEGSTUDY_TRUST=my_loss,…"""


def is_trusted(target: str) -> bool:
    """Whether a config from a run folder may build `target`."""
    own = tuple(f"{m.strip()}." for m in os.environ.get("SEGSTUDY_TRUST", "").split(",") if m.strip())
    return target.startswith(ALLOWED + own) and ".." not in target


def is_allowed(place: str, thing: Any) -> bool:
    """Whether `thing` is of the kind that the first group in `place` builds, so that building it does no harm.

    A function, or a class of another kind that a module imports (pathlib.Path, subprocess.Popen), could do harm.
    """
    import lightning as L

    from segstudy.data.transforms.augment import Augment
    from segstudy.data.transforms.base import Transform
    from segstudy.networks.encoders import Encoder

    group = place.split(".")[0]
    if group == "schedule":
        return getattr(thing, "__module__", None) == "segstudy.optim" and inspect.isfunction(thing)
    kinds: dict[str, tuple[type, ...]] = {
        "data": (L.LightningDataModule, Augment, Transform), "trainer": (L.Trainer,), "callbacks": (L.Callback,),
        "optim": (Optimizer,),
    }  # fmt: skip
    if not inspect.isclass(thing) or not issubclass(thing, kinds.get(group, (nn.Module,))):
        return False
    return group in ("network", "encoder") or not issubclass(thing, Encoder)  # an encoder may download weights


def restrict_paths(data: DictConfig) -> None:
    """Keep a finished run's data, which may be a stranger's, from writing where its config says.

    Nothing is downloaded, and caches go to this machine's cache folder, unless the config names an existing one.
    Settings of the command line (data.…=…) are merged after this.
    """
    own: dict[str, Any] = {"download": False}
    if not any(Path(str(data.get("cache_dir"))).expanduser().glob("*/images.bin")):
        own["cache_dir"] = os.environ.get("SEGSTUDY_CACHE", "~/.cache/segstudy")
    data.update({key: value for key, value in own.items() if key in data})

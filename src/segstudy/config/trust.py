"""What a config may build that came with a run folder, which may be a stranger's."""

import inspect
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

ALLOWED = ("segstudy.", "lightning.Trainer", "lightning.pytorch.callbacks.", "torch.optim.", "torch.nn.")
"""What a run folder's config may build, if it is a part of its group (`is_allowed`); smp's own classes download.

A machine's user adds modules of their own in SEGSTUDY_TRUST=my_loss,…"""


def is_trusted(target: str) -> bool:
    """Whether a config that someone sent may build `target`."""
    own = tuple(f"{m.strip()}." for m in os.environ.get("SEGSTUDY_TRUST", "").split(",") if m.strip())
    return target.startswith(ALLOWED + own) and ".." not in target


def is_allowed(place: str, thing: Any) -> bool:
    """Whether a thing is what the group at the head of `place` builds, and so does nothing but be built.

    A function, or a class imported from elsewhere (pathlib.Path, subprocess.Popen), could do more.
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
    return group in ("network", "encoder") or not issubclass(thing, Encoder)  # an encoder may load weights from a hub


def restrict_paths(data: DictConfig) -> None:
    """Let the data of a finished run, which may be a stranger's, write nowhere that its config says.

    Unless it names a place of caches that is there, its own goes where this machine keeps them, and nothing is
    downloaded. What a person says (data.…=…) is merged after this.
    """
    own: dict[str, Any] = {"download": False}
    if not any(Path(str(data.get("cache_dir"))).expanduser().glob("*/images.npy")):
        own["cache_dir"] = os.environ.get("SEGSTUDY_CACHE", "~/.cache/segstudy")
    data.update({key: value for key, value in own.items() if key in data})

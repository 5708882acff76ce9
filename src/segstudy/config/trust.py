"""What the config of a run folder may build: the folder may come from a stranger."""

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

ALLOWED = ("segstudy.", "lightning.Trainer", "lightning.pytorch.callbacks.", "torch.optim.", "torch.nn.")
"""Targets that a run folder's config may build, if they are of the right kind for their group (`is_allowed`). The
classes of segmentation_models_pytorch are not among them: they download.

Users add their own modules with SEGSTUDY_TRUST=my_loss,…"""


RESOLVERS = ("stem", "run_name")
"""What an interpolation in a run folder's config may call: `${oc.env:NAME}` would show a stranger's file what the
environment of this machine holds."""


def foreign_resolvers(container: Any, place: str = "") -> Iterator[str]:
    """Each interpolation of an unresolved config that calls another function than RESOLVERS, as `place: ${…}`."""
    if isinstance(container, Mapping | list):
        items = container.items() if isinstance(container, Mapping) else enumerate(container)
        for key, value in items:
            yield from foreign_resolvers(value, f"{place}.{key}".lstrip("."))
    elif isinstance(container, str) and any(name not in RESOLVERS for name in CALL.findall(container)):
        yield f"{place}: {container}"


CALL = re.compile(r"\$\{\s*([\w.]+)\s*:")


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


def cache_dir() -> str:
    """This machine's cache folder, as in conf/data_common.yaml."""
    return os.environ.get("SEGSTUDY_CACHE", "~/.cache/segstudy")


def restrict_paths(data: DictConfig) -> None:
    """Keep a finished run's data, which may be a stranger's, from writing where its config says.

    Nothing is downloaded, there are no more loader processes than cores, and caches go to this machine's cache folder,
    unless the config names an existing one.
    Settings of the command line (data.…=…) are merged after this.
    """
    own: dict[str, Any] = {"download": False}
    if isinstance(workers := data.get("workers"), int):
        own["workers"] = min(workers, os.cpu_count() or 1)
    if not any(Path(str(data.get("cache_dir"))).expanduser().glob("*/images.bin")):
        own["cache_dir"] = cache_dir()
    data.update({key: value for key, value in own.items() if key in data})

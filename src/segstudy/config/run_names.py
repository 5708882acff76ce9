"""The name of a run's folder, the settings that identify a run, and the differences between two configs."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segstudy.config.paths import CONF

MACHINE_SETTINGS = re.compile(
    r"(runs_dir|study|budget|report|logger|data\.(name|root|cache_dir|workers|device_cache|download)"
    r"|trainer\.(accelerator|devices|num_nodes|logger)"
    r"|callbacks\.(throughput|finite_loss|pictures|inspector|history|state_dict|learning_rate|progress))(\.|$)"
)
"""Settings of the machine (paths, devices, progress, logging). They do not change the run's result, so they may change
when it is continued."""

NAME_LETTERS = 180

PARTS = ("encoder", "bridge", "decoder", "head")


def run_folder_name(study: str, model: str, overrides: Sequence[str]) -> str:
    """The name of a run's folder in the folder of its study: `run_name`, or that of an older version if it exists."""
    older = run_name(model, overrides, "=")
    return older if (Path(study) / older).is_dir() else run_name(model, overrides)


def run_name(model: str, overrides: Sequence[str], between: str = "-") -> str:
    """The model, then the changed settings, such as `v3_encoder-mobilenet_v2_seed-1`: no quotes on a command line.

    between: key and value; = in older versions.
    A name longer than NAME_LETTERS is cut, and a hash of the whole name is added: each run needs its own folder.
    """
    parts = [model]
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if (
            key in ("model", "experiment", "hparams_search")
            or MACHINE_SETTINGS.match(key)
            or (key == "trainer" and not trains_otherwise(value))
        ):
            continue
        value = value.strip("'" if between == "=" else "'[]").rsplit("/", 1)[-1]  # the file's name of a path
        # keep the part's name where several have the same setting: mixup.probability, ema.enabled
        part = key.removesuffix("._target_")  # loss._target_=my_loss.MyLoss is loss=my_loss.MyLoss
        length = 2 if part == key and key.startswith(("data.augment.then.", "callbacks.")) else 1
        short = ".".join(part.split(".")[-length:])
        parts.append(value if key == "data" else f"{short}{between}{value}")
    kept = "=," if between == "=" else ""
    name = re.sub(rf"[^\w.+{kept}-]+", "-", "_".join(parts))
    if len(name) <= NAME_LETTERS and len(name.encode()) <= 255:  # a file name's limit in bytes
        return name
    start = name[:NAME_LETTERS].encode()[: NAME_LETTERS - 13].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def trains_otherwise(trainer: str) -> bool:
    """Whether `trainer=NAME` changes the run's result, unlike `trainer=auto`: it sets more than MACHINE_SETTINGS."""

    def settings(name: str) -> DictConfig:
        own = OmegaConf.load(CONF / "trainer" / f"{name}.yaml")
        assert isinstance(own, DictConfig)
        inherited = [settings(str(each)) for each in own.pop("defaults", []) if each != "_self_"]
        return OmegaConf.merge(*inherited, own)  # type: ignore[return-value]

    try:
        named = settings(trainer.strip("'\""))
    except FileNotFoundError:  # the user's own file elsewhere
        return True
    return bool(differences(OmegaConf.create({"trainer": settings("auto")}), OmegaConf.create({"trainer": named})))


EARLIER = {
    "optim.decay_norms": True,
    "trainer.max_steps": -1,
    "callbacks.per_image_errors._target_": "segstudy.callbacks.per_image_errors.PerImageErrors",
    "callbacks.per_image_errors.max_side": 1024,
}
"""The behaviour before these settings existed."""


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """The settings in which two configs describe different runs, as `key: old → new`."""

    def flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(cfg, dict):
            return {prefix[:-1]: cfg}
        return {k: v for key, value in cfg.items() for k, v in flat(value, f"{prefix}{key}.").items()}

    a, b = (flat(OmegaConf.to_container(c, resolve=False)) for c in (old, new))
    a = {key: value for key, value in EARLIER.items() if key in b} | a
    names = {".".join(k.split(".")[:2]) for k in {*a, *b} if k.startswith("callbacks.")}
    idle = [f"{name}." for name in names if a.get(f"{name}.enabled") is b.get(f"{name}.enabled") is False]
    if not any(c.get("optim.optimizer.weight_decay") for c in (a, b)):
        idle.append("optim.decay_norms")  # without weight decay it has no effect
    keys = [k for k in sorted({*a, *b}) if not MACHINE_SETTINGS.match(k) and a.get(k) != b.get(k)]
    keys = [k for k in keys if not k.startswith(tuple(idle))]
    return [f"{k}: {a.get(k)} → {b.get(k)}" for k in keys]


def changed_settings(model: str, overrides: Sequence[str]) -> list[str]:
    """The settings that the command changed, model first. Variants are named after them in tables."""
    keep = (o.lstrip("+~") for o in overrides)
    return [
        f"model={model}",
        *(o for o in keep if not o.startswith(("model=", "experiment=", "hparams_search=", "report."))),
    ]


def hyperparameters(cfg: DictConfig, variant: str) -> dict[str, int | float | str]:
    """The settings that identify a run, as plain values, under the same names in every run: TensorBoard takes the
    columns of its table from the first run of a study, and shows the first five."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    network, optim = settings["network"], settings["optim"]
    parts = {name: network.get(name) for name in PARTS}  # not every network has all of them
    parts |= {"network": {name: value for name, value in network.items() if name not in PARTS}}
    parts |= {"loss": settings["loss"], "optimizer": optim["optimizer"], "schedule": settings["schedule"]}
    encoder_lr = optim["lr"] if optim.get("encoder_lr") is None else optim["encoder_lr"]
    plain = {"variant": variant, "seed": settings["seed"], "lr": optim["lr"], "lr of the encoder": encoder_lr}
    return plain | {name: _described(part) for name, part in parts.items()}


def _described(node: Any) -> str:
    """Nested settings in one line, such as Focal(gamma=2.0), without those that are null; – for null itself."""
    if not isinstance(node, dict):
        return "–" if node is None else str(node)
    given = [f"{k}={_described(v)}" for k, v in node.items() if v is not None and not k.startswith("_")]
    return f"{str(node.get('_target_', '')).rsplit('.', 1)[-1]}({', '.join(given)})"

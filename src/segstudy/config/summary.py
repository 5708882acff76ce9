"""A config in a few words, for tables."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

PARTS = ("encoder", "bridge", "decoder", "head")


def hyperparameters(cfg: DictConfig, variant: str) -> dict[str, int | float | str]:
    """What sets a run apart, in plain values and under the same names in every run: TensorBoard takes the columns of
    its table from the first run of a study, and shows the first five."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    network, optim = settings["network"], settings["optim"]
    parts = {name: network.get(name) for name in PARTS}  # the network's: not every one has them all
    parts |= {"network": {name: value for name, value in network.items() if name not in PARTS}}
    parts |= {"loss": settings["loss"], "optimizer": optim["optimizer"], "schedule": settings["schedule"]}
    encoder_lr = optim["lr"] if optim["encoder_lr"] is None else optim["encoder_lr"]
    plain = {"variant": variant, "seed": settings["seed"], "lr": optim["lr"], "lr of the encoder": encoder_lr}
    return plain | {name: describe_part(part) for name, part in parts.items()}


def describe_part(node: Any) -> str:
    """Nested settings in one line, such as Focal(gamma=2.0), without those that are null; – for null itself."""
    if not isinstance(node, dict):
        return "–" if node is None else str(node)
    given = [f"{k}={describe_part(v)}" for k, v in node.items() if v is not None and not k.startswith("_")]
    return f"{str(node.get('_target_', '')).rsplit('.', 1)[-1]}({', '.join(given)})"

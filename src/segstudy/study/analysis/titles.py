"""A variant's title: its parts, or what it changes in an earlier variant, from the recorded configs."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from segstudy.config.run_folder import read_config
from segstudy.errors import SegstudyError
from segstudy.study.analysis.samples import RunsByVariant
from segstudy.study.results import TestResult

PARTS = ("network", "encoder", "bridge", "decoder", "loss")


def variant_titles(variants: RunsByVariant) -> dict[str, str]:
    """For example "v2 + ASPP": the earlier variant with the fewest other parts, and these. The first variant: its
    parts. "" without a config, and where only other settings differ: a variant's name tells those."""
    described = {name: _parts(runs[0]) for name, runs in variants.items()}
    titles: dict[str, str] = {}
    for name, parts in described.items():
        known = [earlier for earlier in reversed(titles) if described[earlier] and parts]
        nearest = min(known, key=lambda earlier: len(_changed(described[earlier], parts)), default="")
        titles[name] = _difference(nearest, described[nearest], parts) if known else _whole(parts)
    return titles


def _parts(test: TestResult) -> dict[str, str]:
    """The parts of a run in words; {} for masks, and without a readable config."""
    if test.folder is None:
        return {}
    try:
        cfg = read_config(test.folder, ())
    except (SegstudyError, OSError):
        return {}
    nodes: dict[str, Any] = {part: OmegaConf.to_container(cfg[part]) for part in PARTS if cfg.get(part)}
    if nodes.get("network", {}).get("arch"):  # an architecture of smp has its own decoder
        nodes = {part: node for part, node in nodes.items() if part not in ("bridge", "decoder")}
    parts = {part: _words(node) for part, node in nodes.items()}
    parts |= {part: f"{parts[part]} {part}" for part in ("decoder", "loss") if parts.get(part)}
    if parts.get("encoder"):
        parts["encoder"] = _encoder(parts["encoder"], nodes["encoder"], str(test.record.get("encoder_weights") or ""))
    return parts


def _encoder(words: str, node: Mapping[str, Any], origin: str) -> str:
    """ImageNet ResNet-34, ResNet-34 (random weights), EfficientNet-Lite0, Preact encoder."""
    if "name" not in node:
        return f"{words} encoder"
    words = re.sub(r"^resnet(\d+)$", r"ResNet-\1", words)
    words = re.sub(r"^(tu-)?(tf_)?efficientnet[_-](\w+)$", lambda m: f"EfficientNet-{m[3].capitalize()}", words)
    return (
        f"{words} (random weights)" if origin.startswith("random") else f"{'ImageNet ' * ('imagenet' in origin)}{words}"
    )


def _words(node: Mapping[str, Any]) -> str:
    """A part in words: the terms of a loss, the name of a library's part, else of its class."""
    if "terms" in node:
        return " + ".join(_words(term) for term in node["terms"].values())
    if name := node.get("name") or node.get("arch"):
        return str(name)
    words = str(node.get("_target_", "")).rsplit(".", 1)[-1]
    words = re.sub("(?<=[a-z])(Encoder|Bridge|Decoder|Network)$", "", words)
    words = "" if words in ("No", "Network") else re.sub("(?<=[a-z])(?=[A-Z])", "-", words)
    return words.lower() if "-" in words else words


def _changed(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return [part for part in PARTS if a.get(part, "") != b.get(part, "")]


def _difference(name: str, a: Mapping[str, str], b: Mapping[str, str]) -> str:
    """`name` with the parts of b that differ from those of a; "" if none do."""
    if not (changed := _changed(a, b)):
        return ""
    added = "".join(f" + {b[part]}" for part in changed if part == "bridge" and b.get(part) and not a.get(part))
    removed = [f"without {a[part]}" for part in changed if a.get(part) and not b.get(part)]
    other = [b[part] for part in changed if b.get(part) and (a.get(part) or part != "bridge")]
    return f"{name}{added}" + (f" with {', '.join(other)}" if other else "") + "".join(f" {text}" for text in removed)


def _whole(parts: Mapping[str, str]) -> str:
    """All parts; an encoder and a decoder of one kind are a U-Net."""
    text = ", ".join(parts[part] for part in PARTS if parts.get(part))
    return re.sub(r"(\S+) encoder, (.*)\1 decoder", r"\1 U-Net\2", text)

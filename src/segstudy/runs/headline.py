"""Headline size: the size at which the figures of runs are shown and compared, the network's or the images' own."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

Size = Literal["network", "original"]
SIZES: tuple[Size, ...] = get_args(Size)

Record = Mapping[str, Any]


def headline_size(*records: Record) -> Size:
    """The size that gives the figures of these runs.

    "network" if all squashed the images to one size (data.fit=squash); "original" with data.fit=crop or keep, and for
    runs that saw the images at different sizes.
    """
    squashed = all(_fit(r.get("data", {})) == "squash" for r in records)
    return "network" if squashed and same_size(*records) else "original"


def headline_metrics(record: Record) -> Record:
    """The metrics of a run at its headline size; {} before its test."""
    return record.get("metrics", {}).get(headline_size(record), {})


def headline_words(*records: Record) -> str:
    """The headline size of these runs: 256×256, or original size."""
    described = [r["data"] for r in records if "data" in r]
    return "original size" if headline_size(*records) == "original" else _sides(described[0]) if described else ""


def same_size(*records: Record) -> bool:
    """Whether these runs saw the reported images at the same size in their tests; the crops of trainings may differ."""
    described = [r["data"] for r in records if "size" in r.get("data", {})]
    # Older runs have no "shapes": they squashed all images to one size.
    return len({d["roles"]["report"].get("shapes", _sides(d)) for d in described}) < 2


def training_size(data: Record, unit: str = "") -> str:
    """The size of a run's training images: at 256×256, or in crops of 256×256. data: of its record."""
    size = _sides(data) + unit
    if _fit(data) == "crop":
        return f"in crops of {size}" + (f" (long side at most {data['max_side']})" if data.get("max_side") else "")
    return f"at {size}" + (f" (aspect kept, {data['keep_side']} side)" if _fit(data) == "keep" else "")


def _fit(data: Record) -> str:
    return str(data.get("fit", "squash"))  # older runs squashed all images


def _sides(data: Record) -> str:
    return "×".join(map(str, data.get("size", ())))

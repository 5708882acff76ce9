"""An ONNX file with 8-bit weights, and what that costs in mean IoU and brings in speed."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segstudy.data.datamodule import SegmentationData
from segstudy.data.dataset import CachedDataset
from segstudy.errors import ExportError, first_line
from segstudy.inference.agreement import compare, shapes
from segstudy.inference.export import read_onnx, silent
from segstudy.inference.model import Model
from segstudy.metrics import confusion, summary

CALIBRATION = 64
"""Images that set the ranges of a statically quantised network's activations."""


def shrink(
    source: Path, kind: str, model: Model, free: Sequence[str], data: SegmentationData | None, count: int
) -> dict[str, Any]:
    """Put an int8 file in the place of a float ONNX file; returns how it differs, in outputs, bytes, mIoU and seconds.

    kind: dynamic, or static, which needs `data`: its training images give the ranges. The loss is measured on up to
    `count` reported ones. Raises ExportError if ONNX Runtime cannot run the int8 file.
    """
    small = source.with_name(f"int8-{source.name}")
    try:
        with silent():
            quantise(source, small, kind, data.roles["fit"] if data else None)
        rows, _ = compare(model.network, read_onnx(small), shapes(model.size, free))
    except Exception as error:  # the quantiser and the runtime raise types of their own
        raise ExportError(
            f"{model.name} cannot be quantised ({kind}): {first_line(error)}\n  nothing was kept"
        ) from error
    told: dict[str, Any] = {
        "kind": kind,
        "bytes": {"float": source.stat().st_size, "int8": small.stat().st_size},
        "difference": max(row.difference for row in rows),
        "agreement": min(row.agreement for row in rows),
        "loss": measure(source, small, data.roles["report"], len(model.classes), count) if data else None,
    }
    small.replace(source)
    return told


def spread(images: CachedDataset, count: int) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Up to `count` images, evenly spaced: float32 (1,3,H,W) in 0…1, and mask int64 (1,H,W)."""
    for position in np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)):
        batch = images.__getitems__([int(position)])
        yield batch["image"].permute(0, 3, 1, 2).float().div(255).numpy(), batch["mask"].long()


def quantise(source: Path, target: Path, kind: str, images: CachedDataset | None = None) -> None:
    """Write an ONNX file with 8-bit weights, and the metadata of the first.

    kind: dynamic (the ranges of activations are found at each call) or static (from `images`, which are not to be those
    that are reported).
    """
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if kind == "dynamic":
        # ONNX Runtime has no convolution of signed weights with ranges found at the call
        q.quantize_dynamic(source, target, weight_type=q.QuantType.QUInt8)
    else:
        assert images is not None
        prepared = target.with_name(f"prepared-{target.name}")
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # which fails on free sides
        q.quantize_static(prepared, target, _reader(images), per_channel=True)
        prepared.unlink()
    model, before = onnx.load(target), onnx.load(source, load_external_data=False)
    onnx.helper.set_model_props(model, {p.key: p.value for p in before.metadata_props} | {"quantised": f"int8, {kind}"})
    onnx.save(model, target)


def _reader(images: CachedDataset) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = spread(images, CALIBRATION)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.images, None)
            return None if found is None else {"image": found[0]}

    return Reader()


def measure(whole: Path, small: Path, images: CachedDataset, classes: int, count: int) -> dict[str, Any]:
    """mIoU at network size and seconds an image of a float and an int8 file, on up to `count` images of a split."""
    networks = {"float": read_onnx(whole), "int8": read_onnx(small)}
    counts = {name: torch.zeros(classes, classes, dtype=torch.int64) for name in networks}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for image, mask in spread(images, count):
        for name, network in networks.items():
            began = time.perf_counter()
            logits = network(torch.from_numpy(image))
            seconds[name].append(time.perf_counter() - began)
            counts[name] += confusion(logits.argmax(1), mask, classes)
    miou = {name: summary(c)["miou"] for name, c in counts.items()}
    median = {name: float(np.median(s)) for name, s in seconds.items()}
    return {
        "split": images.name,
        "images": len(seconds["float"]),
        "miou": miou,
        "miou_difference": miou["int8"] - miou["float"],
        "seconds_per_image": median,
        "speed_ratio": median["float"] / median["int8"],
    }

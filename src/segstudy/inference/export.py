"""Export a trained network for other programs. Each file is run and compared with PyTorch before it is kept."""

import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.experimental import _config as symbols

from segstudy import __version__
from segstudy.build import build_network
from segstudy.data.fit import Fit
from segstudy.errors import ConfigError, ExportError, first_line
from segstudy.files import move
from segstudy.inference.card import write_card
from segstudy.inference.model import Model, TwoChannels, load
from segstudy.networks.normalize import normalize_of
from segstudy.runs.checkpoints import load_state

FORMATS = {"onnx": ".onnx", "torch.export": ".pt2", "state_dict": ".safetensors", "hub": ""}
"""The suffix of each format's file; hub is a folder."""

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "state_dict": ("safetensors",), "hub": ("safetensors",)}
"""Packages that a format needs."""

AXES = {0: "batch", 2: "height", 3: "width"}
DYNAMIC_AXES = (("batch", "height", "width"), ("height", "width"), ("batch",), ())
"""Input axes of any length; the first choice that works for the network and format is used."""

TOLERANCE = 1e-4
"""Largest allowed difference, as a share of the largest logit (at least 1). Another order of summation changes about
1e-7 per layer; another border, interpolation or constant changes 1e-2 or more. With this tolerance, a pixel's class can
change only if its two largest logits differ by less than twice this."""

Runner = Callable[[Tensor], Tensor]
"""An exported network: image in 0…1 → logits."""


@dataclass(frozen=True)
class Comparison:
    """An exported network's output compared with PyTorch's, for images (batch,channels,height,width).

    difference: largest difference of logits. largest: PyTorch's largest logit. agreement: share of pixels with the same
    class.
    """

    batch: int
    height: int
    width: int
    difference: float
    largest: float
    agreement: float

    @property
    def allowed(self) -> float:
        return TOLERANCE * max(1.0, self.largest)

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed


@dataclass
class ExportResult:
    """A written file.

    dynamic: axes of any length. why_not_more: why other axes are fixed. refused: sizes that the network refuses.
    """

    path: Path
    metadata: dict[str, Any]
    dynamic: Sequence[str]
    why_not_more: list[str]
    comparisons: list[Comparison]
    refused: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        own = {"file": str(self.path), "dynamic": list(self.dynamic), "why_not_more": self.why_not_more}
        return own | {"refused": self.refused, "metadata": self.metadata, "tolerance": TOLERANCE}


def output_path(out: Path | None, name: str, kind: str) -> Path:
    """The path to write: `out`, a file in the folder `out`, or one in the current folder.

    Raises ConfigError for a wrong suffix, and, for hub, if `out` exists and holds no earlier export.
    """
    name = re.sub(r"[^\w.=,+-]+", "-", name) + ("-hub" if kind == "hub" else FORMATS[kind])
    if kind == "hub":
        place = out or Path(name)
        if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / "model.safetensors").is_file()):
            raise ConfigError(f"--out {place} exists and is no exported run\n  → a new folder")
        return place
    if out is None or out.is_dir():
        return (out or Path()) / name
    if out.suffix != FORMATS[kind]:
        raise ConfigError(f"--out {out}: with --format {kind} the file must end in {FORMATS[kind]}")
    return out


def require_packages(kind: str) -> None:
    """Raise ConfigError, with what to install, if a package for this format is missing."""
    if missing := [p for p in PACKAGES.get(kind, ()) if find_spec(p) is None]:
        raise ConfigError(f'{", ".join(missing)} not installed\n  → pip install "segstudy[export]"')


def export(model: Model, kind: str, out: Path) -> ExportResult:
    """Write the network in a format of FORMATS, compare the file with PyTorch on the CPU, and keep it if they agree.

    model: on the CPU. out: the file, or hub's folder; an earlier one is replaced only by a file that agrees. Raises
    ConfigError if a package is missing, ExportError if no file agrees.
    """
    require_packages(kind)
    model.network.to(memory_format=torch.contiguous_format).requires_grad_(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        written = _write_and_compare(model, kind, Path(folder) / out.name)
        if kind == "hub":
            for file in sorted(p for p in written.path.rglob("*") if p.is_file()):
                move(file, out, file.relative_to(written.path))  # replaces an earlier export's files; others stay
        else:
            written.path.replace(out)
    written.path = out
    return written


def _write_and_compare(model: Model, kind: str, path: Path) -> ExportResult:
    """Write with as many dynamic axes as possible. Raises ExportError, with the reasons, if nothing works."""
    why: list[str] = []
    for dynamic in DYNAMIC_AXES if kind in WRITERS else DYNAMIC_AXES[:1]:
        about = metadata(model, kind, dynamic)
        try:
            with silenced(), torch.no_grad():
                if kind in WRITERS:
                    WRITERS[kind](trace(model, dynamic), dynamic, path, about)
                else:
                    _write_weights(model, kind, path, about)
                exported = READERS[kind](path, model)
                rows, refused = compare_outputs(
                    model.network, exported, comparison_shapes(model.fit.size, dynamic), model.bands.number
                )
            worst = max(rows, key=lambda row: row.difference / row.allowed)
            if worst.agrees:
                return ExportResult(path, about, dynamic, why, rows, refused)
            reason = (
                f"differs from PyTorch by {worst.difference:.2g} "
                f"at {worst.batch}×{model.bands.number}×{worst.height}×{worst.width}; "
                f"allowed is {TOLERANCE:g} of {max(1, worst.largest):.3g}"
            )
        except ConfigError:
            raise
        except Exception as error:  # exporters and runtimes raise types of their own
            reason = first_line(error)
        why.append(f"with any {', '.join(dynamic)}: {reason}" if dynamic else reason)
    raise ExportError(
        f"{model.name} cannot be written as {kind}: no file agreed with PyTorch, and none was kept\n  "
        + "\n  ".join(why)
    )


@contextmanager
def silenced() -> Iterator[None]:
    """Hide the log lines and warnings of exporters; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


# Comparison with PyTorch


def comparison_shapes(size: tuple[int, int], dynamic: Sequence[str]) -> list[tuple[int, int, int]]:
    """(batch, height, width) to compare: the training size, then other sizes, also odd ones, along dynamic axes.

    None equals the size of `trace`'s example, unless height and width are fixed.
    """
    height, width = size
    if "height" not in dynamic:
        return [(batch, height, width) for batch in ((1, 2, 3) if "batch" in dynamic else (1,))]
    sizes = [
        (1, height, width), (2, height, width), (1, height + 19, width + 7), (3, height // 2 + 3, width // 2 + 5),
        (1, (2 * height // 3) | 1, width + 64),
    ]  # fmt: skip
    return sizes if "batch" in dynamic else list(dict.fromkeys((1, h, w) for _, h, w in sizes))


def synthetic_images(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Smooth colours with some noise, float32 (B,channels,H,W) in 0…1, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    smooth = nn.functional.interpolate(
        torch.rand(batch, channels, 5, 5, generator=generator), (height, width), mode="bilinear"
    )
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def compare_outputs(
    network: nn.Module, exported: Runner, sizes: Sequence[tuple[int, int, int]], channels: int = 3
) -> tuple[list[Comparison], list[str]]:
    """A comparison for each (batch, height, width), and the sizes that the network does not accept, with its error."""
    rows: list[Comparison] = []
    refused: list[str] = []
    for batch, height, width in sizes:
        image = synthetic_images(batch, height, width, channels)
        try:
            expected = network(image)
        except RuntimeError as error:
            if not rows:  # the first one is the training size, which must work
                raise
            refused.append(f"{height}×{width}: {first_line(error)}")
            continue
        found = exported(image)
        if found.shape != expected.shape:
            raise ExportError(f"logits {tuple(found.shape)} for an image {tuple(image.shape)}")
        same = (found.argmax(1) == expected.argmax(1)).double().mean().item()
        difference = (found - expected).abs().nan_to_num(nan=torch.inf).max().item()
        rows.append(Comparison(batch, height, width, difference, expected.abs().max().item(), same))
    return rows, refused


# Metadata


def metadata(model: Model, kind: str, dynamic: Sequence[str]) -> dict[str, Any]:
    """What a program needs to use the file, as JSON values."""
    normalize = normalize_of(model.plain)
    height, width = model.fit.size
    # Other sizes than the training size are refused by a file with fixed axes.
    fit = model.fit if "height" in dynamic else Fit(model.fit.size)
    bands, c = model.bands, model.bands.number
    names = "RGB" if bands.channels is None else f"{c} channels"
    shape = {0: 1, 1: c, 2: height, 3: width} | {axis: name for axis, name in AXES.items() if name in dynamic}
    return {
        "segstudy": __version__,
        "run": model.name,
        "commit": model.record.get("git"),
        "input": f"image: float32 (batch,{c},height,width), {names} in 0…1",
        "output": "logits: float32 (batch,classes,height,width)"
        + ("" if kind in WRITERS else "; a single channel is the logit of class 1 against class 0"),
        "input_shape": list(shape.values()),
        "classes": model.classes,
        "palette": [list(rgb) for rgb in model.palette],
        "background": model.background,
        "preprocessing": {
            "layout": "NCHW",
            "channels": names,
            **({} if bands.are_photos else bands.values() | {"channels": names}),
            "range": [0, 1],
            **(normalize.values() if normalize else {}),
            "normalisation": "inside the network" if normalize else "none",
            "trained_at": [height, width],
            "resize": fit.instruction,
            **fit.values(),
        },
    }


def as_strings(about: dict[str, Any]) -> dict[str, str]:
    """The metadata as strings, for formats that allow only these: other values as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in about.items()}


def without_local_paths(value: Any) -> Any:
    """JSON values in which absolute paths are reduced to their last part: /data/photos → photos."""
    if isinstance(value, dict):
        return {k: without_local_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_local_paths(v) for v in value]
    if not isinstance(value, str):
        return value
    key, equals, place = value.rpartition("=")
    return f"{key}{equals}{Path(place).name}" if place.startswith(("/", "~")) else value


# The formats


def trace(model: Model, dynamic: Sequence[str]) -> ExportedProgram:
    """The network traced by torch.export. With dynamic sides, the example's sides are no multiples of a stride."""
    height, width = model.fit.size
    height, width = (height + 3, width + 35) if "height" in dynamic else (height, width)
    example = synthetic_images(2 if "batch" in dynamic else 1, height, width, model.bands.number)
    shapes = {axis: torch.export.Dim.DYNAMIC for axis, name in AXES.items() if name in dynamic}
    # Otherwise, the example's padding to the stride (empty or not) would become a condition on all other sizes.
    with symbols.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(model.network, (example,), dynamic_shapes=(shapes,))


def _write_onnx(program: ExportedProgram, dynamic: Sequence[str], path: Path, about: dict[str, Any]) -> None:
    import onnx

    written = torch.onnx.export(program, input_names=["image"], output_names=["logits"], verbose=False)
    assert written is not None  # None is returned only if a file is given
    model = written.model_proto
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis, name in AXES.items():
            if name in dynamic:
                value.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.helper.set_model_props(model, as_strings(about))
    onnx.save(model, path)


def _write_torch_export(program: ExportedProgram, dynamic: Sequence[str], path: Path, about: dict[str, Any]) -> None:
    torch.export.save(program, path, extra_files={"segstudy.json": json.dumps(about, ensure_ascii=False)})


def _write_weights(model: Model, kind: str, path: Path, about: dict[str, Any]) -> None:
    """Write the plain network's weights; for hub, a folder with weights, config, record and card."""
    from safetensors.torch import save

    state = {k: v.contiguous().clone() for k, v in model.plain.state_dict().items()}
    weights = save(state, metadata={"format": "pt"} | as_strings(about))
    if kind != "hub":
        path.write_bytes(weights)
        return
    path.mkdir()
    (path / "model.safetensors").write_bytes(weights)
    config: Any = without_local_paths(OmegaConf.to_container(model.cfg, resolve=True))
    OmegaConf.save(config, path / "config.yaml")
    record = {key: value for key, value in model.record.items() if key != "files"}  # checksums of the run's own files
    described = {
        "record.json": without_local_paths(record),
        "config.json": about | {"network": config["network"]},
    }
    for name, values in described.items():
        (path / name).write_text(json.dumps(values, indent=1, ensure_ascii=False, default=str), encoding="utf-8")
    _write_card(model, path / "README.md")


def _write_card(model: Model, file: Path) -> None:
    """Write the run's card; a short text if the run's record is incomplete."""
    try:
        write_card(model.folder, file, latency=False)
    except ConfigError:
        about = f"A segmentation network for {len(model.classes)} classes: {', '.join(model.classes)}."
        file.write_text(f"# {model.name}\n\n{about}\nconfig.json describes it and its input.\n", encoding="utf-8")


def _read_onnx(path: Path, model: Model) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # otherwise it also prints each error to the terminal
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _read_weights(path: Path, model: Model) -> Runner:
    network, _ = build_network(model.cfg, len(model.classes), load_weights=False, channels=model.bands.number)
    load_state(network, path)
    return TwoChannels(network.eval())


WRITERS = {"onnx": _write_onnx, "torch.export": _write_torch_export}
"""Formats that contain the network; the others contain weights for segstudy's own network."""

READERS: dict[str, Callable[[Path, Model], Runner]] = {
    "onnx": _read_onnx,
    "torch.export": lambda path, _: torch.export.load(path).module(),
    "state_dict": _read_weights,
    "hub": lambda path, _: load(path, "cpu").network,
}
"""How each exported format is run for the comparison."""

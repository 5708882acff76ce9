"""A trained network in the formats of other programs; each file is run there and compared before it is kept."""

import json
import logging
import os
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
from torch.fx.experimental import _config as symbols

from segstudy import __version__
from segstudy.build import build_network
from segstudy.errors import ConfigError, ExportError, first_line
from segstudy.files import move
from segstudy.inference.agreement import TOLERANCE, Row, Runs, compare, pictures, shapes
from segstudy.inference.card import write_card
from segstudy.inference.model import Model, Normalised, load
from segstudy.runs.checkpoints import load_state

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "torch.export": ".pt2", "state_dict": ".safetensors", "hub": ""}
"""The suffix of each format's file; hub is a folder."""

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "state_dict": ("safetensors",), "hub": ("safetensors",)}

SIDES = ("batch", "height", "width")
FREE = (SIDES, ("height", "width"), ("batch",), ())
"""Which sides of the input may be free: the first that the format can do for this network is taken."""


@dataclass
class Exported:
    """A file that was kept. free: which sides of its input may change; why: what hindered the others; rows: how it
    compares with PyTorch; skipped: sizes that the network itself refuses; int8: what quantising changed."""

    path: Path
    about: dict[str, Any]
    free: Sequence[str]
    why: list[str]
    rows: list[Row]
    skipped: list[str] = field(default_factory=list)
    int8: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        own = {"file": str(self.path), "free": list(self.free), "why_not_more": self.why, "refused": self.skipped}
        return own | {"metadata": self.about, "tolerance": TOLERANCE, "int8": self.int8}


def place_of(out: Path | None, name: str, kind: str) -> Path:
    """Where a run's file goes: `out`, a file in that folder, or one in the current folder.

    Raises ConfigError for another format's suffix, and for a folder that hub's files do not belong in.
    """
    name = re.sub(r"[^\w.=,+-]+", "-", name) + ("-hub" if kind == "hub" else FORMATS[kind])
    if kind == "hub":
        place = out or Path(name)
        if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / "model.safetensors").is_file()):
            raise ConfigError(f"--out {place} is there, and no exported run\n  → a new folder")
        return place
    if out is None or out.is_dir():
        return (out or Path()) / name
    if out.suffix != FORMATS[kind]:
        raise ConfigError(f"--out {out}: a file of --format {kind} ends in {FORMATS[kind]}")
    return out


def export(model: Model, kind: str, out: Path, then: Callable[[Exported], dict[str, Any]] | None = None) -> Exported:
    """Write the network in a format of FORMATS, compare it there with PyTorch on the CPU, and only then keep it.

    model: on the CPU. out: the file, or hub's folder; an earlier one stays until then. then: changes the checked
    file and tells what it did (int8). Raises ConfigError if a package is missing, ExportError if no file agrees.
    """
    require(*NEEDS.get(kind, ()))
    model.network.to(memory_format=torch.contiguous_format).requires_grad_(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".export-") as place:
        written = _agreeing(model, kind, Path(place) / out.name)
        if then:
            written.int8 = then(written)
        if kind == "hub":
            for file in sorted(p for p in written.path.rglob("*") if p.is_file()):
                move(file, out, file.relative_to(written.path))  # an earlier export's files; others stay
        else:
            written.path.replace(out)
    written.path = out
    return written


def require(*packages: str) -> None:
    """Raise ConfigError with what to install if one of these is missing."""
    if missing := [p for p in packages if find_spec(p) is None]:
        raise ConfigError(f'{", ".join(missing)} not installed\n  → pip install "segstudy[export]"')


def _agreeing(model: Model, kind: str, path: Path) -> Exported:
    """Written with as many free sides as there can be. Raises ExportError that tells why there is no way."""
    why: list[str] = []
    ways = FREE if kind in WRITERS else FREE[:1]
    for free in ways:
        about = metadata(model, kind, free)
        try:
            with silent(), torch.no_grad():
                if kind in WRITERS:
                    WRITERS[kind](model.network, _example(model.size, free), free, path, about)
                else:
                    _write_weights(model, kind, path, about)
                rows, skipped = compare(model.network, READERS[kind](path, model), shapes(model.size, free))
        except ConfigError:
            raise
        except Exception as error:  # exporters and runtimes raise types of their own
            why.append(f"with any {_listed(free)}: {first_line(error)}" if free else first_line(error))
            continue
        wrong = [row for row in rows if not row.agrees]
        if not wrong:
            return Exported(path, about, free, why, rows, skipped)
        worst = max(wrong, key=lambda row: row.difference)
        why.append(
            f"{'with any ' + _listed(free) + ': ' if free else ''}differs from PyTorch by {worst.difference:.2g} at "
            f"{worst.batch}×3×{worst.height}×{worst.width}; allowed is {TOLERANCE:g} of {max(1, worst.largest):.3g}"
        )
    raise ExportError(
        f"{model.name} cannot be written as {kind}: no file agreed with PyTorch, none was kept\n  " + "\n  ".join(why)
    )


def _listed(sides: Sequence[str]) -> str:
    return " and ".join((", ".join(sides[:-1]), sides[-1])) if len(sides) > 1 else sides[0]


@contextmanager
def silent() -> Iterator[None]:
    """Without what exporters say about themselves; what matters is an exception, or is measured."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# What is told with the file


def metadata(model: Model, kind: str, free: Sequence[str]) -> dict[str, Any]:
    """What a program needs to know to use the file, as JSON values."""
    inside = kind in WRITERS
    height, width = model.size
    sides = zip(SIDES, (1, height, width), strict=True)
    batch, *area = (name if name in free else size for name, size in sides)
    return {
        "segstudy": __version__,
        "run": model.name,
        "commit": model.record.get("git"),
        "input": "image: float32 (batch,3,height,width), RGB in 0…1" + ("" if inside else ", then normalised"),
        "output": "logits: float32 (batch,classes,height,width)"
        + ("" if inside else "; a single channel is the logit of class 1 against class 0"),
        "input_shape": [batch, 3, *area],
        "classes": model.classes,
        "palette": [list(rgb) for rgb in model.palette],
        "background": model.background,
        "preprocessing": {
            "layout": "NCHW",
            "channels": "RGB",
            "range": [0, 1],
            **model.network.normalisation,
            "normalisation": "inside the network" if inside else "(image - mean) / std, before the network",
            "trained_at": [height, width],
            "resize": "bilinear, to trained_at",
        },
    }


def as_strings(about: dict[str, Any]) -> dict[str, str]:
    """For formats whose metadata is text: JSON, but of what is text already."""
    return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in about.items()}


def portable(value: Any) -> Any:
    """JSON values with this machine's places reduced to their last name: /data/photos → photos."""
    if isinstance(value, dict):
        return {k: portable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [portable(v) for v in value]
    if not isinstance(value, str):
        return value
    key, equals, place = value.rpartition("=")
    return f"{key}{equals}{Path(place).name}" if place.startswith(("/", "~")) else value


# The formats


def _example(size: tuple[int, int], free: Sequence[str]) -> Tensor:
    height, width = (size[0] + 3, size[1] + 35) if "height" in free else size
    return pictures(2 if "batch" in free else 1, height, width)


def _program(network: nn.Module, example: Tensor, free: Sequence[str]) -> Any:
    dynamic = {
        axis: torch.export.Dim.DYNAMIC for axis, name in ((0, "batch"), (2, "height"), (3, "width")) if name in free
    }
    # Without this, whether the padding to the stride is empty in the example becomes a condition on every later size.
    with symbols.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(network, (example,), dynamic_shapes=(dynamic,))


def _write_onnx(network: nn.Module, example: Tensor, free: Sequence[str], path: Path, about: dict[str, Any]) -> None:
    import onnx

    program = torch.onnx.export(
        _program(network, example, free), input_names=["image"], output_names=["logits"], verbose=False
    )
    assert program is not None  # it is where no file is given
    model = program.model_proto
    for value in (model.graph.input[0], model.graph.output[0]):
        sides = value.type.tensor_type.shape.dim
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            if name in free:
                sides[axis].dim_param = name
    onnx.helper.set_model_props(model, as_strings(about))
    onnx.save(model, path)


def _write_torchscript(
    network: nn.Module, example: Tensor, free: Sequence[str], path: Path, about: dict[str, Any]
) -> None:
    text = json.dumps(about, ensure_ascii=False)
    torch.jit.trace(network, example, check_trace=False).save(str(path), _extra_files={"segstudy.json": text})


def _write_torch_export(
    network: nn.Module, example: Tensor, free: Sequence[str], path: Path, about: dict[str, Any]
) -> None:
    text = json.dumps(about, ensure_ascii=False)
    torch.export.save(_program(network, example, free), path, extra_files={"segstudy.json": text})


def _write_weights(model: Model, kind: str, path: Path, about: dict[str, Any]) -> None:
    """The plain network's weights; for a hub a folder, with all that loads and explains them."""
    from safetensors.torch import save_file

    state = {k: v.contiguous().clone() for k, v in model.plain.state_dict().items()}
    file = path
    if kind == "hub":
        path.mkdir()
        file = path / "model.safetensors"
        config: Any = portable(OmegaConf.to_container(model.cfg, resolve=True))
        OmegaConf.save(config, path / "config.yaml")
        for name, values in {
            "record.json": portable(dict(model.record)), "config.json": about | {"network": config["network"]},
        }.items():  # fmt: skip
            (path / name).write_text(json.dumps(values, indent=1, ensure_ascii=False, default=str), encoding="utf-8")
        _write_card(model, path / "README.md")
    save_file(state, file, metadata={"format": "pt"} | as_strings(about))
    file.chmod(0o666 & ~_umask())  # the library makes it the owner's alone


def _umask() -> int:
    os.umask(before := os.umask(0))
    return before


def _write_card(model: Model, file: Path) -> None:
    """The run's card; in a few words where the record is not that of a whole run."""
    try:
        write_card(model.folder, file, latency=False)
    except ConfigError:
        about = f"A segmentation network for {len(model.classes)} classes: {', '.join(model.classes)}."
        file.write_text(f"# {model.name}\n\n{about}\nconfig.json says what it is and expects.\n", encoding="utf-8")


def read_onnx(path: Path, model: Model | None = None) -> Runs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it also writes each of its errors to the terminal
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _read_weights(path: Path, model: Model) -> Runs:
    network, _ = build_network(model.cfg, len(model.classes), load_weights=False)
    load_state(network, path)
    whole = Normalised(network.eval())
    whole.mean, whole.std = model.network.mean, model.network.std
    return whole


WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript, "torch.export": _write_torch_export}
"""Of the formats that hold the network, with its normalisation; the others hold weights for segstudy's."""

READERS: dict[str, Callable[[Path, Model], Runs]] = {
    "onnx": read_onnx,
    "torchscript": lambda path, _: torch.jit.load(str(path)),
    "torch.export": lambda path, _: torch.export.load(path).module(),
    "state_dict": _read_weights,
    "hub": lambda path, _: load(path, "cpu").network,
}
"""How each format is run, as others will run it: image in 0…1 → logits."""

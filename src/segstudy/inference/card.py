"""A finished run's model card: what it is, its data, its figures with their intervals, how it fails, and its limits."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from segstudy.build import build_network
from segstudy.config.check import read_config
from segstudy.drawing import ERRORS, class_legend, colorize, error_picture, image_grid, save
from segstudy.errors import ConfigError, DataError
from segstudy.files import atomic_write, open_to_read, write_text
from segstudy.inference import sections
from segstudy.inference.latency import Latency, measure_latency
from segstudy.inference.loading import load_runs
from segstudy.inference.model import Model
from segstudy.inference.sections import CardContext
from segstudy.inference.terms import layout, named
from segstudy.runs.listing import read
from segstudy.runs.record import read_record
from segstudy.study.analysis.analyse import analyse, clusters_of, in_images, supported_classes
from segstudy.study.analysis.plan import Plan
from segstudy.study.counts import Counts
from segstudy.study.report.text import escape_markdown
from segstudy.study.results import TestResult, read_run

PICTURES = "card"
"""The folder beside the card that holds its pictures."""
SHOWN = 4
SELF = "this network"
DAMAGED = (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile)
"""What reading a run's arrays raises where they are not there, cut off, or another run's."""


def write_card(folder: Path, file: Path | None = None, latency: bool = True, license: str | None = None) -> Path:
    """Write a run's card (RUN/card.md if no file is given) and its pictures beside it; returns the file.

    latency, license, errors: as `model_card`.
    """
    text = model_card(folder, latency, license)
    file = folder / "card.md" if file is None else file
    try:
        _draw(folder, file.parent)
        write_text(file.parent, file.name, text)
    except (OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"the card cannot be written to {file}: {error}\n  → --out FILE") from error
    return file


def model_card(folder: Path, latency: bool = True, license: str | None = None) -> str:
    """A finished run's card in Markdown, with the front matter that model hubs read.

    latency: measure the network's speed on this machine. license: of the weights; None: unknown. Its picture is
    `card/examples.png`, which `write_card` draws. Raises ConfigError if the run is not done, or its network cannot be
    built or, for its speed, loaded.
    """
    known = gather(Path(folder), latency)
    told = {
        "What it is": sections.about(known),
        "How to use it": sections.use(known),
        "Data and licences": sections.data(known, license),
        "Training": sections.training(known),
        "Figures": sections.figures(known),
        "Classes": sections.classes(known),
        "How it fails": sections.failures(known),
        "Speed": sections.speed(known),
        "Limits": sections.limits(known),
        "Made with": sections.made(known),
    }
    title = f"# {escape_markdown(known.name)}: a segmentation network for {len(known.classes)} classes"
    parts = [front(known, license), title, sections.first(known), _shown(known.folder)]
    parts += [f"## {heading}\n\n{text}" for heading, text in told.items() if text]
    return "\n\n".join(filter(None, parts)) + "\n"


# What is known of the run


def gather(folder: Path, measured: bool) -> CardContext:
    """Record, config, network, speeds and test of a run. Raises ConfigError as `model_card`."""
    record = finished(folder)
    cfg = read_config(folder)
    speeds = speeds_of(folder) if measured else []
    network, _ = build_network(cfg, len(record["class_names"]), load_weights=False)
    plan = Plan.of(OmegaConf.to_container(cfg.report) if cfg.get("report") else None)  # type: ignore[arg-type]
    tested, missing = read_tested(folder, record)
    group, clusters, supported = None, None, np.zeros(len(record["class_names"]), bool)
    if tested is not None:
        clusters = clusters_of(tested)[0]
        supported = supported_classes(in_images(tested), plan.min_images, clusters)[0]
        group = analyse([tested], plan, SELF) if tested.sums else None
    return CardContext(
        folder, record, cfg, network, speeds, tested, group, missing, clusters, supported, plan.min_images
    )


def finished(folder: Path) -> dict[str, Any]:
    """The record of a run that is done. Raises ConfigError that says what it is instead."""
    told = read(folder)[0]
    if told.get("status") == "failed":
        raise ConfigError(
            f"{folder} failed ({told.get('error')}): a card is of a finished run\n  → the same command tries it again"
        )
    record = read_record(folder)
    if record.get("status") != "done" or not {"data", "metrics", "classes"} <= record.keys():
        raise ConfigError(
            f"{folder} is not finished (status: {record.get('status')}): a card is of a finished run\n"
            "  → the same command continues it"
        )
    return record


def speeds_of(folder: Path) -> list[Latency]:
    """The network's speed on the CPU, and on the GPU where there is one."""
    try:
        return [
            measure_latency(Model(load_runs([folder])[0], device))
            for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
        ]
    except ConfigError as error:
        raise ConfigError(f"{error}\n  → --no-latency writes the card without the network's speed") from error


def read_tested(folder: Path, record: Mapping[str, Any]) -> tuple[TestResult | None, str]:
    """The run's test, with nothing but counts where no more was kept; and what is missing, "" for nothing."""
    try:
        return read_run(folder, record, SELF), ""
    except (DataError, *DAMAGED):
        again = "Its test files are not all there or damaged: `segstudy evaluate RUN --retest` makes them anew."
    try:
        with open_to_read(folder / "test" / "counts.npz") as file, np.load(file) as held:
            names, classes = [str(n) for n in held["names"]], list(record["class_names"])
            counts, original = (
                Counts.from_rows(held[size], len(names), len(classes)) for size in ("network", "original")
            )
    except DAMAGED:
        return None, f"{again} Until then there are no intervals and no failure modes."
    known = "Until then there are no failure modes, and intervals take all images as independent."
    background = record["data"].get("background")
    return TestResult(
        SELF, 0, classes, background, names, names, counts, {}, original, record, folder
    ), f"{again} {known}"


def front(known: CardContext, license: str | None) -> str:
    """What model hubs read, between lines of ---."""
    report, metrics = known.data["roles"]["report"], known.record["metrics"].get("network", {})
    figures = {"mean_iou": ("mIoU", metrics.get("miou")), "accuracy": ("pixel accuracy", metrics.get("pixel_accuracy"))}
    results = {
        "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
        "dataset": {
            "type": f"{layout(known.data).lower()}-layout",
            "name": f"{named(known.data)}, {report['images']} images",
            "split": str(report["split"]),
        },
        "metrics": [
            {"type": kind, "name": name, "value": round(float(value), 4)}
            for kind, (name, value) in figures.items()
            if isinstance(value, int | float) and math.isfinite(value)
        ],
    }
    tags = ["semantic-segmentation", "segstudy", "pytorch", known.cfg.get("encoder", {}).get("name")]
    values = {
        "library_name": "segstudy",
        "pipeline_tag": "image-segmentation",
        "license": license or "unknown",
        "tags": [str(tag) for tag in tags if tag],
        "metrics": ["mean_iou", "accuracy"],
        "model-index": [{"name": known.folder.resolve().name, "results": [results]}],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


# Pictures


def _shown(folder: Path) -> str:
    """The card's picture with its caption, in Markdown; nothing where the run kept none."""
    if not _picture(folder):
        return ""
    columns = "Image, truth, prediction and errors"
    return (
        f"![{columns}]({PICTURES}/examples.png)\n\n*{columns}, of reported images, chosen by their masks alone. "
        "The photos are the data set's.*"
    )


def _picture(folder: Path) -> bool:
    return _samples(folder) is not None or (folder / "pictures" / "final.png").is_file()


def _samples(folder: Path) -> dict[str, np.ndarray] | None:
    """The test's pictures: image, truth and prediction (N,…) uint8; None where none that fit were kept."""
    try:
        with open_to_read(folder / "test" / "samples.npz") as file, np.load(file) as held:
            arrays = {key: held[key][:SHOWN] for key in ("image", "truth", "prediction")}
    except DAMAGED:
        return None
    shapes = {a.shape[:3] for a in arrays.values()}
    return arrays if len(shapes) == 1 and len(arrays["image"]) else None


def _draw(folder: Path, place: Path) -> None:
    """Draw card/examples.png in `place`, or take the run's last picture; nothing if it kept neither."""
    name = f"{PICTURES}/examples.png"
    held = _samples(folder)
    if held is None:
        if _picture(folder):
            with open_to_read(folder / "pictures" / "final.png") as last, atomic_write(place, name) as file:
                Image.open(last, formats=["PNG"])  # a card is shown around: what is no picture does not get into it
                last.seek(0)
                shutil.copyfileobj(last, file)
        return
    record = read_record(folder)
    palette, background = [tuple(rgb) for rgb in record["palette"]], record["data"].get("background")
    rows = [
        (image, colorize(truth, palette), colorize(labels, palette), error_picture(truth, labels, background))
        for image, truth, labels in zip(*held.values(), strict=True)
    ]
    kinds = [k for k in ERRORS if background is not None or k not in ("missed", "spilled")]
    legend = class_legend([held["truth"], held["prediction"]], record["class_names"], palette)
    legend |= {kind: ERRORS[kind] for kind in kinds}
    with atomic_write(place, name) as file:
        save(image_grid(rows, ("image", "truth", "prediction", "errors"), legend), file)

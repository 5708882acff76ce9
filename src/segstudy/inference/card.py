"""A finished run's model card: what it is, its data, its figures with their intervals, how it fails, and its limits.

The text is `card.md.j2`; this file reads the run and computes what the text says.
"""

import json
import math
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from segstudy.build import build_network
from segstudy.callbacks.per_image_confusion import SIZES
from segstudy.config.run_folder import read_config
from segstudy.config.summary import PARTS, describe_part
from segstudy.console import format_amount, format_duration, format_fraction, format_millions
from segstudy.data.datamodule import SegmentationData
from segstudy.data.datasets.ade20k import ADE20K
from segstudy.data.datasets.pet import Pet
from segstudy.data.datasets.sbd import VOCSBD
from segstudy.data.datasets.scenes import Scenes
from segstudy.data.datasets.voc import VOC
from segstudy.drawing import ERRORS, class_legend, colorize, error_picture, image_grid, save
from segstudy.errors import ConfigError, DataError
from segstudy.files import atomic_write, open_to_read, write_text
from segstudy.inference.latency import Latency, measure_latency
from segstudy.inference.loading import load_runs
from segstudy.inference.model import Model
from segstudy.inspection.summary import gflop, parts
from segstudy.runs.listing import counted, read
from segstudy.runs.record import environment, read_record
from segstudy.runs.tables import EXTRA_METRICS, command
from segstudy.study.analysis.analyse import analyse, clusters_of, in_images, supported_classes
from segstudy.study.analysis.metrics import by_name
from segstudy.study.analysis.plan import Plan
from segstudy.study.counts import Counts
from segstudy.study.report.text import escape_markdown, format_estimate, format_outcomes, markdown_list, markdown_table
from segstudy.study.results import TestResult, read_run
from segstudy.study.statistics import comparison, influence
from segstudy.study.statistics.comparison import Estimate

PICTURE = "card/examples.png"
"""The card's picture, in the folder of the card."""
SHOWN = 4
SELF = "this network"
DAMAGED = (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile)
"""What reading a run's arrays raises where they are not there, cut off, or another run's."""
FAILURES = (
    "missed", "missed_small", "missed_large", "spilled", "mislabelled", "hallucinated", "objects_missed",
    "objects_wrong_label", "objects_right", "boundary_iou", "shift_consistency", "ece_all",
)  # fmt: skip
"""Those of `study/analysis/metrics.py` that say most of one network; which of them there are depends on the data."""
CALIBRATION = ("calibration error (ECE)", "mean difference between confidence and accuracy")
ROLES = {"fit": "trained on", "select": "chosen on", "report": "reported on"}
LOCAL_PATH = re.compile(r"(?<=[=\s'\"])[/~][^\s'\"]*/([^\s/'\"]+)")

PUBLISHED: dict[str, type[SegmentationData]] = {c.__name__: c for c in (VOC, VOCSBD, ADE20K, Pet, Scenes)}
"""Data set classes whose images have known terms, by the name in a record."""
CAMVID = (
    "If these are frames of CamVid: its page asks to cite Brostow et al. (ECCV 2008; Pattern Recognition Letters "
    "2009). Its licence is not known to us: ask its authors before use beyond research."
)
UNKNOWN = "the licence is not known: add it."


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
    folder = Path(folder)
    record = read_finished(folder)
    cfg = read_config(folder)
    figures = Figures(folder, record, cfg)
    background = record["data"].get("background")
    marked = ((name, c == background and name != "background") for c, name in enumerate(figures.classes))
    values = about_network(record, cfg) | about_training(record) | about_data(record, cfg)
    values |= {
        "record": record,
        "settings": OmegaConf.to_container(cfg, resolve=True),
        "license": license,
        "name": str((record.get("changes") or [folder.resolve().name])[0]).removeprefix("model="),
        "folder_name": " ".join(folder.resolve().name.split()),
        "picture": _has_picture(folder),
        "classes": [f"{name} (the background)" if mark else name for name, mark in marked],
        "figures": figures,
        "speeds": measure_speeds(folder) if latency else [],
        "machine": environment()["machine"],
        "today": f"{datetime.now().astimezone():%Y-%m-%d}",
    }
    jinja = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    jinja.filters |= {
        "md": escape_markdown, "millions": format_millions, "amount": format_amount, "duration": format_duration,
        "quote": shlex.quote,
        "repr": repr, "json": lambda text: json.dumps(text, ensure_ascii=False), "describe": describe_part,
        "code": lambda text: f"`{str(text).replace('`', '')}`",
    }  # fmt: skip
    jinja.globals |= {
        "table": markdown_table,
        "items": markdown_list,
        "counted": counted,
        "outcome_words": format_outcomes,
    }
    template = jinja.from_string(files("segstudy.inference").joinpath("card.md.j2").read_text(encoding="utf-8"))
    text = template.render(values, front_matter=front_matter(values))
    return re.sub(r"\n{3,}", "\n\n", text)  # an empty part leaves an empty line


def read_finished(folder: Path) -> dict[str, Any]:
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


def measure_speeds(folder: Path) -> list[Latency]:
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
            sizes = ("network", "original")
            counts, original = (Counts.from_rows(held[size], len(names), len(classes)) for size in sizes)
    except DAMAGED:
        return None, f"{again} Until then there are no intervals and no failure modes."
    known = "Until then there are no failure modes, and intervals take all images as independent."
    background = record["data"].get("background")
    return TestResult(
        SELF, 0, classes, background, names, names, counts, {}, original, record, folder
    ), f"{again} {known}"


def front_matter(card: Mapping[str, Any]) -> str:
    """What model hubs read, as YAML."""
    figures = {"mean_iou": ("mIoU", "miou"), "accuracy": ("pixel accuracy", "pixel_accuracy")}
    metrics = card["record"]["metrics"].get("network", {})
    results = [
        EvalResult(
            task_type="image-segmentation", task_name="Semantic segmentation",
            dataset_type=f"{layout_of(card['data']).lower()}-layout",
            dataset_name=f"{card['data_name']}, {card['report']['images']} images",
            dataset_split=str(card["report"]["split"]),
            metric_type=kind, metric_name=name, metric_value=round(float(metrics[key]), 4),
        )
        for kind, (name, key) in figures.items()
        if isinstance(metrics.get(key), int | float) and math.isfinite(metrics[key])
    ]  # fmt: skip
    tags = ["semantic-segmentation", "segstudy", "pytorch", card["settings"].get("encoder", {}).get("name")]
    return ModelCardData(
        library_name="segstudy", pipeline_tag="image-segmentation", license=card["license"] or "unknown",
        tags=[str(tag) for tag in tags if tag], metrics=list(figures),
        model_name=card["folder_name"], eval_results=results or None,
    ).to_yaml()  # fmt: skip


class Figures:
    """The figures of a run's test, as text. Without the test's counts those of the record; `missing` says why."""

    def __init__(self, folder: Path, record: Mapping[str, Any], cfg: DictConfig):
        self.record, self.classes = record, list(map(str, record["class_names"]))
        plan = Plan.of(OmegaConf.to_container(cfg.report) if cfg.get("report") else None)  # type: ignore[arg-type]
        self.min_images = plan.min_images
        self.tested, self.missing = read_tested(folder, record)
        self.group = self.variant = self.clusters = None
        if self.tested is not None:
            self.counts, self.original = self.tested.counts, self.tested.original or self.tested.counts
            self.clusters = clusters_of(self.tested)[0]
            self.supported = supported_classes(in_images(self.tested), plan.min_images, self.clusters)[0]
            self.images = (self.original.truth > 0).sum(0)
            if self.tested.sums:
                self.group = analyse([self.tested], plan, SELF)
                self.variant = self.group.variants[0]

    def ratio(self, top: np.ndarray, bottom: np.ndarray, keep: np.ndarray | None = None) -> Estimate:
        """A ratio of sums over images with its interval over images, cut to 0…1."""
        value, influences = influence.influence(top, bottom, keep, leave_one_out=True)
        e = comparison.estimate([value], [influences], self.clusters)
        return Estimate(e.value, float(np.maximum(e.low, 0)), float(np.minimum(e.high, 1)))

    def headline(self) -> str:
        if self.tested is None:
            return format_fraction(self.record["metrics"].get("network", {}).get("miou"))
        miou = self.ratio(self.counts.true_positives, self.counts.union, with_truth(self.counts))
        return f"{format_estimate(miou)}, in brackets the 95 % interval over images,"

    def table(self) -> list[list[str]]:
        """mIoU and accuracies at both sizes, with intervals where the test's counts are there."""
        if self.tested is None:
            names = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean class accuracy"}
            metrics = self.record["metrics"]
            return [
                [name, *(format_fraction(metrics.get(s, {}).get(key)) for s in SIZES)] for key, name in names.items()
            ]
        terms: dict[str, Callable[[Counts], tuple[Any, ...]]] = {
            "mIoU of the classes with truth": lambda c: (c.true_positives, c.union, with_truth(c))
        }
        if self.supported.any() and (self.supported != with_truth(self.counts)).any():
            name = f"mIoU of those in at least {self.min_images} images ({self.supported.sum()})"
            terms[name] = lambda c: (c.true_positives, c.union, self.supported)
        terms["pixel accuracy"] = lambda c: (c.true_positives.sum(1), c.truth.sum(1), None)
        terms["mean class accuracy"] = lambda c: (c.true_positives, c.truth, with_truth(c))
        sizes = (self.counts, self.original)
        rows = [[name, *(format_estimate(self.ratio(*of(counts))) for counts in sizes)] for name, of in terms.items()]
        extra = {said: self.record[key] for key, said in EXTRA_METRICS.items() if key in self.record}
        return rows + [
            [f"mIoU, {said}", *(format_fraction(m.get(s, {}).get("miou")) for s in SIZES)] for said, m in extra.items()
        ]

    def class_table(self) -> list[list[str]]:
        """The head, and a row for each class with truth in the reported images, at either size."""
        if self.tested is None:
            keys, rows = ("iou", "recall", "precision"), self.record["classes"]["network"]
            head = ["class", "IoU", "recall", "precision"]
            return [head, *([str(row.get("class")), *(format_fraction(row.get(k)) for k in keys)] for row in rows)]
        rows = [["class", "IoU (95 %)", "IoU, original size", "recall", "precision", "images", "share of pixels"]]
        counts, full = self.counts, self.original
        hit, truth, predicted = (a.sum(0) for a in (counts.true_positives, counts.truth, counts.predicted))
        for c in np.flatnonzero(with_truth(counts) | with_truth(full)):
            iou, n = (
                self.ratio(counts.true_positives[:, c], counts.union[:, c], np.array([truth[c] > 0])),
                self.images[c],
            )
            original = divided(full.true_positives[:, c].sum() * (n > 0), full.union[:, c].sum() * (n > 0))
            few = n < self.min_images
            rows.append([
                self.classes[c], f"{format_fraction(iou.value)} (few images)" if few else format_estimate(iou),
                original,
                divided(hit[c], truth[c]), divided(hit[c], predicted[c]), f"{n:,}", f"{truth[c] / truth.sum():.2%}",
            ])  # fmt: skip
        return rows

    def any_rare_class(self) -> bool:
        return self.tested is not None and bool(((self.images > 0) & (self.images < self.min_images)).any())

    def failures(self) -> list[list[str]]:
        """How it fails: metric, value with interval, of what."""
        assert self.variant is not None
        known = {name: e for name in FAILURES if (e := self.variant.metrics.get(name)) and math.isfinite(e.value)}
        texts = {
            name: CALIBRATION if name == "ece_all" else (by_name(name).title, by_name(name).says) for name in known
        }
        return [[texts[name][0], format_estimate(e), texts[name][1]] for name, e in known.items()]

    def warnings(self) -> list[str]:
        """What a reader must know of this run's data and test before using its figures."""
        said = []
        if self.group is not None:
            said += [f"{text[0].upper()}{text[1:]}." for text in self.group.warnings]
        elif self.record.get("selected_on_reported"):
            said.append("It was selected on the reported images: its figures are flattered.")
        there = self.classes if self.tested is None else np.array(self.classes)[with_truth(self.original)].tolist()
        if absent := [name for name in self.classes if name not in there]:
            more = f" and {len(absent) - 12} more" if len(absent) > 12 else ""
            said.append(
                f"Nothing is known of classes without truth in the reported images: {', '.join(absent[:12])}{more}."
            )
        return said


def with_truth(counts: Counts) -> np.ndarray:
    """Classes with truth in the counted images, bool (C,): small objects may vanish at the network's size."""
    return counts.truth.sum(0) > 0


def divided(top: int, bottom: int) -> str:
    """A share as text; n/a if the denominator is 0."""
    return format_fraction(top / bottom if bottom else math.nan)


# The network, its training and its data


def about_network(record: Mapping[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Architecture, parameters and cost, as text. Raises ConfigError if the config's network cannot be built."""
    network, _ = build_network(cfg, len(record["class_names"]), load_weights=False)
    by_part = {}
    with suppress(ConfigError):  # an architecture of other parts
        by_part = {name: sum(p.numel() for p in part.parameters()) for name, part in parts(network).items()}
    values = record.get("normalisation") or {}
    normalisation = ", ".join(f"{key} {' '.join(map(str, values[key]))}" for key in ("mean", "std") if key in values)
    return {
        "architecture": architecture(OmegaConf.to_container(cfg, resolve=True)),  # type: ignore[arg-type]
        "parameters": record.get("parameters") or sum(p.numel() for p in network.parameters()),
        "parameters_by_part": ", ".join(f"{name} {format_millions(n)}" for name, n in by_part.items()),
        "gflop": record.get("gflop") or gflop(network, tuple(record["data"]["size"])),
        "normalisation": normalisation,
    }


def architecture(settings: Any) -> str:
    """The network's parts with their settings, in a line of Markdown."""

    def part(name: str) -> str:
        own = settings.get(name)
        if isinstance(own, dict):  # a path says nothing, and the network's parts are named by themselves
            own = {k: v for k, v in own.items() if k not in ("weights", *PARTS)}
        return f"`{describe_part(own).replace('`', '')}`"

    kind = str(settings["network"].get("_target_", "")).rpartition(".")[2]
    if kind == "SMPNetwork":
        arch = str(settings["network"].get("arch", "Unet")).replace("`", "")
        return f"`{arch}` of segmentation\\_models.pytorch on the encoder {part('encoder')}"
    if kind == "Network":
        bridge = "" if "NoBridge" in part("bridge") else f" → bridge {part('bridge')}"
        return f"encoder {part('encoder')}{bridge} → decoder {part('decoder')} with skip connections → {part('head')}"
    return part("network")


def about_training(record: Mapping[str, Any]) -> dict[str, Any]:
    """The command with paths of this machine shortened, and date, commit, versions and machine of the training."""
    facts = {
        "begun": record.get("started"),
        "commit": record.get("git"),
        "versions": ", ".join(f"{package} {v}" for package, v in (record.get("versions") or {}).items() if v),
        "trained on": ", ".join(f"{key} {value}" for key, value in (record.get("machine") or {}).items()),
        "device": record.get("device"),
        "tested again": (record.get("tested_again") or {}).get("started"),
    }
    shortened = LOCAL_PATH.sub(r".../\1", " ".join(command(record).replace("`", "").split()))
    return {"command": shortened, "origin": [f"{name}: {value}" for name, value in facts.items() if value]}


def about_data(record: Mapping[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Which images, and under what terms."""
    data = record["data"]
    described_by = str(cfg.data.get("about") or cfg.data.get("root") or "")
    about = f", described by {Path(described_by).name}" if cfg.data.get("about") else ""
    protocol = f", {data['protocol']}" if data.get("protocol") else ""
    name = data_name(data)
    return {
        "data": data,
        "size": "×".join(map(str, data["size"])),
        "data_name": name,
        "data_line": f"{name[0].upper()}{name[1:]} (data={layout_of(data).lower()}{about}{protocol})",
        "report": data["roles"]["report"],
        "splits": [
            (said, str(part["split"]), f"{part['images']:,}", str(part["fingerprint"]))
            for role, said in ROLES.items()
            if (part := data["roles"].get(role))
        ],
        "published": compared_with_published(data),
        "terms": [data_terms(data, described_by), *weights_terms(record)],
    }


def layout_of(data: Mapping[str, Any]) -> str:
    """The class that read a record's data, whatever the data is called."""
    return str(data.get("layout", data["name"]))


def data_name(data: Mapping[str, Any]) -> str:
    """A record's data by what is known of it: the layout of its files."""
    layout = layout_of(data)
    said = {"Scenes": "scenes generated by segstudy", "Folder": "images of a user's own"}.get(
        layout, f"data set {layout}"
    )
    if layout in PUBLISHED and PUBLISHED[layout].title:
        said = f"files in the layout of {PUBLISHED[layout].title}"
    return said if data["name"] == layout else f"{data['name']}: {said}"


def data_terms(data: Mapping[str, Any], described_by: str) -> str:
    """The terms of a record's images in Markdown; described_by: the file or folder that tells of a user's own."""
    layout = layout_of(data)
    if layout == "Folder" and "camvid" in described_by.lower():
        return escape_markdown(CAMVID)
    if layout not in PUBLISHED:
        return UNKNOWN.capitalize()
    title, terms = PUBLISHED[layout].title, PUBLISHED[layout].terms
    return escape_markdown(
        f"If these are images of {title}: {terms} Of other images in its layout, {UNKNOWN}" if title else terms
    )


def compared_with_published(data: Mapping[str, Any]) -> str:
    """Whether the lists are as long as the published ones: all that can be said of which files they were."""
    lists = PUBLISHED[layout_of(data)].list_lengths if layout_of(data) in PUBLISHED else {}
    if not lists:
        return ""
    here: dict[str, int] = {}
    for part in data["roles"].values():
        if part:  # what selects may be drawn from the list that is trained on
            here[part["split"]] = here.get(part["split"], 0) + part["images"]
    other = [
        f"its list {split!r} has {lists[split]:,} images, here are {images:,}"
        for split, images in here.items()
        if split in lists and lists[split] != images
    ]
    known = "The run's record tells the layout of the files, not where they came from."
    if other:
        return f"{known} They are not the published data set, or not all of it: {escape_markdown('; '.join(other))}."
    return f"{known} The published lists have as many images." if lists.keys() & here.keys() else known


def weights_terms(record: Mapping[str, Any]) -> Iterator[str]:
    """Where the encoder's weights came from, and under what terms, in Markdown."""
    origin = str(record.get("encoder_weights") or "")
    imagenet = (
        "ImageNet's terms allow non-commercial research and education with its images; whether that binds weights "
        "made from them is not settled."
    )
    if origin.startswith("start_from"):
        run = escape_markdown(origin)
        yield f"The network began with the weights of another run ({run}): their data and licence are theirs."
    elif "(" in origin:
        yield f"The encoder began {escape_markdown(origin)}: other weights were asked for and could not be had."
    elif origin == "random":
        yield "The network began with random weights: no other data are in it."
    elif origin == "imagenet":
        yield f"The encoder began with weights trained on ImageNet. {imagenet}"
    elif origin:
        name = Path(origin).name
        yield f"The encoder began with the weights of the file {escape_markdown(name)}" + (
            f", by its name trained on ImageNet. {imagenet}" if "imagenet" in name.lower()
            else ": their data and licence are not known, add them."
        )  # fmt: skip


# The picture


def _has_picture(folder: Path) -> bool:
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
    """Draw the card's picture below `place`, or take the run's last picture; nothing if it kept neither."""
    held = _samples(folder)
    if held is None:
        if _has_picture(folder):
            with open_to_read(folder / "pictures" / "final.png") as last, atomic_write(place, PICTURE) as file:
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
    with atomic_write(place, PICTURE) as file:
        save(image_grid(rows, ("image", "truth", "prediction", "errors"), legend), file)

"""What a model card says of a run, section by section, in Markdown."""

import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import nn

from segstudy.callbacks.per_image_confusion import SIZES
from segstudy.config.summary import PARTS, describe_part
from segstudy.console import format_amount, format_duration, format_fraction, format_millions
from segstudy.errors import ConfigError
from segstudy.inference.latency import Latency
from segstudy.inference.terms import layout, named, published, terms_of, weights_of
from segstudy.inspection.summary import gflop, parts
from segstudy.runs.listing import counted
from segstudy.runs.record import environment
from segstudy.runs.tables import EXTRA_METRICS, command
from segstudy.study.analysis.findings import Group
from segstudy.study.analysis.metrics import by_name
from segstudy.study.counts import Counts
from segstudy.study.report.text import (
    ROLES,
    escape_markdown,
    format_estimate,
    format_outcomes,
    markdown_list,
    markdown_table,
)
from segstudy.study.results import TestResult
from segstudy.study.statistics import comparison, influence
from segstudy.study.statistics.comparison import Estimate

FAILURES = (
    "missed", "missed_small", "missed_large", "spilled", "mislabelled", "hallucinated", "objects_missed",
    "objects_wrong_label", "objects_right", "boundary_iou", "shift_consistency", "ece_all",
)  # fmt: skip

FAILURES = (
    "missed", "missed_small", "missed_large", "spilled", "mislabelled", "hallucinated", "objects_missed",
    "objects_wrong_label", "objects_right", "boundary_iou", "shift_consistency", "ece_all",
)  # fmt: skip
"""Those of `study/analysis/metrics.py` that say most of one network; which of them there are depends on the data."""
CALIBRATION = ("calibration error (ECE)", "mean difference between confidence and accuracy")
PATH = re.compile(r"(?<=[=\s'\"])[/~][^\s'\"]*/([^\s/'\"]+)")
BUSY = 0.5
"""Of a core: a load from which on a measured time may be too long."""


@dataclass(frozen=True)
class CardContext:
    """What a card is written from. tested: counts of each image, None where they are not there, and then `missing`
    says why. group: with failures. units: labels of images that belong together."""

    folder: Path
    record: Mapping[str, Any]
    cfg: DictConfig
    network: nn.Module
    speeds: Sequence[Latency]
    tested: TestResult | None
    group: Group | None
    missing: str
    clusters: list[str] | None
    supported: np.ndarray
    min_images: int

    @property
    def classes(self) -> list[str]:
        return list(map(str, self.record["class_names"]))

    @property
    def data(self) -> Mapping[str, Any]:
        return self.record["data"]

    @property
    def name(self) -> str:
        model = str((self.record.get("changes") or [self.folder.resolve().name])[0])
        return model.removeprefix("model=")


def first(known: CardContext) -> str:
    """The card in a sentence."""
    report = known.data["roles"]["report"]
    said = format_fraction(known.record["metrics"].get("network", {}).get("miou"))
    if known.tested is not None:
        counts = known.tested.counts
        said = f"{format_estimate(ratio(known, counts.true_positives, counts.union, with_truth(counts)))}, in brackets the 95 % "
        said += "interval over images,"
    return (
        f"It gives every pixel of a photo one of {len(known.classes)} classes: mIoU {said} on {report['images']:,} "
        f"images of {escape_markdown(repr(report['split']))} ({escape_markdown(named(known.data))}), at {by(known.data['size'])}."
    )


def about(known: CardContext) -> str:
    """Network, input, output and classes."""
    record, size = known.record, known.data["size"]
    total = record.get("parameters") or sum(p.numel() for p in known.network.parameters())
    work = record.get("gflop") or gflop(known.network, (size[0], size[1]))
    inner = {}
    with suppress(ConfigError):  # an architecture of other parts
        inner = {name: sum(p.numel() for p in part.parameters()) for name, part in parts(known.network).items()}
    held = ", ".join(f"{name} {format_millions(n)}" for name, n in inner.items())
    marked = (c == known.data.get("background") and name != "background" for c, name in enumerate(known.classes))
    names = [f"{name} (the background)" if mark else name for name, mark in zip(known.classes, marked, strict=True)]
    values = record.get("normalisation", {})
    told = ", ".join(f"{key} {' '.join(map(str, values[key]))}" for key in ("mean", "std") if key in values)
    one = " (one channel for both classes)" if known.cfg.get("head", {}).get("single") else ""
    return "\n".join([
        f"* Network: {network(known.cfg)}; {format_millions(total)} parameters{f' ({held})' if held else ''}, "
        f"{format_amount(work, 2)} GFLOP for an image of {by(size)}",
        f"* Input: an RGB photo of any size, brought to {by(size)} (height × width, bilinear, proportions not kept); "
        f"values in 0…1, normalised{f' with {escape_markdown(told)}' if told else ''}",
        f"* Output{one}: a logit for each class and pixel, interpolated to the photo's own size; the largest decides",
        f"* Classes ({len(names)}): {escape_markdown(', '.join(names))}",
    ])  # fmt: skip


def network(cfg: DictConfig) -> str:
    """The network's parts with their settings, in a line."""

    def part(name: str) -> str:
        settings: Any = OmegaConf.to_container(cfg[name], resolve=True) if cfg.get(name) else None
        if isinstance(settings, dict):  # a path says nothing, and the sockets are parts of their own
            settings = {k: v for k, v in settings.items() if k not in ("weights", *PARTS)}
        return f"`{describe_part(settings).replace('`', '')}`"

    kind = str(cfg.network.get("_target_", "")).rpartition(".")[2]
    if kind == "SMPNetwork":
        arch = str(cfg.network.get("arch", "Unet")).replace("`", "")
        return f"`{arch}` of segmentation\\_models.pytorch on the encoder {part('encoder')}"
    if kind == "Network":
        bridge = "" if "NoBridge" in part("bridge") else f" → bridge {part('bridge')}"
        return f"encoder {part('encoder')}{bridge} → decoder {part('decoder')} with skip connections → {part('head')}"
    return part("network")


def use(known: CardContext) -> str:
    """Three lines of Python, and the commands."""
    run = " ".join(known.folder.resolve().name.split())
    return f"""With the run's folder beside you:

```python
import segstudy
model = segstudy.load({json.dumps(run, ensure_ascii=False)})
mask = model.predict("photo.jpg")  # uint8 (height, width) of the photo: numbers of model.classes
```

```bash
RUN={shlex.quote(run)}
segstudy predict "$RUN" photos --overlay
segstudy export "$RUN" --format onnx
segstudy evaluate "$RUN" data.root=FOLDER
```"""


def data(known: CardContext, license: str | None) -> str:
    """Which images, and under what terms."""
    told = known.data
    rows = [
        (said, str(part["split"]), f"{part['images']:,}", str(part["fingerprint"]))
        for role, said in ROLES.items()
        if (part := told["roles"].get(role))
    ]
    described = known.cfg.data.get("about") or known.cfg.data.get("root") or ""
    about = f", described by {Path(str(described)).name}" if known.cfg.data.get("about") else ""
    protocol = f", {told['protocol']}" if told.get("protocol") else ""
    said = f"{named(told)} (data={layout(told).lower()}{about}{protocol}), read at {by(told['size'])} pixels."
    text = [
        escape_markdown(said[0].upper() + said[1:]),
        markdown_table(("", "list", "images", "fingerprint"), rows),
        published(told),
    ]
    if told.get("overlap"):
        text.append(f"**{told['overlap']} of the reported images were also trained on.**")
    kept = "not said; `--license` adds it" if license is None else f"`{license.replace('`', '')}`"
    notes = [terms_of(told, str(described)), *weights_of(known.record), f"Licence of the weights: {kept}."]
    return "\n\n".join(filter(None, [*text, "\n".join(f"* {note}" for note in notes)]))


def training(known: CardContext) -> str:
    """The command and what it amounts to."""
    record: Mapping[str, Any] = known.record
    cfg: Any = OmegaConf.to_container(known.cfg, resolve=True)
    told = PATH.sub(r".../\1", " ".join(command(record).replace("`", "").split()))
    text = [f"```bash\n{told}\n```\n\nPaths are shortened to their last part."] if told else []
    optim = cfg["optim"]
    encoder = f" (encoder {optim['encoder_lr']})" if optim.get("encoder_lr") is not None else ""
    speed = f", {format_amount(record['images_per_second'])} images/s" if record.get("images_per_second") else ""
    facts = [
        f"loss: `{describe_part(cfg['loss'])}`",
        f"optimizer: `{describe_part(optim.get('optimizer'))}`, learning rate {optim.get('lr')}{encoder}, "
        f"schedule `{describe_part(cfg['schedule'])}`",
        f"length: {counted(record.get('epochs', 0), 'epoch')}, {counted(record.get('steps', 0), 'step')} of "
        f"{cfg['data'].get('batch_size')} images, {format_duration(record.get('seconds'))}{speed}",
        f"tested weights: the {escape_markdown(str(record.get('checkpoint', 'last')))} checkpoint",
        f"seed: {record.get('seed', 0)}",
    ]
    return "\n\n".join([*text, "\n".join(f"* {fact}" for fact in facts)])


# Figures


def ratio(known: CardContext, top: np.ndarray, bottom: np.ndarray, keep: np.ndarray | None = None) -> Estimate:
    """A ratio of sums over images with its interval over images, cut to 0…1."""
    value, influences = influence.influence(top, bottom, keep, leave_one_out=True)
    e = comparison.estimate([value], [influences], known.clusters)
    return Estimate(e.value, float(np.maximum(e.low, 0)), float(np.minimum(e.high, 1)))


def with_truth(counts: Counts) -> np.ndarray:
    """Classes with truth in the counted images, bool (C,): small objects may vanish at the network's size."""
    return counts.truth.sum(0) > 0


def figures(known: CardContext) -> str:
    """mIoU and accuracies at both sizes, with intervals where the test's counts are there."""
    metrics, tested = known.record["metrics"], known.tested
    head = ("", f"at the network's size, {by(known.data['size'])}", "at each image's original size")
    if tested is None:
        names = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean class accuracy"}
        rows = [[name, *(format_fraction(metrics.get(s, {}).get(key)) for s in SIZES)] for key, name in names.items()]
        return f"{markdown_table(head, rows)}\n\n{known.missing}"
    sizes = [tested.counts, tested.original or tested.counts]
    rows = [[name, *(format_estimate(ratio(known, *terms(c))) for c in sizes)] for name, terms in _kinds(known, tested)]
    rows += [
        [f"mIoU, {said}", *(format_fraction(known.record[key].get(s, {}).get("miou")) for s in SIZES)]
        for key, said in EXTRA_METRICS.items()
        if key in known.record
    ]
    said = (
        "In brackets: 95 % intervals over images, of this one training; there is none where one image alone holds a "
        "class. All pixels of the reported images are added up and divided once; classes without truth in them enter "
        "no mean. At the original size, logits are interpolated first. Other readings of these words: `segstudy audit`."
    )
    return "\n\n".join(filter(None, [markdown_table(head, rows), said, known.missing]))


def _kinds(known: CardContext, tested: TestResult) -> Iterator[tuple[str, Callable[[Counts], tuple[Any, ...]]]]:
    """Name and terms of each figure of the table."""
    yield "mIoU of the classes with truth", lambda c: (c.true_positives, c.union, with_truth(c))
    if known.supported.any() and (known.supported != with_truth(tested.counts)).any():
        name = f"mIoU of those in at least {known.min_images} images ({known.supported.sum()})"
        yield name, lambda c: (c.true_positives, c.union, known.supported)
    yield "pixel accuracy", lambda c: (c.true_positives.sum(1), c.truth.sum(1))
    yield "mean class accuracy", lambda c: (c.true_positives, c.truth, with_truth(c))


def classes(known: CardContext) -> str:
    """A row for each class with truth in the reported images, at either size."""
    tested = known.tested
    if tested is None:
        keys = ("iou", "recall", "precision")
        rows = [
            [str(row.get("class")), *(format_fraction(row.get(k)) for k in keys)]
            for row in known.record["classes"]["network"]
        ]
        return markdown_table(("class", "IoU", "recall", "precision"), rows)
    counts, full = tested.counts, tested.original or tested.counts
    images = (full.truth > 0).sum(0)
    few = images < known.min_images
    hit, truth, predicted = (a.sum(0) for a in (counts.true_positives, counts.truth, counts.predicted))
    rows = []
    for c in np.flatnonzero(with_truth(counts) | with_truth(full)):
        iou = ratio(known, counts.true_positives[:, c], counts.union[:, c], np.array([truth[c] > 0]))
        rows.append([
            known.classes[c], f"{format_fraction(iou.value)} (few images)" if few[c] else format_estimate(iou),
            divided(full.true_positives[:, c].sum() * (images[c] > 0), full.union[:, c].sum() * (images[c] > 0)),
            divided(hit[c], truth[c]), divided(hit[c], predicted[c]), f"{images[c]:,}", f"{truth[c] / truth.sum():.2%}",
        ])  # fmt: skip
    head = ("class", "IoU (95 %)", "IoU, original size", "recall", "precision", "images", "share of pixels")
    said = f"\n\nfew images: the class is in fewer than {known.min_images}, and its IoU is mostly chance."
    return markdown_table(head, rows) + said * bool((few & (images > 0)).any())


def divided(top: int, bottom: int) -> str:
    """A share as text; n/a of nothing."""
    return format_fraction(top / bottom if bottom else math.nan)


def failures(known: CardContext) -> str:
    """How it fails, with intervals; what is confused; what became of the objects."""
    if known.group is None:
        return ""
    variant = known.group.variants[0]
    rows = []
    for name in FAILURES:
        e = variant.figures.get(name)
        if e is not None and math.isfinite(e.value):
            title, says = CALIBRATION if name == "ece_all" else (by_name(name).title, by_name(name).says)
            rows.append([title, format_estimate(e), says])
    text = [markdown_table(("", "share (95 %)", "of what"), rows)]
    if variant.confused:
        lines = [f"{truth} taken for {guess}: {part:.0%} of its pixels" for truth, guess, part in variant.confused[:6]]
        text.append(f"Taken for each other, most pixels first:\n\n{markdown_list(lines)}")
    if variant.outcomes:
        text.append(f"What became of the objects: {format_outcomes(variant.outcomes)}.")
    return "\n\n".join(text)


def speed(known: CardContext) -> str:
    """Measured on this machine, where it was."""
    if not known.speeds:
        return ""
    rows = [
        [s.device, s.precision, _milliseconds(s.p50), _milliseconds(s.p95), str(s.batch), f"{s.images_per_second:,.1f}"]
        for s in known.speeds
    ]
    machine, measured = environment()["machine"], known.speeds[0]
    cores = f"{counted(machine['cores'], 'core')}, {counted(measured.threads, 'thread')} used"
    busy = f" The machine had other work (load {measured.load:.1f}): alone it is faster." * (measured.load > BUSY)
    return (
        markdown_table(("device", "precision", "one image, p50", "p95", "best batch", "images/s with it"), rows)
        + f"\n\nThe network alone at {by(measured.size)}, without reading and resizing photos, measured "
        f"{datetime.now().astimezone():%Y-%m-%d} on {escape_markdown(str(machine['cpu']))} ({cores}).{busy}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


# What it cannot do, and what made it


def limits(known: CardContext) -> str:
    """What a reader must know before using it or its figures."""
    tested, record = known.tested, known.record
    said = [
        f"One training (seed {record.get('seed', 0)}): how far another seed would move these figures is not known from "
        "this run.",
        f"Trained and tested at {by(known.data['size'])}: what is small in a photo may vanish when brought to that "
        "size; how good it is at other sizes is not known.",
        "Every pixel gets one of the classes above, also where none of them is.",
        "Other cameras, places and seasons than those of the reported images may give other figures.",
    ]
    if known.group is not None:
        said += [f"{text[0].upper()}{text[1:]}." for text in known.group.warnings]
    elif record.get("selected_on_reported"):
        said.append("It was selected on the reported images: its figures are flattered.")
    if tested is not None and (
        absent := [n for n, t in zip(known.classes, with_truth(tested.original or tested.counts), strict=True) if not t]
    ):
        more = f" and {len(absent) - 12} more" if len(absent) > 12 else ""
        said.append(
            f"Nothing is known of classes without truth in the reported images: {', '.join(absent[:12])}{more}."
        )
    return markdown_list(said)


def made(known: CardContext) -> str:
    """Date, commit, versions and machine of the training."""
    record = known.record
    machine = record.get("machine") or {}
    versions = ", ".join(f"{package} {v}" for package, v in (record.get("versions") or {}).items() if v)
    facts = {
        "begun": record.get("started"),
        "commit": record.get("git"),
        "versions": versions,
        "trained on": ", ".join(f"{key} {value}" for key, value in machine.items()),
        "device": record.get("device"),
        "tested again": (record.get("tested_again") or {}).get("started"),
    }
    return markdown_list(f"{name}: {value}" for name, value in facts.items() if value)


def by(size: Sequence[int]) -> str:
    """Height×width."""
    return f"{size[0]}×{size[1]}"

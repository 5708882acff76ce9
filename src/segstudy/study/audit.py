"""Audit of a run: the same predictions under every reading of "mIoU" and "accuracy"."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segstudy.console import format_number
from segstudy.errors import DataError
from segstudy.files import write_text
from segstudy.runs.history import read_history
from segstudy.runs.record import read_record
from segstudy.runs.tables import EXTRA_METRICS
from segstudy.study.counts import Counts
from segstudy.study.readings import BATCHES, RULES, Definition, dataset, definitions

SAME = ("dataset", "per image", "per batch", "other batch means")
"""Groups of readings of the same predictions as a mIoU."""
UNMEASURED = (
    "void as an extra class or mapped to background (journey): 255 is not in the counts",
    "soft IoU of probabilities, IoU of each class at a threshold of .5: only labels were counted",
    "a square crop instead of the whole image; weights other than those tested (EMA against plain)",
    "the floor of a location prior (each pixel's most frequent class in training): it needs the training masks",
)
"""What cannot be computed from a run's counts per image."""


@dataclass(frozen=True)
class Reading:
    """A reading's value, its distance from the dataset-level mIoU, and a constant predictor's value (floor).

    NaN: not defined (n/a); None: without meaning here, or not known.
    """

    group: str
    name: str
    formula: str
    who: str
    value: float
    distance: float | None
    floor: float | None

    @property
    def no_better_than_constant(self) -> bool:
        """Whether the constant predictor's value is at least as high."""
        return self.floor is not None and self.floor >= self.value


@dataclass(frozen=True)
class Audit:
    """All readings of a run, the dataset-level mIoU over the classes with truth first.

    floor: the constant predictor's class, the background or, where no class is that, the most frequent one.
    spread and floors: smallest and largest mIoU of the predictions, and of the constant predictor, without the sum that
    is never divided.
    """

    run: str
    record: Mapping[str, Any]
    counts: Counts
    background: int | None
    floor: int
    readings: Sequence[Reading]

    @property
    def spread(self) -> tuple[float, float]:
        return extremes([r.value for r in self._same()])

    @property
    def floors(self) -> tuple[float, float]:
        return extremes([r.floor for r in self._same() if r.floor is not None])

    def _same(self) -> list[Reading]:
        return [r for r in self.readings if r.group in SAME and not r.name.startswith("sum over batches")]

    @property
    def constant(self) -> str:
        """The constant predictor in words."""
        return f"all {self.record['class_names'][self.floor]}"

    def __getitem__(self, name: str) -> Reading:
        return next(r for r in self.readings if r.name == name)


def extremes(values: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest of the values that are not NaN; NaN where there is none."""
    known = [v for v in values if not math.isnan(v)] or [math.nan]
    return min(known), max(known)


def audit(folder: Path) -> Audit:
    """Read a run's folder. Raises DataError if it is none, or its test is not there."""
    record, counts = read_counts(folder)
    data = record.get("data", {})
    background = background_class(data, record["class_names"])
    floor = background if background is not None else int(counts["network"].truth.sum(0).argmax())
    network = counts["network"]
    level, base = dataset(network), network.constant(floor)

    def read(d: Definition, on: Counts, under: Counts) -> Reading:
        value = d.measure(on)
        return Reading(d.group, d.name, d.formula, d.who, value, value - level, d.measure(under))

    readings = [read(d, network, base) for d in definitions(background)]
    readings += [void_as_error(network, base, data["size"], level)] if "size" in data else []
    readings += other_predictions(record, counts["original"], floor, readings[0])
    readings += selections(folder, data.get("roles", {}), level)
    return Audit(folder.name, record, network, background, floor, readings)


def read_counts(folder: Path) -> tuple[dict[str, Any], dict[str, Counts]]:
    """The record of a run and its counts per image, for each size."""
    place, counts = folder / "record.json", folder / "test" / "counts.npz"
    if not place.is_file():
        found = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder} is not a run's folder\n  expected: {place}\n  found:    {found}\n"
            "  → one run's folder: runs/STUDY/RUN"
        )
    record = read_record(folder)
    if not counts.is_file():
        status = record.get("status", "not known")
        raise DataError(
            f"{folder} has no counts of its test images\n  expected: {counts}\n  found:    a run whose status is "
            f"{status!r}\n  → "
            + ("wait until it is tested" if status == "running" else "the same command continues it")
        )
    with np.load(counts) as file:
        images, classes = len(file["names"]), len(record["class_names"])
        sizes = {size: Counts.from_rows(file[size], images, classes) for size in ("network", "original")}
    if not sizes["network"].truth.any():
        raise DataError(f"{counts} holds no counted pixel: every pixel of the test images is ignored (255)")
    return record, sizes


def background_class(data: Mapping[str, Any], classes: Sequence[str]) -> int | None:
    """The background's number: as recorded, else class 0 if that is its name."""
    if "background" in data:
        return data["background"]
    return 0 if classes[0] == "background" else None


def void_as_error(counts: Counts, base: Counts, size: Sequence[int], level: float) -> Reading:
    """Pixel accuracy over all pixels of the images, those under 255 included, which no class can get right."""
    counts, base = counts.counted(), base.counted()
    pixels = len(counts.truth) * math.prod(size)
    value, floor = (k.true_positives.sum().item() / pixels for k in (counts, base))
    return Reading("accuracy", "pixel accuracy, void an error", "ΣΣH / all pixels, those of 255 included",
                   "notebooks: (prediction == mask).mean()", value, value - level, floor)  # fmt: skip


def other_predictions(record: Mapping[str, Any], original: Counts, floor: int, first: Reading) -> list[Reading]:
    """The first reading of other predictions: at original size, with test-time augmentation, with a CRF."""
    level, base = first.value, first.floor
    found: list[tuple[str, str, float, float | None]]
    found = [
        ("at each image's original size", "VOC devkit, mmseg", dataset(original), dataset(original.constant(floor)))
    ]
    found += [
        (said, "papers, often without saying so", record[key]["miou"], base)
        for key, said in EXTRA_METRICS.items()
        if key in record
    ]
    return [
        Reading("other predictions", name, "as the first row", who, v, v - level, low) for name, who, v, low in found
    ]


def selections(folder: Path, roles: Mapping[str, Any], level: float) -> list[Reading]:
    """Last and best epoch of the validation curve: choosing one is selection, not a reading.

    The distance from the reported mIoU is None where the curve is of another split.
    """
    curve = [(r["val/miou"], int(r["epoch"])) for r in read_history(folder / "history.csv") if "val/miou" in r]
    if not curve:
        return []
    held = roles.get("select")
    where = f"{held['split']!r}, which selects" if held else "the reported split"
    best = max(curve, key=lambda point: point[0])
    chosen = ((*curve[-1], "last", "segstudy (checkpoint=last)"),
              (*best, "best", "journey, resnet_unet, ade_unet, pet_benchmark"))  # fmt: skip
    return [
        Reading("selection", f"{which} epoch ({epoch}) on {where}", "as the first row, validation curve", who,
                value, None if held else value - level, None)
        for value, epoch, which, who in chosen
    ]  # fmt: skip


@dataclass(frozen=True)
class PublishedFigure:
    """A figure that was published on a data set, and the data that another run must have to be set beside it."""

    system: str
    figure: str
    needed: str
    same: Callable[[Mapping[str, Any]], bool]


def _on(split: Any, size: Sequence[int], fit: int = 0) -> Callable[[Mapping[str, Any]], bool]:
    """Whether data report on `split` (number of images, or protocol) at `size`, trained on at most `fit` images."""

    def same(data: Mapping[str, Any]) -> bool:
        trained = data["roles"].get("fit", {}).get("images", 0)
        reported = data.get("protocol") if isinstance(split, str) else data["roles"]["report"]["images"]
        return (reported, [*data["size"]]) == (split, [*size]) and (not fit or trained <= fit)

    return same


VOC_FIGURE = PublishedFigure(
    "resnet_unet", '"mIoU" 79.38 %',
    "trained on the 1,464 images of train, read on all 1,449 of val, at 256×256, border ignored",
    _on(1449, (256, 256), 1464),
)  # fmt: skip

PUBLISHED = {
    "VOC": VOC_FIGURE,
    "VOCSBD": VOC_FIGURE,
    "ADE20K": PublishedFigure("ade_unet", "IoU .1389 and accuracy .5928",
        "all 2,000 validation images with 150 classes, at 256×256", _on(2000, (256, 256))),
    "Pet": PublishedFigure("pet_benchmark", "accuracy 93.45 %",
        "the last 20 % of the alphabetical list, at 128×128, border=background",
        _on("border=background, split=alphabetical", (128, 128))),
}  # fmt: skip
"""By the name of the data set. What each figure could mean: docs/readings.md."""


def published(audit: Audit) -> str:
    """The figure published on data of this kind, and whether this run's data could be the same; "" without one."""
    data = audit.record.get("data", {})
    known = PUBLISHED.get(data.get("name", ""))
    if known is None:
        return ""
    report, size = data["roles"]["report"], "×".join(map(str, data["size"]))
    protocol = f" ({data['protocol']})" if data.get("protocol") else ""
    could = known.same(data)
    verdict = "That could be the same data; their files must be too." if could else "That is other data: no comparison."
    return (
        f"Published for {known.system}: {known.figure}; how it was read is not stated. "
        f"Only on the same data could anything be compared: {known.needed}. "
        f"This run reports on {report['images']} images of {report['split']!r} at {size}{protocol}. {verdict} "
        "What the figure could mean: docs/readings.md."
    )


def write_json(audit: Audit, path: Path) -> None:
    """Write all that is printed as JSON; null: not defined, or not known."""
    values = {
        "run": audit.run,
        "data": audit.record.get("data"),
        "class_names": audit.record["class_names"],
        "background": audit.background,
        "floor": audit.constant,
        "images": len(audit.counts.truth),
        "counted_images": len(audit.counts.counted().truth),
        "readings": [asdict(r) for r in audit.readings],
        "spread": audit.spread,
        "floors": audit.floors,
        "published": published(audit) or None,
        "not_measured": UNMEASURED,
    }
    write_text(path.parent, path.name, json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_audit(audit: Audit, console: Console) -> None:
    """Print the table of readings by group, the grid of batch means, and a summary in words."""
    console.print(_table(audit))
    console.print(_grid(audit))
    for line in words(audit):
        console.print(line, highlight=False, markup=False)


def _table(audit: Audit) -> Table:
    images, counted = len(audit.counts.truth), len(audit.counts.counted().truth)
    table = Table(
        title=escape(f"{audit.run}: the same predictions under each reading"),
        caption="T truth, P predicted, H true positives, U = T+P−H: pixels of class c in image i; Σ over images; "
        f"b background; C classes. {counted} of {images} images counted, in the list's order. Δ: from the first row.",
        caption_justify="left",
    )
    table.add_column("reading, its formula, who reads it so", overflow="fold")
    for column in ("value", "Δ", escape(audit.constant)):
        table.add_column(column, justify="right", overflow="fold", min_width=6)
    group = ""
    for r in audit.readings:
        if r.group == "per batch":
            continue
        if r.group != group:
            group = r.group
            table.add_section()
            table.add_row(f"[italic]{group}" + (" (no reading)" if group == "selection" else ""))
        style = "bold" if r is audit.readings[0] else None
        table.add_row(
            _about(r.name, r.formula, r.who),
            format_number(r.value),
            format_number(r.distance, sign=True),
            _floor(r),
            style=style,
        )
    return table


def _grid(audit: Audit) -> Table:
    table = Table(
        title="the plain mean over batches of each batch's mean IoU, by images in a batch",
        caption=escape(f"value, Δ from the dataset-level mIoU, and {audit.constant} under the same reading"),
        caption_justify="left",
    )
    table.add_column("classes of a batch, formula, who reads it so", overflow="fold")
    for size in BATCHES:
        table.add_column(str(size), justify="right", min_width=6)
    batch_means = [r for r in audit.readings if r.group == "per batch"]
    for (name, formula), first in zip(RULES.values(), range(0, len(batch_means), len(BATCHES)), strict=True):
        row = batch_means[first : first + len(BATCHES)]
        shown = [f"{format_number(r.value)}\n{format_number(r.distance, sign=True)}\n{_floor(r)}" for r in row]
        table.add_row(_about(name, formula, row[0].who), *shown)
        table.add_section()
    return table


def _about(name: str, formula: str, who: str) -> str:
    return f"{name}\n[dim]{formula}\n{who}"


def _floor(r: Reading) -> str:
    return f"[yellow]{format_number(r.floor)}" if r.no_better_than_constant else format_number(r.floor)


def words(audit: Audit) -> list[str]:
    """A summary: the spread, the floors, the published figure if any, and what was not measured."""
    low, high = map(format_number, audit.spread)
    floors = " to ".join(map(format_number, audit.floors))
    lines = [
        f"The same predictions read between {low} and {high} as mIoU, {format_number(audit.readings[0].value)} at "
        f"dataset level; {audit.constant} reads {floors}. A figure whose reading is not stated could be any of these."
    ]
    matched = [r.name for r in audit.readings if r.group in SAME and r.no_better_than_constant]
    if matched:
        lines.append(f"As high as this network, or higher (yellow), is {audit.constant} under: {'; '.join(matched)}.")
    chosen = [r for r in audit.readings if r.group == "selection"]
    if chosen:
        gain = chosen[1].value - chosen[0].value
        lines.append(
            f"The best epoch is {format_number(gain, sign=True)} from the last: that is selection, not another reading."
        )
    lines += [text] if (text := published(audit)) else []
    missing = list(UNMEASURED)
    if "metrics_tta" not in audit.record:
        missing.insert(0, "test-time augmentation (callbacks.tta.enabled=true measures it at the test)")
    return [*lines, "Not measurable from this run's counts:", *(f"  {m}" for m in missing)]

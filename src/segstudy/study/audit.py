"""Audit of a run: its predictions under every definition of "mIoU" and "accuracy"."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segstudy.errors import DataError
from segstudy.files import write_text
from segstudy.formatting import format_number, format_range, format_signed
from segstudy.runs.headline import Size, headline_size, headline_words
from segstudy.runs.history import read_history
from segstudy.runs.record import read_record, sealed
from segstudy.runs.tables import EXTRA_METRICS
from segstudy.study.counts import Counts, read_counts
from segstudy.study.readings import BATCHES, DEFINITIONS, RULES, dataset

SAME = ("dataset", "per image", "per batch", "other batch means")
"""Groups of definitions of mIoU for the same predictions."""
OTHER_SIZES: dict[Size, tuple[str, str]] = {
    "original": ("at each image's original size", "VOC devkit, mmseg"),
    "network": ("at the size that the network saw", "notebooks"),
}
"""The size that is not the headline size: its name, and who reports at it."""
UNMEASURED = (
    "void as an extra class or mapped to background (journey): 255 is not in the counts",
    "soft IoU of probabilities, IoU of each class at a threshold of 0.5: only labels were counted",
    "a square crop instead of the whole image; weights other than those tested (EMA against plain)",
    "a constant prediction for each position (each pixel's most frequent training class): it needs training masks",
)
"""What cannot be computed from a run's counts per image."""

MOST_USED = (
    "dataset mIoU, classes with truth", "dataset mIoU, classes with union > 0", "dataset mIoU, all classes, absent = 1",
    "dataset mIoU, all classes, absent = 0", "without background", "micro IoU", "Dice reported as IoU",
    "macro-imagewise", "all pairs of image and class, union > 0", "batches of 16, classes with union > 0",
    "pixel accuracy", "mean class accuracy",
)  # fmt: skip
"""Definitions that are printed without --all."""


@dataclass(frozen=True)
class Reading:
    """A run's value under one definition. distance: from the first row. floor: the constant predictor's value.

    NaN: not defined (n/a). None: not known, or not comparable.
    """

    group: str
    name: str
    formula: str
    who: str
    value: float
    distance: float | None
    floor: float | None = None

    @property
    def no_better_than_constant(self) -> bool:
        """Whether the constant predictor has at least this value."""
        return self.floor is not None and self.floor >= self.value


@dataclass(frozen=True)
class Audit:
    """A run's values under all definitions; the first is the dataset mIoU over the classes with truth.

    floor: the class of the constant predictor: the background, or the most frequent class if there is no background.
    """

    run: str
    record: Mapping[str, Any]
    counts: Counts
    background: int | None
    floor: int
    readings: Sequence[Reading]

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest mIoU of the predictions; the sum that is never divided does not count."""
        return self._extremes(lambda reading: reading.value)

    @property
    def floors(self) -> tuple[float, float]:
        """Smallest and largest mIoU of the constant predictor."""
        return self._extremes(lambda reading: reading.floor)

    def _extremes(self, of: Callable[[Reading], float | None]) -> tuple[float, float]:
        same = [r for r in self.readings if r.group in SAME and not r.name.startswith("sum over batches")]
        known = [v for r in same if (v := of(r)) is not None and not math.isnan(v)] or [math.nan]
        return min(known), max(known)

    @property
    def constant(self) -> str:
        """The constant predictor, such as "all background"."""
        return f"all {self.record['class_names'][self.floor]}"

    def __getitem__(self, name: str) -> Reading:
        return next(r for r in self.readings if r.name == name)


def audit(folder: Path) -> Audit:
    """Evaluate a run under all definitions. Raises ConfigError if it is no run, DataError if it is not tested."""
    record, of_size = read_tested(folder)
    size = headline_size(record)
    counts, data = of_size[size], record.get("data", {})
    background = background_class(data, record["class_names"])
    floor = int(counts.truth.sum(0).argmax()) if background is None else background
    base, level = counts.constant(floor), dataset(counts)

    def read(group: str, name: str, formula: str, who: str, value: float, low: float | None) -> Reading:
        return Reading(group, name, formula, who, value, value - level, low)

    readings = [
        read(d.group, d.name, d.formula, d.who, d.measure(counts, background), d.measure(base, background))
        for d in DEFINITIONS
    ]
    if "size" in data and size == "network":  # else the sizes of the images are not recorded
        value, low = (void_as_error(k, data["size"]) for k in (counts.counted(), base.counted()))
        readings.append(read("accuracy", "pixel accuracy, void an error", "ΣΣH / all pixels, those of 255 included",
                             "notebooks: (prediction == mask).mean()", value, low))  # fmt: skip
    readings += other_predictions(record, of_size, size, floor)
    network_level = level if dataset(of_size["network"]) == level else None
    readings += selections(folder, record, network_level)
    return Audit(folder.name, record, counts, background, floor, readings)


def other_predictions(
    record: Mapping[str, Any], of_size: Mapping[Size, Counts], size: Size, floor: int
) -> list[Reading]:
    """The predictions at the size that is not the headline size, and extra evaluations, which are at network size."""
    level, network = dataset(of_size[size]), of_size["network"]
    other: Size = "original" if size == "network" else "network"
    name, who = OTHER_SIZES[other]
    value, low = dataset(of_size[other]), dataset(of_size[other].constant(floor))
    formula = "as the first row" + ", at network size" * (size == "original")
    same = dataset(network) == level
    extra = {name: record[key]["miou"] for key, name in EXTRA_METRICS.items() if key in record}
    return [
        Reading("other predictions", name, "as the first row", who, value, value - level, low),
        *(Reading("other predictions", name, formula, "papers, often without saying so", value,
                  value - level if same else None, dataset(network.constant(floor))) for name, value in extra.items()),
    ]  # fmt: skip


def read_tested(folder: Path) -> tuple[dict[str, Any], dict[Size, Counts]]:
    """A run's record, and its counts for each image at each size."""
    record = read_record(folder)
    file = sealed(folder, "test/counts.npz", record)
    if not file.is_file():
        status = record.get("status", "not known")
        todo = "wait until it is tested" if status == "running" else "the same command continues it"
        raise DataError(
            f"{folder} has no counts of its test images\n  expected: {file}\n"
            f"  found:    a run whose status is {status!r}\n  → {todo}"
        )
    _, counts = read_counts(file, len(record["class_names"]))
    if not counts["network"].truth.any():
        raise DataError(f"{file} holds no counted pixel: every pixel of the test images is ignored (255)")
    return record, counts


def background_class(data: Mapping[str, Any], classes: Sequence[str]) -> int | None:
    """The background's number: as recorded, else class 0 if that is its name."""
    return data["background"] if "background" in data else 0 if classes[0] == "background" else None


def void_as_error(counts: Counts, size: Sequence[int]) -> float:
    """Pixel accuracy over all pixels, including those of 255, which are always wrong."""
    return counts.true_positives.sum().item() / (len(counts.truth) * math.prod(size))


def selections(folder: Path, record: Mapping[str, Any], level: float | None) -> list[Reading]:
    """Last and best epoch of the validation curve: choosing one is selection, not a definition.

    level: value of the first row; None if it is at another size than the curve. distance is None without a level, and
    if the curve is of another split than the reported one.
    """
    curve = [
        (r["val/miou"], int(r["epoch"])) for r in read_history(sealed(folder, "history.csv", record)) if "val/miou" in r
    ]
    if not curve:
        return []
    held = record.get("data", {}).get("roles", {}).get("select")
    where = f"{held['split']!r}, which selects" if held else "the reported split"
    chosen = {
        "last": (curve[-1], "segstudy (checkpoint=last)"),
        "best": (max(curve, key=lambda point: point[0]), "journey, resnet_unet, ade_unet, pet_benchmark"),
    }
    return [
        Reading("selection", f"{which} epoch ({epoch}) on {where}", "as the first row, validation curve", who,
                value, None if held or level is None else value - level)
        for which, ((value, epoch), who) in chosen.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class PublishedFigure:
    """A published value. needed: the data it was measured on, in words; the other fields: what a run must share."""

    system: str
    figure: str
    needed: str
    size: int
    images: int | None = None
    most_trained: float = math.inf
    protocol: str | None = None

    def could_be(self, data: Mapping[str, Any]) -> bool:
        roles = data["roles"]
        return (
            data.get("fit", "squash") == "squash"
            and [*data["size"]] == [self.size, self.size]
            and self.images in (None, roles["report"]["images"])
            and roles.get("fit", {}).get("images", 0) <= self.most_trained
            and self.protocol in (None, data.get("protocol"))
        )


VOC_FIGURE = PublishedFigure(
    "resnet_unet", '"mIoU" 79.38 %',
    "trained on the 1,464 images of train, measured on all 1,449 of val, at 256×256, border ignored",
    size=256, images=1449, most_trained=1464,
)  # fmt: skip

PUBLISHED = {
    "VOC": VOC_FIGURE,
    "VOCSBD": VOC_FIGURE,
    "ADE20K": PublishedFigure("ade_unet", "IoU 0.1389 and accuracy 0.5928",
        "all 2,000 validation images with 150 classes, at 256×256", size=256, images=2000),
    "Pet": PublishedFigure("pet_benchmark", "accuracy 93.45 %",
        "the last 20 % of the alphabetical list, at 128×128, border=background",
        size=128, protocol="border=background, split=alphabetical"),
}  # fmt: skip
"""By the name of the data set. What each value could mean: docs/readings.md."""


def published(audit: Audit) -> str:
    """The value published on this data set, and whether this run has the same data; "" if none is known."""
    data = audit.record.get("data", {})
    known = PUBLISHED.get(data.get("name", ""))
    if known is None:
        return ""
    report, size = data["roles"]["report"], headline_words(audit.record)
    protocol = f" ({data['protocol']})" if data.get("protocol") else ""
    same = known.could_be(data)
    return (
        f"Published for {known.system}: {known.figure}; its definition is not stated. "
        f"Only on the same data could anything be compared: {known.needed}. "
        f"This run reports on {report['images']} images of {report['split']!r} at {size}{protocol}. "
        f"{'That could be the same data; their files must be too.' if same else 'That is other data: no comparison.'} "
        "What the value could mean: docs/readings.md."
    )


def write_json(audit: Audit, path: Path) -> None:
    """Write all values as JSON; null: not defined or not known."""
    values = {
        "run": audit.run,
        "data": audit.record.get("data"),
        "class_names": audit.record["class_names"],
        "background": audit.background,
        "floor": audit.constant,
        "images": len(audit.counts.truth),
        "counted_images": len(audit.counts.counted().truth),
        "readings": audit.readings,
        "spread": audit.spread,
        "floors": audit.floors,
        "published": published(audit) or None,
        "not_measured": UNMEASURED,
    }
    write_text(path.parent, path.name, to_json(values, indent=1, inf_nan_mode="null").decode())


def print_audit(audit: Audit, console: Console, everything: bool = False) -> None:
    """Print the result in a sentence, then the most used definitions, or all of them with formulas."""
    console.print(f"[bold]{escape(result(audit))}", highlight=False)
    console.print(_table(audit) if everything else _short_table(audit, console.width >= 120))
    if everything:
        console.print(_grid(audit))
    for line in words(audit) if everything else short_words(audit):
        console.print(line, highlight=False, markup=False)


def result(audit: Audit) -> str:
    """The range of values in a sentence."""
    return (
        f"{audit.run}: the same predictions count as {format_range(*audit.spread)} mIoU, depending on the definition; "
        f"segstudy reports {format_number(audit.readings[0].value)}."
    )


def _short_table(audit: Audit, wide: bool) -> Table:
    table = Table()
    table.add_column("definition", min_width=39)
    if wide:
        table.add_column("used by", no_wrap=True, overflow="ellipsis", max_width=38)
    for column in ("value", "Δ", escape(audit.constant)):
        table.add_column(column, justify="right", no_wrap=True, min_width=6)
    for r in audit.readings:
        if r.name in MOST_USED and not math.isnan(r.value):
            users = [f"[dim]{r.who}"] if wide else []
            table.add_row(r.name, *users, *_numbers(r), style="bold" if r is audit.readings[0] else None)
    return table


def short_words(audit: Audit) -> list[str]:
    """What the short table means, and how to see the rest."""
    lines = [
        f"Δ: from the first row. {audit.constant}: the value of predicting this everywhere; yellow if the network is "
        f"not better. --all: all definitions with formulas (docs/readings.md)."
    ]
    return lines + [text for text in [published(audit)] if text]


def _table(audit: Audit) -> Table:
    images, counted = len(audit.counts.truth), len(audit.counts.counted().truth)
    table = Table(
        caption="T truth, P predicted, H true positives, U = T+P−H: pixels of class c in image i; Σ over images; "
        f"b background; C classes. {counted} of {images} images counted, in the list's order. Δ: from the first row.",
        caption_justify="left",
    )
    table.add_column("definition, formula, used by", overflow="fold")
    for column in ("value", "Δ", escape(audit.constant)):
        table.add_column(column, justify="right", overflow="fold", min_width=6)
    group = ""
    for r in audit.readings:
        if r.group == "per batch" or math.isnan(r.value):
            continue
        if r.group != group:
            group = r.group
            table.add_section()
            table.add_row(f"[italic]{group}" + (" (not a definition)" if group == "selection" else ""))
        style = "bold" if r is audit.readings[0] else None
        table.add_row(f"{r.name}\n[dim]{r.formula}\n{r.who}", *_numbers(r), style=style)
    return table


def _grid(audit: Audit) -> Table:
    table = Table(
        title="the plain mean over batches of each batch's mean IoU, by images in a batch",
        caption=escape(f"value, Δ from the first row above, and {audit.constant} under the same definition"),
        caption_justify="left",
        show_lines=True,
    )
    table.add_column("classes of a batch, formula, used by", overflow="fold")
    for size in BATCHES:
        table.add_column(str(size), justify="right", min_width=6)
    shown = iter("\n".join(_numbers(r)) for r in audit.readings if r.group == "per batch")
    for name, formula, who in RULES.values():
        table.add_row(f"{name}\n[dim]{formula}\n{who}", *(next(shown) for _ in BATCHES))
    return table


def _numbers(r: Reading) -> tuple[str, str, str]:
    """Value, distance and the constant predictor's value: yellow if it is not lower."""
    floor = "[yellow]" * r.no_better_than_constant + format_number(r.floor)
    return format_number(r.value), format_signed(r.distance), floor


def words(audit: Audit) -> list[str]:
    """Notes below all definitions: the constant predictor, the published value if any, and what was not measured."""
    lines = [
        f"For {audit.constant} the mIoU is {format_range(*audit.floors)}. A published value whose definition is not "
        "stated could be any of these."
    ]
    if matched := [r.name for r in audit.readings if r.group in SAME and r.no_better_than_constant]:
        lines.append(f"As high as this network, or higher (yellow), is {audit.constant} under: {'; '.join(matched)}.")
    if chosen := [r.value for r in audit.readings if r.group == "selection"]:
        gain = format_signed(chosen[1] - chosen[0])
        lines.append(f"The best epoch differs from the last by {gain}: that is selection, not another definition.")
    lines += [text] if (text := published(audit)) else []
    missing = list(UNMEASURED)
    if "metrics_tta" not in audit.record:
        missing.insert(0, "test-time augmentation (callbacks.tta.enabled=true measures it at the test)")
    return [*lines, "Not measurable from this run's counts:", *(f"  {m}" for m in missing)]

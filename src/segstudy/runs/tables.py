"""Tables of a run and of a study in the terminal."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segstudy.formatting import counted, format_duration, format_number
from segstudy.runs.headline import headline_size, headline_words, training_size
from segstudy.runs.record import read_study_records, run_order

EXTRA_METRICS = {"metrics_tta": "with views", "metrics_crf": "with CRF"}
"""Extra evaluations of a test: entry in the record → name (`callbacks/extra_evaluation.py`)."""


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records in a study's folder, by run; a damaged one has only a status."""
    found, damaged = read_study_records(folder)
    found |= {name: {"status": "unreadable"} for name in damaged}
    return {name: found[name] for name in sorted(found, key=run_order)}


def print_study(folder: Path, console: Console) -> list[str]:
    """Print one table for each group of comparable runs; returns the names of unfinished runs."""
    runs = records(folder)
    named = variants(runs)
    groups = comparable(named)
    for group in groups:
        console.print(_table(group))
    if len(groups) > 1:
        older = any("files" not in r["data"]["roles"]["report"] for r in runs.values() if "data" in r)
        console.print(
            "[bold]several tables: runs on different images, with different protocols or ways of selection cannot be "
            f"compared{'; runs of an older version: after segstudy evaluate RUN --retest' if older else ''}",
            soft_wrap=True,
        )
    for name, r in named.items():
        if r.get("status") == "failed":
            console.print(f"[red]{escape(name)}:[/] {escape(str(r.get('error')))}", soft_wrap=True, highlight=False)
    if any("(" in str(r.get("encoder_weights")) for r in runs.values()):
        console.print("[red]random!: ImageNet weights were asked for but not available[/] (encoder.weights=PATH)")
    if any(r.get("selected_on_reported") for r in runs.values()):
        console.print("* selected on the reported split: the result is optimistic; set data.select_fraction=0.1")
    return [name for name, r in runs.items() if r.get("status") != "done"]


def comparable(runs: Mapping[str, dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """Groups of comparable runs: the same reported images, classes, background and protocol; of older runs also
    the same places and dates of the files, or the same size. Runs selected as in a publication (`reproduce`) form their
    own groups. A run that failed before it opened its data joins the first.
    """
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    without_data = {}
    for name, r in runs.items():
        if "data" not in r:
            without_data[name] = r
            continue
        data, report = r["data"], r["data"]["roles"]["report"]
        images = report.get("content") or report.get("files") or [data["size"], report.get("fingerprint")]
        kind = [data["name"], data.get("protocol", ""), report["split"], report["images"], images]
        kind += [r.get("class_names"), data.get("background"), r.get("reproduce")]
        groups.setdefault(json.dumps(kind), {})[name] = r
    if not groups:
        return [without_data] if without_data else []
    first, *others = groups.values()
    return [first | without_data, *others]


def _table(runs: Mapping[str, dict[str, Any]]) -> Table:
    origins = sorted({encoder_origin(r) for r in runs.values() if "encoder_weights" in r})
    caption = _caption(runs) + (f"; all encoders from: {origins[0].removeprefix('[red]')}" if len(origins) == 1 else "")
    table = Table(caption=caption, caption_justify="left")
    published = any(r.get("reproduce") for r in runs.values())
    left = ("variant", "status", "encoder from")
    size = headline_size(*runs.values())
    figures = {"mIoU": (size, "miou"), "mIoU original": ("original", "miou"), "accuracy": (size, "pixel_accuracy")}
    if size == "original":
        del figures["mIoU original"]  # the first column
    columns = [*figures, "as published"] if published else [*figures]
    for column in ("variant", "status", *columns, "images/s", "time", *(left[2:] if len(origins) > 1 else [])):
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    for name, r in runs.items():
        metrics = r.get("metrics", {})
        values = [metrics.get(at, {}).get(key) for at, key in figures.values()]
        cells = list(map(format_number, values))
        # results of runs selected as in a publication are not compared: they have their own column
        as_published = "–" if values[0] is None else f"mIoU {cells[0]}, accuracy {cells[-1]}"
        status = r.get("status", "?") + ("*" if r.get("selected_on_reported") else "")
        table.add_row(
            escape(name), f"[red]{status}" if status == "failed" else status,
            *(["–"] * len(figures) + [as_published] if published else cells),
            format_number(r.get("images_per_second"), 1), format_duration(r.get("seconds")),
            *([encoder_origin(r)] if len(origins) > 1 else []),
        )  # fmt: skip
    return table


def variants(runs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records under short names: the model, and the choices that not all runs of the study share.

    Single settings (with a dot) are included only if the names would be equal without them, by the last part of their
    name (fit=crop for data.fit=crop); a part of the user's own (loss._target_=my_loss.MyLoss) always is.
    """
    recorded = {
        name: [c.replace("._target_=", "=") for c in r["changes"]] for name, r in runs.items() if "changes" in r
    }
    changes = {name: recorded.get(name, [f"model={name}"]) for name in runs}
    shared = set.intersection(*map(set, recorded.values())) if len(recorded) > 1 else set()
    same = ("study=", "trainer=") if len(recorded) == 1 else ("study=",)
    shared |= {c for given in recorded.values() for c in given if c.startswith(same)}
    keys = {c.partition("=")[0] for given in changes.values() for c in given[1:] if c not in shared}
    last = Counter(key.rpartition(".")[2] for key in keys)

    def written(change: str) -> str:
        key, equals, value = change.partition("=")
        end = key.rpartition(".")[2]
        return f"{end if last[end] == 1 else key}{equals}{value.rpartition('/')[2]}"

    for dotted in (False, True):
        short = {}
        for name, (model, *rest) in changes.items():
            own = [written(c) for c in rest if c not in shared and (dotted or "." not in c.partition("=")[0])]
            short[name] = " ".join([model.removeprefix("model="), *own])
        if len(set(short.values())) == len(short):
            return {short[name]: r for name, r in runs.items()}
    return dict(runs)


def print_classes(record: Mapping[str, Any], console: Console, title: str = "test") -> None:
    """Print a run's table of classes at its headline size, and its metrics at both sizes."""
    headline, metrics = headline_size(record), record["metrics"]
    table = Table(title=f"{escape(title)}, at {headline} size")
    for column in ("class", "IoU", "recall", "precision", "share of pixels"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in record["classes"][headline]:
        table.add_row(escape(row["class"]), *(format_number(row[k]) for k in ("iou", "recall", "precision", "share")))
    console.print(table)
    earlier = record.get("metrics_before", {})
    figures = {f"{size} size before": earlier[size] for size in earlier}
    # Crops that are not resized have the same metrics at both sizes: printed once.
    once = headline == "original" and metrics.get("network") == metrics["original"]
    figures |= {f"{size} size": values for size, values in metrics.items() if not (once and size == "network")}
    figures |= {name: record[key] for key, name in EXTRA_METRICS.items() if key in record}
    for size, values in figures.items():
        text = "  ".join(f"{name} {format_number(value)}" for name, value in values.items())
        console.print(f"{size + ':':15} {text}", highlight=False, soft_wrap=True)


def encoder_origin(record: Mapping[str, Any]) -> str:
    """Origin of the encoder's weights: random, imagenet or a file's name; random! if others were asked for."""
    origin = record.get("encoder_weights", "–")
    return "[red]random!" if "(" in origin else Path(origin).name


def command(record: Mapping[str, Any]) -> str:
    """The command that trained a run, or an equivalent one; "" if the record has neither."""
    if "command" in record:
        return str(record["command"])
    return shlex.join(["segstudy", "train", *map(str, record["changes"])]) if record.get("changes") else ""


def _caption(runs: Mapping[str, dict[str, Any]]) -> str:
    """The data, headline size and protocol of a table's runs."""
    described = [r["data"] for r in runs.values() if "data" in r]
    if not described:
        return ""
    data = described[0]
    report = data["roles"]["report"]
    fits = sorted({(d["roles"]["fit"]["images"], d["roles"]["fit"]["split"]) for d in described})
    fit = " or ".join(f"{counted(images, 'image')} of {split!r}" for images, split in fits)
    if headline_size(*runs.values()) == "original":
        fit += f" {' or '.join(sorted({training_size(d) for d in described}))}"
    once = len(runs) > 1 and len({r.get("seed") for r in runs.values()}) == 1
    chance = "; one seed per variant: differences may be due to chance" if once else ""
    protocol = f" ({data['protocol']})" if data.get("protocol") else ""
    return (
        f"{data['name']}{protocol} at {headline_words(*runs.values())}; trained on {fit}, "
        f"reported on {report['images']} of {report['split']!r}{chance}. "
        "mIoU: mean over all classes with truth"
    )

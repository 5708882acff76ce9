"""A report's rows as CSV: one a run, and one a class."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence

from segstudy.console import NOT_DEFINED
from segstudy.study.analysis.findings import Findings
from segstudy.study.report.markdown import Row

NOTED = (
    "parameters", "gflop", "images_per_second", "seconds", "epochs", "steps", "encoder_weights", "device", "git",
    "reproduce",
)  # fmt: skip

RUN_COLUMNS = (
    "group", "variant", "changes", "seed", "folder", "status", "miou_network", "miou_original", "pixel_accuracy",
    *NOTED, "fingerprint", "why",
)  # fmt: skip

CLASS_COLUMNS = ("group", "variant", "class", "images", "supported", "iou")


def run_rows(findings: Findings) -> Iterator[Row]:
    """A row a training, then the runs that could not be used, with why."""
    for group in findings.groups:
        for v in group.variants:
            for i, r in enumerate(v.records):
                network, original = (r.get("metrics", {}).get(size, {}) for size in ("network", "original"))
                yield {
                    "group": group.title, "variant": v.name, "changes": v.changes, "status": r.get("status"),
                    "seed": v.seeds[i] if i < len(v.seeds) else None,
                    "folder": v.folders[i] if i < len(v.folders) else None,
                    "miou_network": network.get("miou"), "miou_original": original.get("miou"),
                    "pixel_accuracy": network.get("pixel_accuracy"), **{key: r.get(key) for key in NOTED},
                    "fingerprint": r.get("data", {}).get("roles", {}).get("report", {}).get("fingerprint"),
                    "why": r.get("error"),
                }  # fmt: skip
    for name, why in findings.left_out:
        yield {"variant": name, "status": "left out", "why": why}


def class_rows(findings: Findings) -> Iterator[Row]:
    """A row for each class and variant."""
    for g in findings.groups:
        for v in g.variants:
            for c, name in enumerate(g.classes):
                yield {
                    "group": g.title, "variant": v.name, "class": name, "images": int(g.class_images[c]),
                    "supported": bool(g.supported[c]), "iou": float(v.class_iou[c]),
                }  # fmt: skip


def as_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Comma-separated, with a header; n/a for NaN, nothing for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(c)) for c in columns] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else NOT_DEFINED
    return "" if value is None else value

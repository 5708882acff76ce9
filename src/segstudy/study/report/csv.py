"""A report as CSV: one row for each run, and one for each variant and class."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from segstudy.files import csv_cell
from segstudy.formatting import NOT_DEFINED
from segstudy.runs.headline import SIZES, headline_size
from segstudy.study.analysis.findings import Findings

Row = Mapping[str, object]

FROM_RECORD = (
    "parameters", "gflop", "images_per_second", "seconds", "epochs", "steps", "encoder_weights", "device", "git",
    "reproduce",
)  # fmt: skip

RUN_COLUMNS = (
    "group", "variant", "changes", "seed", "folder", "status", "miou_network", "miou_original", "pixel_accuracy",
    *FROM_RECORD, "fingerprint", "why",
)  # fmt: skip

CLASS_COLUMNS = ("group", "variant", "class", "images", "supported", "iou")


def run_rows(findings: Findings) -> Iterator[Row]:
    """A row for each training, then one for each run that could not be used, with the reason."""
    for group in findings.groups:
        headline = headline_size(*(r for v in group.variants for r in v.records))
        for v in group.variants:
            for i, r in enumerate(v.records):
                metrics = {size: r.get("metrics", {}).get(size, {}) for size in SIZES}
                yield {
                    **r, "group": group.title, "variant": v.name, "changes": v.changes,
                    "seed": v.seeds[i] if i < len(v.seeds) else None,
                    "folder": v.folders[i] if i < len(v.folders) else None,
                    **{f"miou_{size}": metrics[size].get("miou") for size in SIZES},
                    "pixel_accuracy": metrics[headline].get("pixel_accuracy"), "why": r.get("error"),
                    "fingerprint": r.get("data", {}).get("roles", {}).get("report", {}).get("fingerprint"),
                }  # fmt: skip
    for name, why in findings.left_out:
        yield {"variant": name, "status": "left out", "why": why}


def class_rows(findings: Findings) -> Iterator[Row]:
    for g in findings.groups:
        for v in g.variants:
            for c, name in enumerate(g.classes):
                values = (g.title, v.name, name, int(g.class_images[c]), bool(g.supported[c]), float(v.class_iou[c]))
                yield dict(zip(CLASS_COLUMNS, values, strict=True))


def as_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Comma-separated text with a header; n/a for NaN, an empty cell for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else NOT_DEFINED
    return csv_cell(value)

"""What a run's `record.json` holds, read without PyTorch: the file may be damaged, or a stranger's."""

import json
from typing import Any

KINDS = {
    "status": str, "error": str, "changes": list, "checkpoint": str, "started": str, "encoder_weights": str,
    "class_names": list, "palette": list, "data": dict, "metrics": dict, "normalisation": dict,
}  # fmt: skip
"""Entries of a record that are read without a further look."""


def parse_record(text: str) -> dict[str, Any]:
    """A record from the text of its file. Raises ValueError that says what in it no run writes."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("it is no record: it holds no names")
    # A run that goes on has an error of null; a network that takes the image as it is, a normalisation of null.
    nullable = {k for k in ("error", "normalisation") if record.get(k, "") is None}
    given = {k: record[k] for k in KINDS if k in record and k not in nullable}
    wrong = [k for k, value in given.items() if not isinstance(value, KINDS[k])]
    for key in ("changes", "class_names"):
        if not wrong and key in record and not (record[key] and all(isinstance(c, str) for c in record[key])):
            wrong = [key]
    if not wrong and record.get("status", "done") not in ("running", "done", "failed"):
        wrong = ["status"]
    if not wrong and "palette" in record and len(record["palette"]) != len(record.get("class_names", [])):
        wrong = ["palette"]
    if wrong:
        raise ValueError(f"it is no run's: {wrong[0]} is {record[wrong[0]]!r}"[:200])
    return record

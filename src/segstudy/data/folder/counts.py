"""Counts of pixels per key and per class in the masks of the user's folder."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segstudy.data.cache import map_parallel
from segstudy.data.folder.classes import LabelMap, make_label_map
from segstudy.data.folder.description import Description
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.scan import Problem, problem
from segstudy.data.images import Sample
from segstudy.errors import DataError, did_you_mean, first_few, first_lines
from segstudy.files import write_text
from segstudy.labels import IGNORE

VERSION = 1
"""Part of the name of the file of counts. Increase it when the same mask is counted differently."""

PixelsOfKeys = dict[str, int]


def count_labels(samples: Sequence[Sample], mask_format: MaskFormat, folder: Path) -> dict[str, PixelsOfKeys]:
    """Pixels of each key in each mask at original size, by name. Cached in `folder`: reading all masks is slow.

    Raises DataError that names the masks that cannot be read.
    """
    digest = hashlib.sha256(f"{VERSION}|{mask_format.name}".encode())
    for sample in samples:
        status = sample.file("mask").stat()
        digest.update(f"{sample.name}|{sample.mask}|{status.st_size}|{status.st_mtime_ns}".encode())
    home = folder / f"masks-{digest.hexdigest()[:24]}.json"
    names = [sample.name for sample in samples]
    if home.is_file():
        return dict(zip(names, json.loads(home.read_text()), strict=True))
    results = list(map_parallel(lambda sample: pixels_of_keys(*mask_format.read(sample)), samples, "counting labels"))
    broken = [str(r) for r in results if isinstance(r, DataError)]
    if broken:
        raise DataError(f"{len(broken)} of {len(samples)} masks cannot be used:\n{first_lines(broken, 5)}")
    try:
        write_text(folder, home.name, json.dumps(results))
    except OSError as error:
        raise DataError(f"data.cache_dir={folder} cannot be written: {error}\n  → set it to another folder") from error
    return dict(zip(names, results, strict=True))


def pixels_of_keys(mask: np.ndarray, keys: Sequence[str]) -> PixelsOfKeys:
    """Pixels of each key that occurs in an indexed mask."""
    counts = np.bincount(mask.ravel(), minlength=len(keys))
    return {key: int(n) for key, n in zip(keys, counts, strict=True) if n}


def find_classes(
    counted: Mapping[str, PixelsOfKeys], mask_format: MaskFormat, description: Description
) -> tuple[LabelMap, list[Problem]]:
    """The label map of these masks ({name: pixels of each key}), and the problem of keys that are not classes.

    Raises DataError if 255 may be a class, and ConfigError as `make_label_map`.
    """
    require_meaning_of_255([pixels for pixels in counted.values() if pixels], mask_format.name, description)
    keys = list(dict.fromkeys(key for pixels in counted.values() for key in pixels))
    label_map = make_label_map(description, mask_format, keys)
    return label_map, unknown_keys(counted, label_map, mask_format)


def pixels_per_class(counted: Sequence[PixelsOfKeys], label_map: LabelMap) -> np.ndarray:
    """Pixels of each class in each mask, int64 (N,C), from the pixels of each key."""
    pixels = np.zeros((len(counted), IGNORE + 1), np.int64)
    for row, keys in zip(pixels, counted, strict=True):
        for key, number in keys.items():
            row[label_map.table.get(key, IGNORE)] += number
    return pixels[:, : len(label_map.classes)]


def unknown_keys(counted: Mapping[str, PixelsOfKeys], label_map: LabelMap, mask_format: MaskFormat) -> list[Problem]:
    """The keys that are not classes, with the masks that have them. counted: {name of the image: its pixels}."""
    masks: dict[str, list[str]] = defaultdict(list)
    for name, pixels in counted.items():
        for key in pixels.keys() - label_map.table.keys():
            masks[key].append(name)
    known = list(label_map.table)
    what = "colours" if mask_format.name == "colours" else "labels"
    items = []
    keys = sorted(masks, key=lambda key: (int(key) if key.isdigit() else 0, key))
    for key in keys:
        hint = "" if what == "colours" or key.isdigit() else did_you_mean(key, known)
        items.append(f"{key}: in {len(masks[key])} masks, e.g. {masks[key][0]}{hint}")
    first = keys[0] if keys else ""
    advice = f"add them to classes, or map them: labels: {{{first}: CLASS}}\nknown: {first_few(known, 12)}"
    return problem(f"{what} that are not classes", items, "error", advice)


def is_binary(pixels: PixelsOfKeys) -> bool:
    """Whether a mask has only 0 and 255, and both."""
    return pixels.keys() == {"0", str(IGNORE)}


def require_meaning_of_255(counted: Sequence[PixelsOfKeys], format_name: str, description: Description) -> None:
    """Raise DataError if most masks have only 0 and 255, and dataset.yaml does not say what 255 means."""
    declared = [str(v) for v in (*description.labels, *description.ignore)]
    binary = sum(map(is_binary, counted))
    if format_name == "numbers" and str(IGNORE) not in declared and binary * 2 > len(counted):
        raise DataError(
            f"{binary} of {len(counted)} masks hold only 0 and 255: is 255 the object? By default it is ignored.\n"
            "  → if so, in dataset.yaml: labels: {0: background, 255: OBJECT}; if it is to be ignored: ignore: [255]"
        )

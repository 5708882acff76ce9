"""Finds the images and masks of a user's folder, and counts what the masks hold."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from segstudy.data.cache import map_parallel
from segstudy.data.folder.description import Description, Rgb, read_classes
from segstudy.data.folder.formats import Coco, MaskFormat, coco_format, detect_format
from segstudy.data.images import Sample, first_few, first_lines, list_found, open_picture
from segstudy.errors import ConfigError, DataError, did_you_mean
from segstudy.files import write_text

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")  # JPEG is listed to be refused with its reason

MASK_PLACES = ("masks", "labels", "annotations", "masks.json", "annotations.json")
"""Where masks are searched if dataset.yaml does not say."""

VERSION = 1
"""Raise it when the same mask would be counted differently: part of the key of the kept counts."""


@dataclass
class FolderScan:
    """The image–mask pairs of a folder in the order of their names, and the files without a partner.

    A name is the path below the folder of images, without suffix. split_of: {name: split} from a CSV of pairs.
    errors: {title: files} that prevent training. notes: what was recognised.
    """

    format: MaskFormat
    samples: list[Sample]
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    split_of: dict[str, str] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def scan_folder(root: Path, description: Description) -> FolderScan:
    """Find the images and masks of a folder. Raises DataError if there are none, or if the masks' format is unknown."""
    scan = _from_pairs(root, description) if description.pairs else _from_folders(root, description)
    if not scan.samples:
        raise DataError(
            f"no image in {root} has a mask of the same name\n"
            f"  images without mask: {first_few(scan.without_mask) or 'none'}\n"
            f"  masks without image: {first_few(scan.without_image) or 'none'}\n"
            "  → equal names up to the suffix (images/a.jpg, masks/a.png), or a CSV of pairs: dataset.yaml, pairs: FILE"
        )
    if description.group:
        _assign_groups(scan, description.group)
    scan.notes.insert(0, f"masks: {scan.format.summary}")
    return scan


def _from_folders(root: Path, description: Description) -> FolderScan:
    home = root / description.images
    if not home.is_dir():
        raise DataError(
            f"no folder of images {home}\n  found: {list_found(root)}\n"
            "  → put them there, or name the folder in dataset.yaml: images: FOLDER"
        )
    images, duplicates = _files_by_name(home, IMAGES)
    if not images:
        raise DataError(f"no images in {home}\n  expected: {', '.join(IMAGES)}")
    place = _find_masks(root, description, home)
    if place.suffix.lower() == ".json":
        return _from_coco(place, images, duplicates)
    jsons, pictures = _files_by_name(place, (".json",)), ({}, []) if place == home else _files_by_name(place, MASKS)
    masks, masks_twice = jsons if len(jsons[0]) > len(pictures[0]) else pictures
    if not masks:
        raise DataError(f"no masks in {place}\n  expected: PNG pictures or LabelMe's .json files")
    mask_format = detect_format([masks[n] for n in sorted(masks)], _has_palette(description))
    both = sorted(images.keys() & masks.keys())
    return FolderScan(
        mask_format,
        [Sample(n, images[n], masks[n]) for n in both],
        sorted(images.keys() - masks.keys()),
        sorted(masks.keys() - images.keys()),
        errors=_duplicates([*duplicates, *masks_twice]),
    )


def _find_masks(root: Path, description: Description, home: Path) -> Path:
    """The folder or COCO file of the masks; LabelMe's files may lie beside the images."""
    tried = [description.masks] if description.masks != "masks" else list(MASK_PLACES)
    for name in tried:
        if (root / name).exists():
            return root / name
    if description.masks == "masks" and any(home.rglob("*.json")):
        return home
    raise DataError(
        f"no masks in {root}: looked for {', '.join(tried)}\n  found: {list_found(root)}\n"
        "  → name the folder, or the COCO file, in dataset.yaml: masks: NAME"
    )


def _from_coco(path: Path, images: dict[str, Path], duplicates: list[str]) -> FolderScan:
    coco = Coco(path)
    known = {n: coco.find(n) for n in sorted(images)}
    taken = {entry["id"] for entry in known.values() if entry}
    return FolderScan(
        coco_format(coco),
        [Sample(n, images[n], path) for n, entry in known.items() if entry],
        [n for n, entry in known.items() if not entry],
        [name for name, entry in coco.images.items() if entry["id"] not in taken],
        errors=_duplicates(duplicates),
    )


def _from_pairs(root: Path, description: Description) -> FolderScan:
    path = description.find(str(description.pairs))
    if path is None:
        raise DataError(f"pairs: no file {description.pairs} in {' or '.join(dict.fromkeys(description.places))}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    if not {"image", "mask"} <= set(columns):
        raise DataError(f"{path} needs the columns image and mask\n  found: {', '.join(columns) or 'no rows'}")
    column = description.group if description.group in columns else "group"
    samples: dict[str, Sample] = {}
    splits: dict[str, str] = {}
    missing: list[str] = []
    duplicates: list[str] = []
    for row in rows:
        image, mask = root / row["image"], root / row["mask"]
        name = Path(row["image"]).with_suffix("").as_posix()
        absent = [str(p) for p in (image, mask) if not p.is_file()]
        missing += absent
        if name in samples:
            duplicates.append(name)
        elif not absent:
            samples[name] = Sample(name, image, mask, row.get(column) or "")
            if row.get("split"):
                splits[name] = row["split"]
    if not samples:
        raise DataError(f"no pair of {path} exists: {first_few(missing)}\n  → its paths are below {root}")
    mask_format = detect_format([s.mask for s in samples.values() if s.mask], _has_palette(description))
    errors = {f"files of {path.name} that are missing": missing} if missing else {}
    return FolderScan(mask_format, list(samples.values()), split_of=splits, errors=errors | _duplicates(duplicates))


def _duplicates(items: list[str]) -> dict[str, list[str]]:
    return {"files of the same name": items} if items else {}


def _files_by_name(home: Path, suffixes: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """({name: file} below a folder, the files whose name another one has already)."""
    files: dict[str, Path] = {}
    duplicates = []
    for path in sorted(home.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(home).parts)
        if path.suffix.lower() not in suffixes or hidden or not path.is_file():
            continue
        name = path.relative_to(home).with_suffix("").as_posix()
        if name in files:
            duplicates.append(f"{files[name].name} and {path.name}")
        else:
            files[name] = path
    return files, duplicates


def _has_palette(description: Description) -> bool:
    classes = read_classes(description)
    return description.palette is not None or bool(classes and classes[1])


def _assign_groups(scan: FolderScan, pattern: str) -> None:
    """Set each sample's group to what `pattern` matches in its name, unless a CSV of pairs has set them."""
    if any(s.group for s in scan.samples):
        return
    try:
        matches = [re.search(pattern, s.name) for s in scan.samples]
    except re.error as error:
        raise ConfigError(f"group: {pattern!r} is no regular expression: {error}") from error
    unmatched = [s.name for s, match in zip(scan.samples, matches, strict=True) if match is None]
    if len(unmatched) == len(matches):
        raise ConfigError(f"group: {pattern!r} matches no name, such as {first_few(unmatched, 3)}")
    pairs = zip(scan.samples, matches, strict=True)
    scan.samples = [Sample(s.name, s.image, s.mask, m.group() if m else "") for s, m in pairs]
    if unmatched:
        scan.notes.append(
            f"group: {len(unmatched)} names ({first_few(unmatched, 3)}) do not match: each is a group of its own"
        )


def read_list(spec: str, root: Path, description: Description, scan: FolderScan) -> tuple[list[str], list[str]]:
    """(the names in a list, those that the folder does not have).

    spec: a value of the column split, a list file (with or without .txt), or a sub-folder of the images.
    Raises DataError if it is none of these.
    """
    known = {s.name for s in scan.samples}
    if spec in scan.split_of.values():
        return [n for n, split in scan.split_of.items() if split == spec], []
    path = description.find(spec) or description.find(f"{spec}.txt")
    if path is not None:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        names = [n if n in known else _name_in_line(n, description.images) for n in lines]
        return [n for n in names if n in known], [n for n in names if n not in known]
    inside = [n for n in sorted(known) if n.startswith(f"{spec}/")]
    if not inside:
        lists = sorted({p.name for place in description.places for p in Path(place).glob("*.txt")})
        hint = did_you_mean(spec, [*lists, *scan.split_of.values()])
        raise DataError(
            f"no list {spec!r}: no file {root / spec} or {spec}.txt, no folder {root / description.images / spec}"
            f"{hint}\n  found the lists: {', '.join(lists) or 'none'}\n"
            "  → set train, val and test (in dataset.yaml or as data.train=…) to one of them, or val to a share: 0.2"
        )
    return inside, []


def _name_in_line(line: str, images: str) -> str:
    """The name of an image, from a line that may be a path or have a suffix."""
    name = line.removeprefix(f"{images}/")
    return str(Path(name).with_suffix("").as_posix()) if Path(name).suffix.lower() in IMAGES else name


def count_labels(samples: Sequence[Sample], mask_format: MaskFormat, folder: Path) -> list[dict[str, int]]:
    """Pixels of each key in each mask at its own size; kept in `folder`, because reading all masks is slow.

    Raises DataError that names the masks that cannot be read.
    """
    digest = hashlib.sha256(f"{VERSION}|{mask_format.name}".encode())
    for sample in samples:
        status = sample.mask.stat() if sample.mask else os.stat_result([0] * 10)
        digest.update(f"{sample.name}|{sample.mask}|{status.st_size}|{status.st_mtime_ns}".encode())
    home = folder / f"masks-{digest.hexdigest()[:24]}.json"
    if home.is_file():
        counted: list[dict[str, int]] = json.loads(home.read_text())
        return counted
    results = list(map_parallel(partial(count_keys, mask_format), samples, "counting labels"))
    broken = [str(r) for r in results if isinstance(r, DataError)]
    if broken:
        raise DataError(f"{len(broken)} of {len(samples)} masks cannot be used:\n{first_lines(broken, 5)}")
    try:
        write_text(folder, home.name, json.dumps(results))
    except OSError as error:
        raise DataError(f"data.cache_dir={folder} cannot be written: {error}\n  → set it to another folder") from error
    return [r for r in results if not isinstance(r, DataError)]


def count_keys(mask_format: MaskFormat, sample: Sample) -> dict[str, int] | DataError:
    """Pixels of each key in a sample's mask; the error if it cannot be read."""
    try:
        return pixels_of_keys(*mask_format.read(sample))
    except DataError as error:
        return error


def pixels_of_keys(mask: np.ndarray, keys: Sequence[str]) -> dict[str, int]:
    """Pixels of each key that occurs in an indexed mask."""
    counts = np.bincount(mask.ravel(), minlength=len(keys))
    return {key: int(n) for key, n in zip(keys, counts, strict=True) if n}


def palette_of_masks(samples: Sequence[Sample], mask_format: MaskFormat) -> dict[str, Rgb]:
    """{class number: colour} from the palette of the first mask, if it is an indexed picture."""
    for sample in samples[:1] if mask_format.name == "numbers" else []:
        picture = open_picture(sample.mask) if sample.mask else None
        if picture is not None and picture.mode == "P":
            values = picture.getpalette("RGB") or []
            return {str(i): (r, g, b) for i, (r, g, b) in enumerate(zip(*[iter(values)] * 3, strict=False))}
    return {}

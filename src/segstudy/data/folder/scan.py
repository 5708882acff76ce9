"""What lies in a user's folder: which images have which masks, of which kind, and what the masks hold."""

import csv
import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from segstudy.data.folder.description import Description, Rgb, read_classes, some
from segstudy.data.folder.formats import Coco, MaskFormat, coco_format, detect_format
from segstudy.data.images import Sample, open_picture
from segstudy.errors import ConfigError, DataError, did_you_mean

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")  # JPEG is listed to be refused with its reason

ELSEWHERE = ("masks", "labels", "annotations", "masks.json", "annotations.json")
"""Where masks are looked for if dataset.yaml does not say."""

VERSION = 1
"""Raise it when the same mask would be counted otherwise."""


@dataclass
class FolderScan:
    """The pairs of a folder, in the order of their names, and what is left over.

    name: the path below the folder of images, without suffix. columns: of a pairs CSV, the split of each name.
    wrong: what must be mended before the folder can be used, by kind.
    """

    kind: MaskFormat
    samples: list[Sample]
    no_mask: list[str] = field(default_factory=list)
    no_image: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def scan_folder(root: Path, about: Description) -> FolderScan:
    """Find the images and masks of a folder. Raises DataError if there are none, or for masks of no known kind."""
    found = _from_pairs(root, about) if about.pairs else _from_folders(root, about)
    if not found.samples:
        raise DataError(
            f"no image in {root} has a mask of the same name\n"
            f"  images without mask: {some(found.no_mask) or 'none'}\n"
            f"  masks without image: {some(found.no_image) or 'none'}\n"
            "  → equal names up to the suffix (images/a.jpg, masks/a.png), or a CSV of pairs: dataset.yaml, pairs: FILE"
        )
    if about.group:
        _group(found, about.group)
    found.said.insert(0, f"masks: {found.kind.said}")
    return found


def _from_folders(root: Path, about: Description) -> FolderScan:
    home = root / about.images
    if not home.is_dir():
        there = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
        raise DataError(
            f"no folder of images {home}\n  found: {there}\n"
            "  → put them there, or name the folder in dataset.yaml: images: FOLDER"
        )
    images, twice = _by_name(home, IMAGES)
    if not images:
        raise DataError(f"no images in {home}\n  expected: {', '.join(IMAGES)}")
    place = _masks_place(root, about, home)
    if place.suffix.lower() == ".json":
        return _from_coco(place, images, twice)
    jsons, pictures = _by_name(place, (".json",)), ({}, []) if place == home else _by_name(place, MASKS)
    masks, masks_twice = jsons if len(jsons[0]) > len(pictures[0]) else pictures
    if not masks:
        raise DataError(f"no masks in {place}\n  expected: PNG pictures or LabelMe's .json files")
    kind = detect_format([masks[n] for n in sorted(masks)], _colours_known(about))
    both = sorted(images.keys() & masks.keys())
    return FolderScan(
        kind,
        [Sample(n, images[n], masks[n]) for n in both],
        sorted(images.keys() - masks.keys()),
        sorted(masks.keys() - images.keys()),
        wrong=_same_names([*twice, *masks_twice]),
    )


def _masks_place(root: Path, about: Description, home: Path) -> Path:
    """The folder or COCO file of the masks; LabelMe's files may lie beside the images."""
    tried = [about.masks] if about.masks != "masks" else list(ELSEWHERE)
    for name in tried:
        if (root / name).exists():
            return root / name
    if about.masks == "masks" and any(home.rglob("*.json")):
        return home
    there = ", ".join(sorted(p.name for p in root.iterdir())[:8])
    raise DataError(
        f"no masks in {root}: looked for {', '.join(tried)}\n  found: {there}\n"
        "  → name the folder, or the COCO file, in dataset.yaml: masks: NAME"
    )


def _from_coco(path: Path, images: dict[str, Path], twice: list[str]) -> FolderScan:
    coco = Coco(path)
    known = {n: coco.find(n) for n in sorted(images)}
    taken = {entry["id"] for entry in known.values() if entry}
    return FolderScan(
        coco_format(coco),
        [Sample(n, images[n], path) for n, entry in known.items() if entry],
        [n for n, entry in known.items() if not entry],
        [name for name, entry in coco.images.items() if entry["id"] not in taken],
        wrong=_same_names(twice),
    )


def _from_pairs(root: Path, about: Description) -> FolderScan:
    path = about.find(str(about.pairs))
    if path is None:
        raise DataError(f"pairs: no file {about.pairs} in {' or '.join(dict.fromkeys(about.places))}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    if not {"image", "mask"} <= set(columns):
        raise DataError(f"{path} needs the columns image and mask\n  found: {', '.join(columns) or 'no rows'}")
    column = about.group if about.group in columns else "group"
    samples: dict[str, Sample] = {}
    splits: dict[str, str] = {}
    lost: list[str] = []
    twice: list[str] = []
    for row in rows:
        image, mask = root / row["image"], root / row["mask"]
        name = Path(row["image"]).with_suffix("").as_posix()
        gone = [str(p) for p in (image, mask) if not p.is_file()]
        lost += gone
        if name in samples:
            twice.append(name)
        elif not gone:
            samples[name] = Sample(name, image, mask, row.get(column) or "")
            if row.get("split"):
                splits[name] = row["split"]
    if not samples:
        raise DataError(f"no pair of {path} is there: {some(lost)}\n  → its paths are below {root}")
    kind = detect_format([s.mask for s in samples.values() if s.mask], _colours_known(about))
    wrong = {f"files of {path.name} that are not there": lost} if lost else {}
    return FolderScan(kind, list(samples.values()), columns=splits, wrong=wrong | _same_names(twice))


def _same_names(items: list[str]) -> dict[str, list[str]]:
    return {"files of the same name": items} if items else {}


def _by_name(home: Path, suffixes: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Files below a folder by their path without suffix, and those whose name another one has already."""
    found: dict[str, Path] = {}
    twice = []
    for path in sorted(home.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(home).parts)
        if path.suffix.lower() not in suffixes or hidden or not path.is_file():
            continue
        name = path.relative_to(home).with_suffix("").as_posix()
        if name in found:
            twice.append(f"{found[name].name} and {path.name}")
        else:
            found[name] = path
    return found, twice


def _colours_known(about: Description) -> bool:
    classes = read_classes(about)
    return about.palette is not None or bool(classes and classes[1])


def _group(found: FolderScan, pattern: str) -> None:
    """Give each sample the group that `pattern` matches in its name (a column of the pairs has been read already)."""
    if any(s.group for s in found.samples):
        return
    try:
        matches = [re.search(pattern, s.name) for s in found.samples]
    except re.error as error:
        raise ConfigError(f"group: {pattern!r} is no regular expression: {error}") from error
    alone = [s.name for s, match in zip(found.samples, matches, strict=True) if match is None]
    if len(alone) == len(matches):
        raise ConfigError(f"group: {pattern!r} matches no name, such as {some(alone, 3)}")
    pairs = zip(found.samples, matches, strict=True)
    found.samples = [Sample(s.name, s.image, s.mask, m.group() if m else "") for s, m in pairs]
    if alone:
        found.said.append(f"group: {len(alone)} names ({some(alone, 3)}) do not match and are groups of their own")


def read_list(spec: str, root: Path, about: Description, found: FolderScan) -> tuple[list[str], list[str]]:
    """The names that a split's setting means, and those of them that the folder does not have.

    spec: a value of the column split, a list file (with or without .txt), or a sub-folder of the images.
    Raises DataError if it is none of these.
    """
    known = {s.name for s in found.samples}
    if spec in found.columns.values():
        return [n for n, split in found.columns.items() if split == spec], []
    path = about.find(spec) or about.find(f"{spec}.txt")
    if path is not None:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        names = [n if n in known else _bare(n, about.images) for n in lines]
        return [n for n in names if n in known], [n for n in names if n not in known]
    inside = [n for n in sorted(known) if n.startswith(f"{spec}/")]
    if not inside:
        lists = sorted({p.name for place in about.places for p in Path(place).glob("*.txt")})
        raise DataError(
            f"no list {spec!r}: no file {root / spec} or {spec}.txt, no folder {root / about.images / spec}"
            f"{did_you_mean(spec, [*lists, *found.columns.values()])}\n"
            f"  found the lists: {', '.join(lists) or 'none'}\n"
            "  → set train, val and test (in dataset.yaml or as data.train=…) to what is there, or val to a share: 0.2"
        )
    return inside, []


def _bare(line: str, images: str) -> str:
    """The name in a line that holds a path or a suffix."""
    name = line.removeprefix(f"{images}/")
    return str(Path(name).with_suffix("").as_posix()) if Path(name).suffix.lower() in IMAGES else name


def count_labels(samples: Sequence[Sample], kind: MaskFormat, folder: Path) -> list[dict[str, int]]:
    """Pixels of each key in each mask, at the masks' own size. Kept in `folder`, for masks are many and slow to open.

    Raises DataError that lists every mask that cannot be read.
    """
    digest = hashlib.sha256(f"{VERSION}|{kind.name}".encode())
    for sample in samples:
        status = sample.mask.stat() if sample.mask else os.stat_result([0] * 10)
        digest.update(f"{sample.name}|{sample.mask}|{status.st_size}|{status.st_mtime_ns}".encode())
    home = folder / f"masks-{digest.hexdigest()[:24]}.json"
    if home.is_file():
        counted: list[dict[str, int]] = json.loads(home.read_text())
        return counted
    results = list(map_parallel(partial(count, kind), samples, "looking at masks"))
    broken = [str(r) for r in results if isinstance(r, DataError)]
    if broken:
        raise DataError(
            f"{len(broken)} of {len(samples)} masks cannot be used:\n" + "\n".join(broken[:5])
            + (f"\n… and {len(broken) - 5} more" if len(broken) > 5 else "")
        )  # fmt: skip
    work = home.with_suffix(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work.write_text(json.dumps(results))
        work.replace(home)
    except OSError as error:
        raise DataError(f"data.cache_dir={folder} cannot be written: {error}\n  → set it to another folder") from error
    return [r for r in results if not isinstance(r, DataError)]


def count(kind: MaskFormat, sample: Sample) -> dict[str, int] | DataError:
    """Pixels of each key in a sample's mask, or what is wrong with it."""
    try:
        drawn, keys = kind.draw(sample)
    except DataError as error:
        return error
    counts = np.bincount(drawn.ravel(), minlength=len(keys))
    return {key: int(n) for key, n in zip(keys, counts, strict=True) if n}


def map_parallel(work: Callable[[Sample], Any], samples: Sequence[Sample], words: str) -> Iterator[Any]:
    """Results in order, from one thread a core, with a progress bar."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        portions = (samples[start : start + 256] for start in range(0, len(samples), 256))
        done = chain.from_iterable(pool.map(work, portion) for portion in portions)
        yield from track(done, words, len(samples), transient=True, disable=not sys.stdout.isatty())


def own_colours(samples: Sequence[Sample], kind: MaskFormat) -> dict[str, Rgb]:
    """The colours that an indexed picture's palette gives to class numbers: of the first mask that has one."""
    for sample in samples[:1] if kind.name == "numbers" else []:
        picture = open_picture(sample.mask) if sample.mask else None
        if picture is not None and picture.mode == "P":
            values = picture.getpalette("RGB") or []
            return {str(i): (r, g, b) for i, (r, g, b) in enumerate(zip(*[iter(values)] * 3, strict=False))}
    return {}

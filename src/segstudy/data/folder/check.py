"""`segstudy data check`: all problems of a user's folder in one report."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segstudy.data.cache import map_parallel
from segstudy.data.folder.datamodule import check_255, pixels_per_class
from segstudy.data.folder.description import Description, LabelMap, make_label_map, read_description
from segstudy.data.folder.formats import MaskFormat
from segstudy.data.folder.scan import FolderScan, palette_of_masks, pixels_of_keys, scan_folder
from segstudy.data.folder.split import ROLES, VAL_SHARE, SplitPlan, make_split
from segstudy.data.images import Sample, read_pair
from segstudy.data.splits import rarest_class
from segstudy.errors import ConfigError, DataError, SegstudyError
from segstudy.labels import IGNORE

MIN_IMAGES, MIN_PIXEL_SHARE = 5, 1e-4
"""A class with fewer images or a smaller share of the pixels is reported: it is hard to learn and to measure."""

IGNORED_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
"""Classes of these names are put under `ignore` in the proposed dataset.yaml."""

INVALID_SPLIT = "images that cannot be divided as dataset.yaml says"


@dataclass(frozen=True)
class Problem:
    """One kind of problem and where it occurs. severity: "error" (prevents training) or "warning"."""

    title: str
    severity: str
    items: list[str]
    advice: str = ""


@dataclass
class FolderReport:
    """Result of a check. counts: {split: pixels of each class in each image, int64 (N,C), at the masks' own size}."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label_map: LabelMap | None = None
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    proposed_yaml: str | None = None

    @property
    def trainable(self) -> bool:
        return all(p.severity != "error" for p in self.problems)

    def add(self, title: str, items: Sequence[str], severity: str = "error", advice: str = "") -> None:
        if items:
            self.problems.append(Problem(title, severity, list(items), advice))


@dataclass(frozen=True)
class PairCheck:
    """One decoded pair. errors: {title: message}; digest: of the image's pixels; pixels: {key in the mask: count}."""

    errors: dict[str, str]
    digest: str
    pixels: dict[str, int]


def check_folder(root: Path, about: Path | None = None) -> FolderReport:
    """Read every file of a folder as `data=folder` would. about: its description, if not ROOT/dataset.yaml."""
    report = FolderReport()
    try:
        description, file = read_description(root, about)
        scan = scan_folder(root, description)
    except SegstudyError as error:
        report.add("the folder cannot be opened", [str(error)])
        return report
    plan = _plan_split(report, scan, root, description)
    _add_unpaired(report, scan, plan)
    results = map_parallel(partial(check_pair, scan.format), scan.samples, "checking")
    checks: dict[str, PairCheck] = dict(zip((s.name for s in scan.samples), results, strict=True))
    used = {s.name for s in plan.members()}
    _add_unreadable(report, checks, used)
    report.notes = [*scan.notes, *plan.notes]
    _find_classes(report, scan, description, {name: checks[name] for name in checks if name in used})
    lists = _split_images(report, plan, checks)
    _add_overlaps(report, lists, checks)
    label_map = report.label_map
    if label_map is not None:
        report.counts = {
            r: pixels_per_class([checks[s.name].pixels for s in m], label_map) for r, m in lists.items() if m
        }
        _add_rare_classes(report, label_map)
    if file is None:
        binary = any(check.pixels.keys() == {"0", str(IGNORE)} for check in checks.values())
        report.proposed_yaml = propose_description(scan, label_map, plan, description.classes, binary)
    return report


def check_pair(mask_format: MaskFormat, sample: Sample) -> PairCheck:
    """Decode an image and its mask, and collect the errors of both."""
    errors: dict[str, str] = {}
    pixels: dict[str, int] = {}
    mask, digest, image_was_read = None, "", False
    try:
        mask, keys = mask_format.read(sample)
        pixels = pixels_of_keys(mask, keys)
    except DataError as error:
        errors["masks that cannot be read"] = str(error).splitlines()[0]

    def read_mask(orientation: int, shape: tuple[int, ...]) -> np.ndarray:
        nonlocal image_was_read
        image_was_read = True
        return np.zeros(shape, np.uint8) if mask is None else mask_format.orient(mask, orientation, shape)

    try:
        image = read_pair(sample, IGNORE, mask_reader=read_mask)[0]
        digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
    except DataError as error:
        title = "sizes that differ" if image_was_read else "images that cannot be read"
        errors[title] = str(error).splitlines()[0]
    return PairCheck(errors, digest, pixels)


def _plan_split(report: FolderReport, scan: FolderScan, root: Path, description: Description) -> SplitPlan:
    """The split that dataset.yaml asks for; if that is invalid, all images in one list."""
    try:
        plan = make_split(scan, root, description, dict.fromkeys(ROLES), 0 if description.folds else None)
    except ConfigError as error:
        report.add(INVALID_SPLIT, [str(error)])
        return SplitPlan({"train": scan.samples}, scan.samples, {}, description.split_seed)
    report.add("lists that are missing or empty", plan.errors)
    return plan


def _add_unpaired(report: FolderReport, scan: FolderScan, plan: SplitPlan) -> None:
    for title, items in scan.errors.items():
        report.add(title, items)
    unknown = [f"{role}: {name}" for role, names in plan.unknown_names.items() for name in names]
    report.add("names in lists without image or mask", unknown)
    severity = "error" if plan.trains_on_rest else "warning"
    advice = "add the masks, or list the images to use (train: FILE)"
    report.add("images without mask", scan.without_mask, severity, advice)
    report.add("masks without image", scan.without_image, "warning", "the names must be equal up to the suffix")


def _add_unreadable(report: FolderReport, checks: Mapping[str, PairCheck], used: set[str]) -> None:
    """Unreadable files and differing sizes: errors in files that a list uses, else warnings."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, check in checks.items():
        for title, message in check.errors.items():
            text = message if name in message else f"{name}: {message}"
            grouped[title, "error" if name in used else "warning"].append(text)
    for (title, severity), items in grouped.items():
        report.add(title if severity == "error" else f"{title} (in no list)", items, severity)


def _find_classes(
    report: FolderReport, scan: FolderScan, description: Description, checks: Mapping[str, PairCheck]
) -> None:
    """Set the report's label map, and add the values in masks that are no class."""
    counted = [check.pixels for check in checks.values() if check.pixels]
    try:
        check_255(counted, scan.format.name, description)
    except DataError as error:
        report.add("masks of 0 and 255", [str(error)])
        return
    keys = list(dict.fromkeys(key for pixels in counted for key in pixels))
    try:
        readable = [s for s in scan.samples if s.name in checks and checks[s.name].pixels]
        palette = palette_of_masks(readable, scan.format)
        label_map = make_label_map(description, scan.format, keys, palette)
    except SegstudyError as error:
        report.add("classes", [str(error)])
        return
    report.label_map = label_map
    report.notes += label_map.notes
    unknown: dict[str, list[str]] = defaultdict(list)
    for name, check in checks.items():
        for key in check.pixels.keys() - label_map.table.keys():
            unknown[key].append(name)
    what = "colours" if scan.format.name == "colours" else "labels"
    items = [f"{key}: in {len(names)} masks, e.g. {names[0]}" for key, names in sorted(unknown.items())]
    advice = "add them to classes, or map them: labels: {VALUE: CLASS}"
    report.add(f"{what} that are no class", items, "error", advice)


def _split_images(report: FolderReport, plan: SplitPlan, checks: Mapping[str, PairCheck]) -> dict[str, list[Sample]]:
    """The lists of images; those that are drawn are left out while there are errors."""
    if not (plan.num_folds or plan.shares) or report.label_map is None or not report.trainable:
        return {"train": plan.pool} | plan.lists
    pixels = pixels_per_class([checks[s.name].pixels for s in plan.pool], report.label_map)
    try:
        return plan.lists | plan.draw_lists(rarest_class(pixels))
    except ConfigError as error:
        report.add(INVALID_SPLIT, [str(error)])
        return plan.lists


def _add_overlaps(report: FolderReport, lists: dict[str, list[Sample]], checks: Mapping[str, PairCheck]) -> None:
    """Add the names, identical images and groups that occur in several splits."""
    splits: dict[str, dict[str, set[str]]] = {"name": {}, "digest": {}, "group": {}}
    names: dict[str, list[str]] = defaultdict(list)
    for role, members in lists.items():
        for sample in members:
            digest = checks[sample.name].digest
            names[digest] += [] if sample.name in names[digest] else [sample.name]
            for kind, key in (("name", sample.name), ("digest", digest), ("group", sample.group)):
                if key:
                    splits[kind].setdefault(key, set()).add(role)
    several = {kind: {k: r for k, r in keys.items() if len(r) > 1} for kind, keys in splits.items()}
    identical = {" = ".join(names[d][:3]): roles for d, roles in several["digest"].items() if len(names[d]) > 1}
    report.add("images in two splits", list(_overlap_lines(several["name"])), "warning")
    report.add("identical images in two splits (equal pixels)", list(_overlap_lines(identical)), "warning")
    advice = "correlated images make the result look better than it is"
    report.add("groups in two splits", list(_overlap_lines(several["group"])), "warning", advice)


def _overlap_lines(roles_of: dict[str, set[str]]) -> Iterator[str]:
    for key, roles in sorted(roles_of.items()):
        yield f"{key}: {', '.join(r for r in ROLES if r in roles)}"


def _add_rare_classes(report: FolderReport, label_map: LabelMap) -> None:
    """Add the classes with few images or pixels, and those that a split lacks."""
    pixels = np.concatenate(list(report.counts.values()))
    images, share = (pixels > 0).sum(0), pixels.sum(0) / max(1, pixels.sum())
    rare = [
        f"{name}: in {images[c]} images, {share[c]:.4%} of pixels"
        for c, name in enumerate(label_map.classes)
        if images[c] < MIN_IMAGES or share[c] < MIN_PIXEL_SHARE
    ]
    advice = f"fewer than {MIN_IMAGES} images or {MIN_PIXEL_SHARE:.2%} of the pixels"
    report.add("rare classes", rare, "warning", advice)
    for role, counts in report.counts.items():
        missing = [name for c, name in enumerate(label_map.classes) if not counts[:, c].any()]
        report.add(f"classes without a pixel in {role}", missing, "warning")


def propose_description(
    scan: FolderScan, label_map: LabelMap | None, plan: SplitPlan, classes_file: str | None, binary: bool
) -> str:
    """A dataset.yaml with everything that was guessed, to edit and save. binary: some masks hold only 0 and 255."""
    keys: dict[str, Any] = {"classes": classes_file} if classes_file else {}
    if label_map is None and binary:
        keys["labels"] = {0: "background", IGNORE: "object"}
    elif label_map is not None:
        labels = {key: label for key, label in label_map.table.items() if label != IGNORE}
        has_gaps = scan.format.name == "numbers" and [int(k) for k in labels] != list(range(len(labels)))
        names = {int(k): label_map.classes[v] for k, v in labels.items()} if has_gaps else list(label_map.classes)
        keys.setdefault("classes", names)
        if scan.format.name == "colours" and not classes_file:
            keys["palette"] = [list(rgb) for rgb in label_map.palette]
        if ignored := [name for name in label_map.classes if name.lower() in IGNORED_NAMES]:
            keys["ignore"] = ignored
    keys |= {role: role for role in ROLES if role in plan.lists}
    if not plan.lists:
        keys |= {"val": VAL_SHARE, "split_seed": plan.seed}
    # one line a key; after a plain value YAML writes "..." on a line of its own
    texts = {key: yaml.safe_dump(value, default_flow_style=True, width=10**6) for key, value in keys.items()}
    return "\n".join(f"{key}: {text.splitlines()[0]}" for key, text in texts.items())

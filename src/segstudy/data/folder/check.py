"""`segstudy data check`: all problems of the user's folder in one report."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.bands import Bands, propose_range
from segstudy.data.cache import map_parallel
from segstudy.data.fit import sizes_note
from segstudy.data.folder.classes import LabelMap
from segstudy.data.folder.counts import Counted, MaskCounts, keys_of, read_counted
from segstudy.data.folder.description import Description, read_description
from segstudy.data.folder.interpretation import IGNORED_NAMES, LINE_WIDTH, Interpretation, interpret_masks
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.problems import Problem, Question, problem, yaml_line
from segstudy.data.folder.scan import scan_folder
from segstudy.data.folder.shapes import NO_WIDTH
from segstudy.data.folder.split import ROLES, VAL_SHARE, SplitPlan, make_split
from segstudy.data.images import Sample, UnknownRange, require_same_size
from segstudy.data.splits import rarest_class
from segstudy.errors import ConfigError, DataError, SegstudyError
from segstudy.formatting import counted
from segstudy.labels import IGNORE

MIN_IMAGES, MIN_PIXEL_SHARE = 5, 1e-4
"""A class with fewer images or a smaller share of the pixels is reported: it is hard to learn and to evaluate."""

UNKNOWN_RANGE = "images whose range of values is not known"
INVALID_SPLIT = "the split of dataset.yaml is not possible"


NO_BACKGROUND = "no class is the background: if one is, in dataset.yaml, background: NAME (the losses of V1…V4 need it)"


@dataclass
class FolderReport:
    """counts: {split: pixels per image and class, int64 (N,C), at original size}. guessed: what dataset.yaml lacks."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label_map: LabelMap | None = None
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    proposed_yaml: str | None = None
    guessed: list[str] = field(default_factory=list)

    @property
    def trainable(self) -> bool:
        return all(p.severity != "error" for p in self.problems)

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        known = zip(self.label_map.classes, self.label_map.palette, strict=True) if self.label_map else ()
        classes: list[dict[str, Any]] = [{"name": name, "color": list(color)} for name, color in known]
        for c, each in enumerate(classes):
            each["images"] = {role: int((counts[:, c] > 0).sum()) for role, counts in self.counts.items()}
            each["pixels"] = {role: int(counts[:, c].sum()) for role, counts in self.counts.items()}
        images = {role: len(counts) for role, counts in self.counts.items()}
        values = {"problems": [asdict(each) for each in self.problems], "classes": classes, "images": images}
        return values | {key: getattr(self, key) for key in ("trainable", "notes", "guessed", "proposed_yaml")}

    def add(self, title: str, items: Sequence[str], severity: str = "error", advice: str = "") -> None:
        self.problems += problem(title, items, severity, advice)


@dataclass(frozen=True)
class PairCheck:
    """Result for an image and its mask. errors: {title: error}; digest: hash of the image's pixels, "" if unreadable;
    counts: of the mask; note: on conversions of the image; shape (H,W) of the image, if it was read;
    fits_both: whether the mask may be drawn on the image before and after its EXIF rotation;
    stored: the lowest and highest value in its file and their type, None for 8 bits."""

    errors: dict[str, DataError]
    digest: str
    counts: MaskCounts
    note: str = ""
    shape: tuple[int, ...] = ()
    stored: tuple[float, float, str] | None = None
    fits_both: bool = False


def check_folder(root: Path, about: Path | None = None, bands: Bands | None = None) -> FolderReport:
    """Check every file of a folder, reading them as `data=folder` does. about: its description (None: dataset.yaml)."""
    report = FolderReport()
    try:
        description, file = read_description(root, about)
        scan = scan_folder(description)
    except SegstudyError as error:
        title = "dataset.yaml has mistakes" if isinstance(error, ConfigError) else "the folder cannot be read"
        report.add(title, [str(error)])
        return report
    try:
        plan = make_split(scan, description, dict.fromkeys(ROLES), 0 if description.folds else None)
    except ConfigError as error:
        report.add(INVALID_SPLIT, [str(error)])
        plan = SplitPlan(scan.samples, description.split_seed, {"train": scan.samples})
    report.problems += [*scan.problems, *plan.problems]
    bands = bands or Bands()
    try:
        bands.check(sample.file("image") for sample in scan.samples)
    except UnknownRange as error:
        question, advice = str(error).splitlines()
        report.add(UNKNOWN_RANGE, [question], advice=advice.strip(" →"))
    results = map_parallel(partial(check_pair, scan.format, bands), scan.samples, "checking")
    checks: dict[str, PairCheck] = dict(zip((s.name for s in scan.samples), results, strict=True))
    used = {s.name for s in plan.members()}
    _add_unreadable(report, checks, used)
    doubtful = [] if scan.format.annotated else [name for name, check in checks.items() if check.fits_both]
    report.add(
        "rotated photos whose masks fit with and without the rotation: they are rotated too", doubtful, "warning",
        "if the masks show the photos upright, save the photos upright, without EXIF: mogrify -auto-orient",
    )  # fmt: skip
    report.notes = [*scan.notes, *plan.notes]
    stored = [check.stored for check in checks.values() if check.stored]
    report.notes.append(bands.reading((check.note for check in checks.values()), stored))
    report.notes += sizes_note({check.shape for check in checks.values() if check.shape})
    used_counts = {name: check.counts for name, check in checks.items() if name in used}
    masks, answer = _interpret(report, scan.samples, used_counts, scan.format, description)
    answer = (description.layout.keys if description.layout else {}) | answer
    if masks is not None and masks.format.kind != scan.format.kind:
        answer["mask_values"] = masks.format.kind  # the palettes have decided
    lists = _split_images(report, plan, masks)
    _add_overlaps(report, lists, checks)
    if masks is not None:
        report.counts = {role: masks.pixels(lists[role]) for role in ROLES if lists.get(role)}
        _add_rare_classes(report, masks.label_map.classes)
        if masks.label_map.background is None:
            report.notes.append(NO_BACKGROUND)
    if file is None:
        known = {"the classes": description.classes, "the split": plan.lists}
        report.guessed = ["the meaning of the masks", *(what for what, given in known.items() if not given)]
        if any(each.title == NO_WIDTH for each in report.problems):
            answer["line_width"] = LINE_WIDTH
        report.proposed_yaml = propose_description(masks, plan, description.classes, answer)
    return report


def check_pair(mask_format: MaskFormat, bands: Bands, sample: Sample) -> PairCheck:
    """Decode an image and its mask, and collect the errors of both."""
    errors: dict[str, DataError] = {}

    def attempt(title: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except DataError as error:
            errors[UNKNOWN_RANGE if isinstance(error, UnknownRange) else title] = error

    mask, counts = attempt("masks that cannot be read", read_counted, mask_format, sample) or (None, MaskCounts())
    read = attempt("images that cannot be read", bands.read, sample.file("image"))
    if read is None:
        return PairCheck(errors, "", counts)
    image, note, orientation = read
    if mask is not None:
        oriented = mask_format.orient(mask, orientation, image.shape[:2])
        attempt("sizes that differ", require_same_size, sample, image, oriented, orientation)
    return PairCheck(
        errors, hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest(), counts, note, image.shape[:2],
        bands.stored_range(sample.file("image")),
        fits_both=mask is not None and orientation > 1 and (orientation < 5 or len(set(mask.shape)) == 1),
    )  # fmt: skip


def _interpret(
    report: FolderReport, samples: Sequence[Sample], counts: Counted, mask_format: MaskFormat, description: Description
) -> tuple[Interpretation | None, dict[str, Any]]:
    """(the meaning of the masks, None if it is not clear; keys of dataset.yaml that may answer the question)."""
    if not report.trainable and not any(each.pixels for each in counts.values()):
        return None, {}  # no mask can be read
    try:
        masks = interpret_masks(samples, counts, mask_format, description)
    except SegstudyError as error:
        report.add("classes", [str(error)])
        return None, error.answer if isinstance(error, Question) else {}
    report.label_map = masks.label_map
    report.notes += masks.notes
    report.problems += [*masks.problems, *masks.single_class()]
    return masks, {}


def _add_unreadable(report: FolderReport, checks: Mapping[str, PairCheck], used: set[str]) -> None:
    """Add unreadable files and differing sizes: as errors if a list uses the files, else as warnings."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    unknown: list[UnknownRange] = []
    for name, check in checks.items():
        for title, error in check.errors.items():
            message = str(error).splitlines()[0]
            text = message if name in message else f"{name}: {message}"
            grouped[title, "error" if name in used else "warning"].append(text)
            if isinstance(error, UnknownRange):
                unknown.append(error)
    for (title, severity), items in grouped.items():
        advice = propose_range(unknown).replace("\n→ ", "\n") if title == UNKNOWN_RANGE else ""
        report.add(title if severity == "error" else f"{title} (in no list)", items, severity, advice)


def _split_images(report: FolderReport, plan: SplitPlan, masks: Interpretation | None) -> dict[str, list[Sample]]:
    """The lists of images; randomly drawn lists are left out if there are errors."""
    if not (plan.num_folds or plan.shares) or masks is None or not report.trainable:
        return {"train": plan.pool} | plan.lists
    try:
        return plan.lists | plan.draw_lists(rarest_class(masks.pixels(plan.pool)))
    except ConfigError as error:
        report.add(INVALID_SPLIT, [str(error)])
        return plan.lists


def _add_overlaps(report: FolderReport, lists: dict[str, list[Sample]], checks: Mapping[str, PairCheck]) -> None:
    """Add names, identical images and groups that occur in several splits."""
    names: dict[str, set[str]] = defaultdict(set)
    for sample in chain.from_iterable(lists.values()):
        names[checks[sample.name].digest].add(sample.name)
    copies = {d: " = ".join(sorted(equal)[:3]) for d, equal in names.items() if d and len(equal) > 1}
    keys: dict[str, tuple[Callable[[Sample], str], str]] = {
        "images in two splits": (lambda sample: sample.name, ""),
        "identical images in two splits (equal pixels)": (lambda s: copies.get(checks[s.name].digest, ""), ""),
        "groups in two splits": (lambda sample: sample.group, "correlated images make the result too good"),
    }
    for title, (key_of, advice) in keys.items():
        found = {role: set(map(key_of, lists[role])) for role in ROLES if role in lists}
        roles_of = {key: [role for role in found if key in found[role]] for key in sorted(set().union(*found.values()))}
        several = [f"{key}: {', '.join(roles)}" for key, roles in roles_of.items() if key and len(roles) > 1]
        report.add(title, several, "warning", advice)


def _add_rare_classes(report: FolderReport, classes: Sequence[str]) -> None:
    """Add classes with few images or pixels, and classes that are missing in a split."""
    if not report.counts:
        return
    pixels = np.concatenate(list(report.counts.values()))
    images, share = (pixels > 0).sum(0), pixels.sum(0) / max(1, pixels.sum())
    each = zip(classes, images, share, strict=True)
    few = [(name, n, part) for name, n, part in each if n < MIN_IMAGES or part < MIN_PIXEL_SHARE]
    rare = [f"{name}: in {counted(n, 'image')}, {part:.4%} of pixels" for name, n, part in few]
    advice = f"fewer than {MIN_IMAGES} images or {MIN_PIXEL_SHARE:.2%} of the pixels"
    report.add("rare classes", rare, "warning", advice)
    for role, counts in report.counts.items():
        missing = [name for name, total in zip(classes, counts.sum(0), strict=True) if not total]
        report.add(f"classes without a pixel in {role}", missing, "warning")


def propose_description(masks: Interpretation | None, plan: SplitPlan, classes: Any, answer: Mapping[str, Any]) -> str:
    """A dataset.yaml with all that was guessed. answer: its keys by the layout, and those if the masks are unclear."""
    keys: dict[str, Any] = ({"classes": classes} if classes else {}) | dict(answer)
    if masks is not None:
        label_map, void = masks.label_map, str(IGNORE)
        labels = {key: label for key, label in label_map.table.items() if label != IGNORE}
        has_gaps = masks.format.numbered and [int(k) for k in labels] != list(range(len(labels)))
        names = {int(k): label_map.classes[v] for k, v in labels.items()} if has_gaps else list(label_map.classes)
        keys.setdefault("classes", names)
        if masks.format.kind == "colours" and not classes:
            keys["palette"] = [list(rgb) for rgb in label_map.palette]
        ignored: list[Any] = [name for name in label_map.classes if name.lower() in IGNORED_NAMES]
        ignored += [IGNORE] * (label_map.table.get(void) == IGNORE and void in keys_of(masks.counted.values()))
        keys |= {"ignore": ignored} if ignored else {}
    keys |= {role: answer.get(role, plan.found.get(role, role)) for role in ROLES if role in plan.lists}
    if not plan.lists:
        keys |= {"val": VAL_SHARE, "split_seed": plan.seed}
    return "\n".join(yaml_line(key, value) for key, value in keys.items())

"""Everything that is wrong with a user's folder, all at once."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segstudy.data.folder.datamodule import ask_about_255, pixels_of
from segstudy.data.folder.description import Description, LabelMap, describe, make_label_map
from segstudy.data.folder.formats import MaskFormat
from segstudy.data.folder.scan import FolderScan, map_parallel, own_colours, scan_folder
from segstudy.data.folder.split import ROLES, SHARE, SplitPlan, make_split
from segstudy.data.images import Sample, read_pair
from segstudy.data.splits import rarest_class
from segstudy.errors import ConfigError, DataError, SegstudyError
from segstudy.labels import IGNORE

FEW_IMAGES, FEW_PIXELS = 5, 1e-4
"""A class in fewer images, or of a smaller share of pixels, is hardly learnt and hardly measured."""

VOID = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
"""Classes of these names are proposed to be ignored."""


@dataclass(frozen=True)
class Finding:
    """One kind of fault and where it was found. severity: "error" (no training before it is mended) or "warning"."""

    kind: str
    severity: str
    items: list[str]
    advice: str = ""


@dataclass
class Checked:
    """What a check has found. counts: {split: pixels of each class in each image, int64 (N,C), at the masks' size}."""

    findings: list[Finding] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    scheme: LabelMap | None = None
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    proposal: str | None = None

    @property
    def usable(self) -> bool:
        return all(f.severity != "error" for f in self.findings)

    def add(self, kind: str, items: Sequence[str], severity: str = "error", advice: str = "") -> None:
        if items:
            self.findings.append(Finding(kind, severity, list(items), advice))


@dataclass(frozen=True)
class PairCheck:
    """One pair, decoded: what is wrong {kind: what}, a hash of the image's decoded pixels, and the mask's keys."""

    wrong: dict[str, str]
    digest: str
    keys: dict[str, int]


def check_folder(root: Path, about: Path | None = None) -> Checked:
    """Look at every file of a folder as `data=folder` would use it."""
    checked = Checked()
    try:
        description, file = describe(root, about)
        found = scan_folder(root, description)
    except SegstudyError as error:
        checked.add("the folder cannot be opened", [str(error)])
        return checked
    plan = _plan(checked, found, root, description)
    _leftovers(checked, found, plan)
    seen = map_parallel(partial(look, found.kind), found.samples, "checking")
    looks = dict(zip((s.name for s in found.samples), seen, strict=True))
    used = {s.name for members in (*plan.lists.values(), plan.pool) for s in members}
    _unreadable(checked, looks, used)
    checked.said = [*found.said, *plan.said]
    _classes(checked, found, description, {n: looks[n] for n in looks if n in used})
    lists = _divide(checked, plan, looks, description)
    _sides(checked, lists, looks)
    if checked.scheme is not None:
        scheme = checked.scheme
        checked.counts = {r: pixels_of([looks[s.name].keys for s in m], scheme) for r, m in lists.items() if m}
        _rare(checked, scheme)
    if file is None:
        checked.proposal = propose(found, checked.scheme, plan, description.classes, _only_255(looks.values()))
    return checked


def look(kind: MaskFormat, sample: Sample) -> PairCheck:
    """Decode one pair, and tell of image and mask alike what is wrong."""
    wrong, digest, keys, shown = {}, "", {}, []
    drawn = None
    try:
        drawn, names = kind.draw(sample)
        counts = np.bincount(drawn.ravel(), minlength=len(names))
        keys = {name: int(n) for name, n in zip(names, counts, strict=True) if n}
    except DataError as error:
        wrong["masks that cannot be read"] = str(error).splitlines()[0]

    def draw(turn: int, shape: tuple[int, ...]) -> np.ndarray:
        shown.append(shape)
        return np.zeros(shape, np.uint8) if drawn is None else kind.seen(drawn, turn, shape)

    try:
        image = read_pair(sample, IGNORE, draw=draw)[0]
        digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
    except DataError as error:
        # the mask is asked for only after the image has been read
        wrong["sizes that differ" if shown else "images that cannot be read"] = str(error).splitlines()[0]
    return PairCheck(wrong, digest, keys)


def _plan(checked: Checked, found: FolderScan, root: Path, about: Description) -> SplitPlan:
    """The plan of division; where it is impossible, all images as one list."""
    try:
        plan = make_split(found, root, about, dict.fromkeys(ROLES), 0 if about.folds else None)
    except ConfigError as error:
        checked.add("images that cannot be divided as dataset.yaml says", [str(error)])
        return SplitPlan({"train": found.samples}, found.samples, {}, about.split_seed)
    checked.add("lists that are not there, or empty", plan.wrong)
    return plan


def _leftovers(checked: Checked, found: FolderScan, plan: SplitPlan) -> None:
    for kind, items in found.wrong.items():
        checked.add(kind, items)
    lists = [f"{role}: {name}" for role, names in plan.unknown.items() for name in names]
    checked.add("names in lists without image or mask", lists)
    severity = "error" if plan.needs_all else "warning"
    checked.add(
        "images without mask", found.no_mask, severity, "add the mask, or list what is to be used (train: FILE)"
    )
    checked.add("masks without image", found.no_image, "warning", "names must be equal up to the suffix")


def _unreadable(checked: Checked, looks: dict[str, PairCheck], used: set[str]) -> None:
    """Files that cannot be read and sizes that differ; only a warning where no list uses them."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, each in looks.items():
        for kind, what in each.wrong.items():
            text = what if name in what else f"{name}: {what}"
            kinds[kind, "error" if name in used else "warning"].append(text)
    for (kind, severity), items in kinds.items():
        checked.add(kind if severity == "error" else f"{kind} (in no list)", items, severity)


def _classes(checked: Checked, found: FolderScan, about: Description, looks: dict[str, PairCheck]) -> None:
    """The classes, and masks that hold something else."""
    counted = [each.keys for each in looks.values() if each.keys]
    try:
        ask_about_255(counted, found.kind.name, about)
    except DataError as error:
        checked.add("masks of 0 and 255", [str(error)])
        return
    present = list(dict.fromkeys(key for keys in counted for key in keys))
    try:
        readable = [s for s in found.samples if s.name in looks and looks[s.name].keys]
        scheme = make_label_map(about, found.kind, present, own_colours(readable, found.kind))
    except SegstudyError as error:
        checked.add("classes", [str(error)])
        return
    checked.scheme = scheme
    checked.said += scheme.said
    unknown: dict[str, list[str]] = defaultdict(list)
    for name, each in looks.items():
        for key in each.keys.keys() - scheme.table.keys():
            unknown[key].append(name)
    what = "colours" if found.kind.name == "colours" else "labels"
    items = [f"{key}: {len(names)} masks, e.g. {names[0]}" for key, names in sorted(unknown.items())]
    checked.add(
        f"{what} that are no class", items, "error", "name them in classes, or map them: labels: {VALUE: CLASS}"
    )


def _divide(
    checked: Checked, plan: SplitPlan, looks: dict[str, PairCheck], about: Description
) -> dict[str, list[Sample]]:
    """The lists as they will be; what would be drawn is drawn only where nothing is broken."""
    if not (plan.count or plan.drawn) or checked.scheme is None or not checked.usable:
        return {"train": plan.pool} | plan.lists
    pixels = pixels_of([looks[s.name].keys for s in plan.pool], checked.scheme)
    try:
        return plan.lists | plan.divide(rarest_class(pixels), about.split_seed)
    except ConfigError as error:
        checked.add("images that cannot be divided as dataset.yaml says", [str(error)])
        return plan.lists


def _sides(checked: Checked, lists: dict[str, list[Sample]], looks: dict[str, PairCheck]) -> None:
    """Images, equal pictures and groups that are in more than one split."""
    splits: dict[str, dict[str, set[str]]] = {"name": {}, "picture": {}, "group": {}}
    names: dict[str, list[str]] = defaultdict(list)
    for role, members in lists.items():
        for sample in members:
            digest = looks[sample.name].digest
            names[digest] += [] if sample.name in names[digest] else [sample.name]
            for what, key in (("name", sample.name), ("picture", digest), ("group", sample.group)):
                if key:
                    splits[what].setdefault(key, set()).add(role)
    crossing = {what: {k: r for k, r in keys.items() if len(r) > 1} for what, keys in splits.items()}
    checked.add("images in two splits", list(_told(crossing["name"])), "warning")
    equal = {" = ".join(names[d][:3]): roles for d, roles in crossing["picture"].items() if len(names[d]) > 1}
    checked.add("equal pictures in two splits (by their decoded pixels)", list(_told(equal)), "warning")
    checked.add("groups in two splits", list(_told(crossing["group"])), "warning", "images that know each other")


def _told(crossing: dict[str, set[str]]) -> Iterator[str]:
    for key, roles in sorted(crossing.items()):
        yield f"{key}: {', '.join(r for r in ROLES if r in roles)}"


def _rare(checked: Checked, scheme: LabelMap) -> None:
    """Classes that are nearly empty, and those that a split lacks."""
    pixels = np.concatenate(list(checked.counts.values()))
    images, share = (pixels > 0).sum(0), pixels.sum(0) / max(1, pixels.sum())
    rare = [
        f"{name}: in {images[c]} images, {share[c]:.4%} of pixels"
        for c, name in enumerate(scheme.classes)
        if images[c] < FEW_IMAGES or share[c] < FEW_PIXELS
    ]
    checked.add(
        "nearly empty classes", rare, "warning", f"fewer than {FEW_IMAGES} images or {FEW_PIXELS:.2%} of pixels"
    )
    for role, counted in checked.counts.items():
        lacking = [name for c, name in enumerate(scheme.classes) if not counted[:, c].any()]
        checked.add(f"classes that {role} lacks", lacking, "warning")


def _only_255(looks: Any) -> bool:
    return any(each.keys.keys() == {"0", str(IGNORE)} for each in looks)


def propose(found: FolderScan, scheme: LabelMap | None, plan: SplitPlan, file: str | None, only_255: bool) -> str:
    """A dataset.yaml that says what was guessed, ready to be changed and saved. file: the folder's list of classes."""
    keys: dict[str, Any] = {"classes": file} if file else {}
    if scheme is None and only_255:
        keys["labels"] = {0: "background", IGNORE: "object"}
    elif scheme is not None:
        values = {key: label for key, label in scheme.table.items() if label != IGNORE}
        numbered = found.kind.name == "numbers" and [int(k) for k in values] != list(range(len(values)))
        named = {int(k): scheme.classes[v] for k, v in values.items()} if numbered else list(scheme.classes)
        keys.setdefault("classes", named)
        if found.kind.name == "colours" and not file:
            keys["palette"] = [list(rgb) for rgb in scheme.palette]
        if void := [name for name in scheme.classes if name.lower() in VOID]:
            keys["ignore"] = void
    keys |= {role: role for role in ROLES if role in plan.lists}
    if not plan.lists:
        keys |= {"val": SHARE, "split_seed": plan.seed}
    # one line a key; a plain value is followed by YAML's "..." on a line of its own
    texts = {key: yaml.safe_dump(value, default_flow_style=True, width=10**6) for key, value in keys.items()}
    return "\n".join(f"{key}: {text.splitlines()[0]}" for key, text in texts.items())

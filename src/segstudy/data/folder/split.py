"""The split of the user's folder into train, val and test: by lists, by random shares, or by folds."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from segstudy.data.folder.description import Description
from segstudy.data.folder.files import files_below
from segstudy.data.folder.names import (
    LISTS,
    ImageNames,
    agree,
    columns,
    role_of,
    role_of_list,
    roles_in,
    splits_in,
)  # fmt: skip
from segstudy.data.folder.problems import Problem, problem
from segstudy.data.folder.scan import ROLES, FolderScan
from segstudy.data.images import Sample
from segstudy.data.splits import folds, hold_out
from segstudy.data.text import read_text
from segstudy.errors import ConfigError, DataError, did_you_mean, first_few
from segstudy.formatting import counted

_HEADER = re.compile(r"['\"]?(image|file|name|img|id|path)[a-z_ ]*['\"]?\s*([,;\t]|$)", re.IGNORECASE)
VAL_SHARE = 0.2  # share of the images for val, if no split is given


class UntrainableError(ConfigError):
    """The images can be looked at, but not trained on: they cannot be split as planned, or have only one class."""


@dataclass
class SplitPlan:
    """The given `lists`, and what is drawn from `pool` (the training images).

    shares: {role: share of the pool}. num_folds: 0 for none; fold: the fold to report.
    found: {role: file} of lists that are recognised by a part of their name. notes: what was guessed.
    """

    pool: list[Sample]
    seed: int
    lists: dict[str, list[Sample]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    num_folds: int = 0
    fold: int = 0
    found: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def members(self) -> list[Sample]:
        """All images that are in a list or in the pool, each once."""
        return list({s.name: s for images in (*self.lists.values(), self.pool) for s in images}.values())

    def draw_lists(self, strata: Sequence) -> dict[str, list[Sample]]:
        """Draw the shares or folds from the pool; train is the rest. strata: of each image in the pool.

        Raises UntrainableError if a list would be empty.
        """
        groups = [s.group for s in self.pool]
        num_groups = len(set(filter(None, groups))) + groups.count("")
        found = f"{counted(len(self.pool), 'image')} ({counted(num_groups, 'group')})"
        if num_groups < self.num_folds:
            raise UntrainableError(f"folds: {self.num_folds}, but only {found}: a fold would be empty")
        if self.num_folds:
            held = folds(strata, groups, self.num_folds, self.seed) == self.fold
            return {"train": list(compress(self.pool, ~held)), "val": list(compress(self.pool, held))}
        lists, left = {}, np.arange(len(self.pool), dtype=object)
        for role, share in sorted(self.shares.items()):  # test before val
            share_of_left = min(share * len(self.pool) / max(1, len(left)), 1)
            held = hold_out([strata[i] for i in left], [groups[i] for i in left], share_of_left, self.seed, role)
            if not held.any() or held.all():
                raise UntrainableError(
                    f"{role}={share} of {found} is none, or all that are left\n"
                    "  → choose another share, smaller groups, or lists"
                )
            lists[role], left = [self.pool[i] for i in left[held]], left[~held]
        return lists | {"train": [self.pool[i] for i in left]}

    def title(self, role: str) -> str:
        """Name of a split in records and messages."""
        if self.num_folds:
            return f"fold {self.fold} of {self.num_folds}" if role == "val" else f"all but fold {self.fold}"
        return f"{role}: {self.shares[role]:g} drawn with split_seed {self.seed}" if role in self.shares else role


def make_split(
    scan: FolderScan, description: Description, settings: dict[str, Any], fold: int | None = None
) -> SplitPlan:
    """The split given by dataset.yaml and the settings. Problems of its lists are collected, not raised.

    settings: {role: list, share, "none" or None}; a value other than None replaces that of dataset.yaml.
    Raises ConfigError for settings that contradict each other.
    """
    specs = {role: getattr(description, role) if settings[role] is None else settings[role] for role in ROLES}
    specs = {role: spec for role, spec in specs.items() if spec not in (None, "none")}
    notes, found, several = [], {}, []
    if not specs and not description.folds:
        named = _by_name(scan, description)
        found = {role: each[0] for role, each in named.items() if role and len(each) == 1}
        several = [f"{role}: {', '.join(each)}" for role, each in named.items() if role and len(each) > 1]
        specs = dict(found)
        names = ", ".join(role if role == name else f"{role} = {name}" for role, name in found.items())
        notes = [f"split: {names}, by the names of folders, lists or columns"] if found else []
        unused = first_few(list(dict.fromkeys(named.get("", []))))
        notes += [f"no list of a split, though it names images: {unused}"] if unused else []
    if "val" not in specs and "test" not in specs and not description.folds:
        specs["val"] = VAL_SHARE
        notes.append(f"val: {VAL_SHARE:.0%} of the images, drawn with split_seed {description.split_seed}")
    _check_specs(specs, description.folds, fold)
    lists, problems = _read_lists(specs, scan, description)
    advice = "in dataset.yaml, name the lists: train: FILE, val: FILE"
    problems += problem("several lists of one split: none of them is used", several, "warning", advice)
    severity = "warning" if "train" in specs else "error"  # a list says which images train
    advice = "add the masks, remove the images, or list the images to use in dataset.yaml: train: FILE"
    problems += problem("images without mask", scan.without_mask, severity, advice)
    advice = "the names must be equal but for the suffix"
    problems += problem("masks without image", scan.without_image, "warning", advice)
    taken = {s.name for role in ("val", "test") for s in lists.get(role, [])}
    listed = taken | {s.name for s in lists.get("train", scan.samples)}
    unlisted = [s.name for s in scan.samples if s.name not in listed]
    if unlisted and all(lists.values()):
        notes.append(
            f"left out, in no list: {len(unlisted)} of {counted(len(scan.samples), 'image')} ({first_few(unlisted, 3)})"
        )
    pool = lists.get("train") or [s for s in scan.samples if s.name not in taken]
    if scan.samples and not pool and "train" not in specs:
        told = [f"{role} holds {len(lists[role])} of {len(scan.samples)}" for role in ("val", "test") if role in lists]
        problems += problem("no images to train on", told, advice="in dataset.yaml, train: FILE, or other lists")
    shares = {role: spec for role, spec in specs.items() if isinstance(spec, float)}
    folds = description.folds or 0, fold or 0
    return SplitPlan(pool, description.split_seed, lists, shares, *folds, found, notes, problems)


def _by_name(scan: FolderScan, description: Description) -> dict[str, list[str]]:
    """{split: folders, values of the column split, or files with that name}; "": files in the root that name images.

    A file is one of a split if its name holds it (val_list.txt), and if its first lines or a column name images.
    """
    root = description.root
    words = [part for s in scan.samples for part in s.name.split("/")[:-1]] + [*scan.split_of.values()]
    found: dict[str, list[str]] = defaultdict(list)
    for word in dict.fromkeys([*(f"{role}.txt" for role in ROLES if description.find(f"{role}.txt")), *words]):
        if role := role_of(word.removesuffix(".txt")):
            found[role].append(word.removesuffix(".txt"))
    found |= {role: [role] for role in found if role in found[role]}
    settled, used = set(found), {*description.pairs, str(description.classes), *(f"{role}.txt" for role in found)}
    files = {path.relative_to(root).as_posix(): path for path in files_below(root, (*LISTS, ".json"))}
    files = {n: path for n, path in files.items() if n not in used and (role_of_list(path) or path.parent == root)}
    known = ImageNames(sample.name for sample in scan.samples if files)
    for name, path in files.items():
        for role in roles_in(path, known):
            found["" if role in settled else role].append(name)
    return dict(found)


def _read_lists(
    specs: dict[str, Any], scan: FolderScan, description: Description
) -> tuple[dict[str, list[Sample]], list[Problem]]:
    """({role: images}, problems of the lists)."""
    by_name = {s.name: s for s in scan.samples}
    known = ImageNames([*by_name, *scan.without_mask] if any(isinstance(spec, str) for spec in specs.values()) else [])
    lists: dict[str, list[Sample]] = {}
    unreadable, repeated, meanings = [], [], Meanings()
    for role, spec in specs.items():
        if not isinstance(spec, str):
            continue
        try:
            lines = read_list(role, spec, description, scan)
            unreadable += [] if lines else [f"{role}: the list {spec} is empty"]
        except DataError as error:
            unreadable.append(f"{role}: {error}")
            lines = []
        found = Counter(meanings.add(role, line, known, by_name) for line in lines)
        names = [name for name in found if name is not None]
        lists[role] = [by_name[name] for name in names]
        repeated += [f"{role}: {found[name]} times {name}" for name in names if found[name] > 1]
    problems = [
        *problem("lists that are missing or empty", unreadable),
        *problem("images that a list names several times: they are used once", repeated, "warning"),
    ]
    return lists, problems + meanings.problems()


@dataclass
class Meanings:
    """What the lines of all lists mean: `line_of` each image, and the lines that name no image or several."""

    line_of: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    other_masks: list[str] = field(default_factory=list)

    def add(self, role: str, line: str, known: ImageNames, by_name: Mapping[str, Sample]) -> str | None:
        """The image with a mask that a line means, or None."""
        found = known.find_in_line(line)
        if len(found) > 1:
            self.ambiguous.append(f"{role}: {line} may mean {' or '.join(found[:3])}")
            return None
        if not found or found[0] not in by_name:
            self.unknown.append(f"{role}: {line}")
            return None
        (name,) = found
        first = self.line_of.setdefault(name, line)
        if not agree(first, line):
            self.ambiguous.append(f"{role}: {line} and {first} both mean {name}")
        mask, listed = by_name[name].file("mask"), columns(line)[1:2]
        if listed and mask.suffix != ".json" and not agree(listed[0], mask.name):
            self.other_masks.append(f"{role}: {line}, but the mask that is used is {mask.name}")
        return name

    def problems(self) -> list[Problem]:
        found = problem("names in lists without image or mask", self.unknown)
        advice = "write the path below the folder of images, such as train/a"
        found += problem("names in lists that are ambiguous", self.ambiguous, advice=advice)
        advice = "in dataset.yaml, pairs: the lists, such as [train.txt, val.txt]"
        return found + problem("masks in lists that are not of their image's name", self.other_masks, advice=advice)


def read_list(role: str, spec: str, description: Description, scan: FolderScan) -> list[str]:
    """The lines of a list as they are written, or the names of its images.

    spec: a value of the column split, a list file (with or without .txt; of a table of several splits, the rows of this
    role), or a sub-folder of the images.
    Raises DataError if it is none of these.
    """
    if spec in scan.split_of.values():
        return [n for n, split in scan.split_of.items() if split == spec]
    if path := description.find(spec) or description.find(f"{spec}.txt"):
        if splits := splits_in(path, ImageNames(s.name for s in scan.samples)):
            return splits.get(role, [])
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        return lines[1:] if path.suffix == ".csv" and lines and _HEADER.match(lines[0]) else lines
    folder = spec.removeprefix(f"{description.images}/").strip("/")
    names = sorted(s.name for s in scan.samples)
    if inside := [n for n in names if n.startswith(f"{folder}/")] or [n for n in names if f"/{folder}/" in n]:
        return inside
    root, lists = description.root, sorted(path.name for path in description.root.glob("*.txt"))
    hint = did_you_mean(spec, [*lists, *scan.split_of.values()])
    raise DataError(
        f"no list {spec!r}: no file {root / spec} or {spec}.txt, no folder {root / description.images / spec}"
        f"{hint}\n  found the lists: {', '.join(lists) or 'none'}\n"
        "  → set train, val and test (in dataset.yaml or as data.train=…) to one of them, or val to a share: 0.2"
    )


def _check_specs(specs: dict[str, Any], num_folds: int | None, fold: int | None) -> None:
    """Raise ConfigError for settings that contradict each other or are out of range."""
    shares = {role: spec for role, spec in specs.items() if not isinstance(spec, str)}
    if "train" in shares:
        raise ConfigError(f"train: {shares['train']} is not a list\n  → give shares to val and test; train is the rest")
    outside = [f"{role}: {each} is not a share between 0 and 1" for role, each in shares.items() if not 0 < each < 1]
    if outside or sum(shares.values()) >= 1:
        raise ConfigError("\n".join(outside) or f"these shares leave nothing to train on: {shares}")
    if num_folds is None:
        if fold is not None:
            raise ConfigError(f"data.fold={fold}, but dataset.yaml has no folds\n  → in dataset.yaml, folds: 5")
    elif "val" in specs or "test" in specs:
        reason = "with folds, the chosen fold is reported"
        raise ConfigError(f"folds: {num_folds} together with val or test: {reason}\n  → remove one of them")
    elif fold is None or not 0 <= fold < num_folds:
        every = ",".join(map(str, range(num_folds)))
        raise ConfigError(
            f"data.fold={'null' if fold is None else fold}: dataset.yaml has {num_folds} folds, 0…{num_folds - 1}\n"
            f"  → data.fold=0 for one, -m data.fold={every} for all"
        )

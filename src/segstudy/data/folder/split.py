"""How a user's folder is divided into train, val and test: by lists, by shares that are drawn, or by folds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.folder.description import Description
from segstudy.data.folder.scan import FolderScan, read_list
from segstudy.data.images import Sample, first_few
from segstudy.data.splits import folds, hold_out
from segstudy.errors import ConfigError, DataError

VAL_SHARE = 0.2
"""Share of the images that becomes val if nothing says how to divide them."""

ROLES = ("train", "val", "test")


class SplitPlan:
    """The named `lists`, and what is drawn out of `pool` (the training images).

    shares: {role: share of the pool}. num_folds: 0 for none; fold: the one that is reported. unknown_names: in the
    lists, but not in the folder. trains_on_rest: no list of training images is named. notes: what was guessed.
    """

    def __init__(self, lists: dict[str, list[Sample]], pool: list[Sample], shares: dict[str, float], seed: int):
        self.lists, self.pool, self.shares, self.seed = lists, pool, shares, seed
        self.num_folds, self.fold, self.trains_on_rest = 0, 0, False
        self.notes: list[str] = []
        self.unknown_names: dict[str, list[str]] = {}
        self.errors: list[str] = []

    def members(self) -> list[Sample]:
        """All images that are in a list or in the pool, each once."""
        return list({s.name: s for images in (*self.lists.values(), self.pool) for s in images}.values())

    def raise_errors(self, scan: FolderScan, root: Path) -> None:
        """Raise DataError if anything prevents training."""
        errors = [*self.errors, *(f"{len(items)} {title}: {first_few(items)}" for title, items in scan.errors.items())]
        errors += [
            f"{role} lists {len(names)} names without image or mask: {first_few(names)}"
            for role, names in self.unknown_names.items()
        ]
        if self.trains_on_rest and scan.without_mask:
            errors.append(
                f"{len(scan.without_mask)} images have no mask: {first_few(scan.without_mask)}\n"
                "  → add the masks, remove the images, or list the images to use: dataset.yaml, train: FILE"
            )
        if errors:
            raise DataError("\n".join(errors) + f"\n→ all problems at once: segstudy data check {root}")

    def draw_lists(self, strata: Sequence) -> dict[str, list[Sample]]:
        """Draw the shares or folds; train is the rest. strata: of each image in the pool.

        Raises ConfigError if a list would be empty.
        """
        groups = [s.group for s in self.pool]
        num_groups = len(set(filter(None, groups))) + groups.count("")
        if self.num_folds:
            if num_groups < self.num_folds:
                raise ConfigError(
                    f"folds: {self.num_folds}, but only {num_groups} groups ({len(self.pool)} images): "
                    "a fold would be empty"
                )
            fold = folds(strata, groups, self.num_folds, self.seed)
            return {"train": self._select(fold != self.fold), "val": self._select(fold == self.fold)}
        lists, free = {}, np.ones(len(self.pool), bool)
        for role, share in sorted(self.shares.items()):  # test before val
            left = np.flatnonzero(free).tolist()
            share_of_left = min(share * len(self.pool) / max(1, len(left)), 1)
            held = hold_out([strata[i] for i in left], [groups[i] for i in left], share_of_left, self.seed, role)
            if not held.any() or held.all():
                raise ConfigError(
                    f"{role}={share} of {len(self.pool)} images ({num_groups} groups) is none, or all that are left\n"
                    "  → another share, smaller groups, or lists"
                )
            chosen = np.zeros(len(self.pool), bool)
            chosen[np.array(left)[held]] = True
            free &= ~chosen
            lists[role] = self._select(chosen)
        return lists | {"train": self._select(free)}

    def _select(self, chosen: np.ndarray) -> list[Sample]:
        return [self.pool[i] for i in np.flatnonzero(chosen)]

    def title(self, role: str) -> str:
        """Name of a split in records and messages."""
        if self.num_folds:
            return f"fold {self.fold} of {self.num_folds}" if role == "val" else f"all but fold {self.fold}"
        return f"{role}: {self.shares[role]:g} drawn with split_seed {self.seed}" if role in self.shares else role


def make_split(
    scan: FolderScan, root: Path, description: Description, settings: dict[str, Any], fold: int | None = None
) -> SplitPlan:
    """The split that dataset.yaml and the settings ask for; errors in its lists are collected, not raised.

    settings: {role: list, share, "none" or None}, used in the place of dataset.yaml's.
    Raises ConfigError for settings that contradict each other.
    """
    specs = {role: getattr(description, role) if settings[role] is None else settings[role] for role in ROLES}
    specs = {role: spec for role, spec in specs.items() if spec not in (None, "none")}
    notes = []
    if not specs and not description.folds:
        specs = _lists_named_as_roles(scan, description)
        notes = [f"{', '.join(specs)}: the lists of these names"] if specs else []
    if "val" not in specs and "test" not in specs and not description.folds:
        specs["val"] = VAL_SHARE
        notes.append(f"val: {VAL_SHARE:.0%} of the images, drawn with split_seed {description.split_seed}")
    _check_specs(specs, description.folds, fold)
    shares = {role: spec for role, spec in specs.items() if isinstance(spec, float)}
    plan = SplitPlan({}, [], shares, description.split_seed)
    plan.notes, plan.trains_on_rest = notes, "train" not in specs
    plan.num_folds, plan.fold = description.folds or 0, fold or 0
    _read_lists(plan, specs, scan, root, description)
    taken = {s.name for role in ("val", "test") for s in plan.lists.get(role, [])}
    plan.pool = plan.lists.get("train") or [s for s in scan.samples if s.name not in taken]
    return plan


def _read_lists(plan: SplitPlan, specs: dict[str, Any], scan: FolderScan, root: Path, description: Description) -> None:
    """Set the plan's `lists`, `unknown_names` and `errors`."""
    by_name = {s.name: s for s in scan.samples}
    for role, spec in specs.items():
        if not isinstance(spec, str):
            continue
        try:
            names, unknown = read_list(spec, root, description, scan)
        except DataError as error:
            plan.errors.append(f"{role}: {error}")
            continue
        plan.lists[role] = [by_name[n] for n in dict.fromkeys(names)]
        if unknown:
            plan.unknown_names[role] = unknown
        elif not names:
            plan.errors.append(f"{role}: the list {spec} is empty")


def _lists_named_as_roles(scan: FolderScan, description: Description) -> dict[str, Any]:
    """The roles for which there is a list, a sub-folder, or a value of the column split of that name."""
    folders = {s.name.split("/")[0] for s in scan.samples if "/" in s.name}
    known = folders | set(scan.split_of.values())
    return {role: role for role in ROLES if role in known or description.find(f"{role}.txt")}


def _check_specs(specs: dict[str, Any], num_folds: int | None, fold: int | None) -> None:
    """Raise ConfigError for settings that contradict each other or are out of range."""
    shares = {role: spec for role, spec in specs.items() if not isinstance(spec, str)}
    if "train" in shares:
        raise ConfigError(
            f"train: {shares['train']} is no list\n  → give shares to val and test: train is what they leave"
        )
    errors = [f"{role}: {spec} is no share between 0 and 1" for role, spec in shares.items() if not 0 < float(spec) < 1]
    if errors or sum(map(float, shares.values())) >= 1:
        raise ConfigError("\n".join(errors) or f"these shares leave nothing to train on: {shares}")
    if num_folds is None and fold is not None:
        raise ConfigError(f"data.fold={fold}, but dataset.yaml makes no folds\n  → folds: 5 in dataset.yaml")
    if num_folds is None:
        return
    if "val" in specs or "test" in specs:
        raise ConfigError(
            f"folds: {num_folds} beside val or test: with folds, the chosen fold is reported\n  → remove one of them"
        )
    if fold is None or not 0 <= fold < num_folds:
        every = ",".join(map(str, range(num_folds)))
        raise ConfigError(
            f"data.fold={'null' if fold is None else fold}: dataset.yaml makes {num_folds} folds, 0…{num_folds - 1}\n"
            f"  → data.fold=0 for one, -m data.fold={every} for all"
        )

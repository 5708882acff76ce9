"""TODO"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.data.folder.description import Description, some
from segstudy.data.folder.scan import FolderScan, read_list
from segstudy.data.images import Sample
from segstudy.data.splits import folds, hold_out
from segstudy.errors import ConfigError, DataError

SHARE = 0.2
"""Of the images, for val, where nothing says how to divide them."""

ROLES = ("train", "val", "test")


class SplitPlan:
    """How the images are divided: `lists` as they were named, and what is drawn out of `pool` (the training images).

    drawn: {role: share of the pool}. count: of folds, 0 for none; fold: the one that is reported. unknown: names in the
    lists that the folder does not have. needs_all: no list says what is trained on. said: what was guessed.
    """

    def __init__(self, lists: dict[str, list[Sample]], pool: list[Sample], drawn: dict[str, float], seed: int):
        self.lists, self.pool, self.drawn, self.seed = lists, pool, drawn, seed
        self.count, self.fold, self.needs_all = 0, 0, False
        self.said: list[str] = []
        self.unknown: dict[str, list[str]] = {}
        self.wrong: list[str] = []

    def refuse(self, found: FolderScan, root: Path) -> None:
        """Raise DataError if something must be mended before the folder can be used."""
        wrong = [*self.wrong, *(f"{len(items)} {kind}: {some(items)}" for kind, items in found.wrong.items())]
        wrong += [f"{role} lists {len(n)} names without image or mask: {some(n)}" for role, n in self.unknown.items()]
        if self.needs_all and found.no_mask:
            wrong.append(
                f"{len(found.no_mask)} images have no mask: {some(found.no_mask)}\n"
                "  → add the masks, take the images out, or list what is to be used: dataset.yaml, train: FILE"
            )
        if wrong:
            raise DataError("\n".join(wrong) + f"\n→ all that is wrong: segstudy data check {root}")

    def divide(self, strata: Sequence, seed: int) -> dict[str, list[Sample]]:
        """The lists that are drawn, and train, which is the rest. Raises ConfigError if one is empty."""
        groups = [s.group for s in self.pool]
        if self.count:
            _enough(self.pool, groups, self.count)
            fold = folds(strata, groups, self.count, seed)
            return {"train": self._part(fold != self.fold), "val": self._part(fold == self.fold)}
        made, free = {}, np.ones(len(self.pool), bool)
        for role, share in sorted(self.drawn.items()):  # test before val
            at = np.flatnonzero(free).tolist()
            rest = share * len(self.pool) / max(1, len(at))
            held = hold_out([strata[i] for i in at], [groups[i] for i in at], min(rest, 1), seed, role)
            if not held.any() or held.all():
                number = len(set(filter(None, groups))) + groups.count("")
                raise ConfigError(
                    f"{role}={share} of {len(self.pool)} images ({number} groups) is none or all that are left\n"
                    "  → another share, fewer images in a group, or lists"
                )
            chosen = np.zeros(len(self.pool), bool)
            chosen[np.array(at)[held]] = True
            free &= ~chosen
            made[role] = self._part(chosen)
        return made | {"train": self._part(free)}

    def _part(self, chosen: np.ndarray) -> list[Sample]:
        return [self.pool[i] for i in np.flatnonzero(chosen)]

    def title(self, role: str) -> str:
        """What a split is called where its size is told."""
        if self.count:
            return f"fold {self.fold} of {self.count}" if role == "val" else f"all but fold {self.fold}"
        return f"{role}: {self.drawn[role]:g} drawn with split_seed {self.seed}" if role in self.drawn else role


def make_split(
    found: FolderScan, root: Path, about: Description, wanted: dict[str, Any], fold: int | None = None
) -> SplitPlan:
    """The plan that dataset.yaml and the settings make; what is wrong with its lists is refused later.

    Raises ConfigError for settings that exclude each other.
    """
    specs = {role: getattr(about, role) if wanted[role] is None else wanted[role] for role in ROLES}
    specs = {role: spec for role, spec in specs.items() if spec not in (None, "none")}
    told = []
    if not specs and not about.folds:
        specs = _named_so(found, root, about)
        told = [f"{', '.join(specs)}: the lists of these names"] if specs else []
    if "val" not in specs and "test" not in specs and not about.folds:
        specs["val"] = SHARE
        told.append(f"val: {SHARE:.0%} of the images, drawn with split_seed {about.split_seed}")
    _check_specs(specs, about.folds, fold)
    plan = SplitPlan({}, [], {role: spec for role, spec in specs.items() if isinstance(spec, float)}, about.split_seed)
    plan.said, plan.needs_all = told, "train" not in specs
    plan.count, plan.fold = about.folds or 0, fold or 0
    _read_lists(plan, specs, found, root, about)
    taken = {s.name for role in ("val", "test") for s in plan.lists.get(role, [])}
    plan.pool = plan.lists.get("train") or [s for s in found.samples if s.name not in taken]
    return plan


def _read_lists(plan: SplitPlan, specs: dict[str, Any], found: FolderScan, root: Path, about: Description) -> None:
    """Fill in `lists`, `unknown` and `wrong`."""
    by_name = {s.name: s for s in found.samples}
    for role, spec in specs.items():
        if not isinstance(spec, str):
            continue
        try:
            names, missing = read_list(spec, root, about, found)
        except DataError as error:
            plan.wrong.append(f"{role}: {error}")
            continue
        plan.lists[role] = [by_name[n] for n in dict.fromkeys(names)]
        if missing:
            plan.unknown[role] = missing
        elif not names:
            plan.wrong.append(f"{role}: the list {spec} is empty")


def _named_so(found: FolderScan, root: Path, about: Description) -> dict[str, Any]:
    """The roles whose list, sub-folder or value of the column split is called as they are."""
    columns = set(found.columns.values())
    inside = {s.name.split("/")[0] for s in found.samples if "/" in s.name}
    return {role: role for role in ROLES if role in columns | inside or about.find(f"{role}.txt")}


def _check_specs(specs: dict[str, Any], count: int | None, fold: int | None) -> None:
    """Raise ConfigError for settings that exclude each other or have no meaning."""
    shares = {role: spec for role, spec in specs.items() if not isinstance(spec, str)}
    if "train" in shares:
        raise ConfigError(
            f"train: {shares['train']} is no list\n  → train is what val and test leave; give them shares"
        )
    wrong = [f"{role}: {spec} is no share between 0 and 1" for role, spec in shares.items() if not 0 < float(spec) < 1]
    if wrong or sum(map(float, shares.values())) >= 1:
        raise ConfigError("\n".join(wrong) or f"shares that leave nothing to train on: {shares}")
    if count is None and fold is not None:
        raise ConfigError(f"data.fold={fold}, and dataset.yaml makes no folds\n  → folds: 5 in dataset.yaml")
    if count is None:
        return
    if "val" in specs or "test" in specs:
        raise ConfigError(f"folds: {count} beside val or test: the fold is what is reported\n  → take one of them out")
    if fold is None or not 0 <= fold < count:
        every = ",".join(map(str, range(count)))
        raise ConfigError(
            f"data.fold={'null' if fold is None else fold}: dataset.yaml makes {count} folds, 0…{count - 1}\n"
            f"  → data.fold=0 for one, -m data.fold={every} for all"
        )


def _enough(pool: Sequence[Sample], groups: Sequence[str], count: int) -> None:
    units = len(set(filter(None, groups))) + list(groups).count("")
    if units < count:
        raise ConfigError(f"folds: {count} of {len(pool)} images in {units} groups: a fold would be empty")

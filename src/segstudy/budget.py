"""A study's time budget, turned into one number of steps for all its runs before the first one is trained.

`budget.json` in the study's folder holds the number: a study that is continued or extended uses it again, also on
another machine.
"""

import copy
import heapq
import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from pydantic import BaseModel, Field

from segstudy.errors import ConfigError
from segstudy.files import read_json, read_text, reading, validate, write_json
from segstudy.formatting import format_duration, format_number, parse_duration

FILE = "budget.json"

LEAST = 20
"""Steps below which a training says nothing of its network."""

MOST = 10**9
"""Steps of a config without a limit."""

TRIAL_BATCHES = 4
"""Batches of validation and test in a trial; the time of all is estimated from them."""

RESERVE = 0.1
"""Share of the budget kept for the report, and for other programs that slow the runs down."""


@dataclass(frozen=True)
class VariantTimes:
    """What a run of a variant takes, in seconds: a step, a validation, and all the rest (start, pictures, test).

    epoch: steps of an epoch. every: epochs between validations. most, least: steps that the config asks for.
    """

    step: float
    validation: float
    rest: float
    epoch: int
    every: int
    most: int
    least: int = 0

    def run(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        return self.rest + steps * self.step + math.ceil(steps / self.epoch) // self.every * self.validation


def total_seconds(times: Sequence[VariantTimes], steps: int, at_once: int) -> float:
    """Seconds of a study: its runs, in this order, each begun when one of the `at_once` before it has ended."""
    ends = [0.0] * at_once
    for each in times:
        heapq.heapreplace(ends, ends[0] + each.run(steps))
    return max(ends)


def fitting_steps(times: Sequence[VariantTimes], at_once: int, seconds: float) -> int:
    """The largest number of steps with which these runs fit into `seconds`, at most those that the config asks for.

    0 if not even one step fits.
    """
    most = min(each.most for each in times)
    return bisect_left(range(1, most + 1), True, key=lambda n: total_seconds(times, n, at_once) > seconds)


def choose_steps(
    budget: str, spent: float, times: Mapping[str, VariantTimes], runs: Sequence[str], at_once: int
) -> dict[str, Any]:
    """The content of `budget.json`. times: of each variant. runs: the variant of each run. spent: seconds so far.

    The steps are at least `trainer.min_steps`, even if they take longer than the budget, but no more than the config
    asks for. Without that setting: raises ConfigError, with the budget that would be needed, if fewer than LEAST steps
    fit.
    """
    given = parse_duration(budget)
    assert given is not None  # checked with the config
    each = [times[variant] for variant in runs]
    fitting = fitting_steps(each, at_once, given * (1 - RESERVE) - spent)
    most = min(t.most for t in each)
    steps, least = min(most, max(fitting, *(t.least for t in each))), min(LEAST, most)
    if steps < least:
        needed = (total_seconds(each, least, at_once) + spent) / (1 - RESERVE)
        raise ConfigError(
            f"budget={budget} is enough for {steps} steps of each of {len(runs)} runs; at least {least} are needed\n"
            f"  → budget={math.ceil(needed / 60)}min or more, fewer variants or seeds, or a smaller data.size"
        )
    return {
        "budget": budget,
        "steps": steps,
        "fitting": fitting,
        "asked_for": most,
        "expected_seconds": spent + total_seconds(each, steps, at_once),
        "at_once": at_once,
        "variants": {name: asdict(t) for name, t in times.items()},
    }


def describe(chosen: Mapping[str, Any], runs: int) -> str:
    """One line: the number of steps, why, the seconds per step of each variant, and the expected time."""
    paces = ", ".join(f"{name} {format_number(t['step'], 2)}" for name, t in chosen["variants"].items())
    why = ", as the config asks for" if chosen["steps"] == chosen["asked_for"] else ""
    if chosen["steps"] > chosen["fitting"]:
        why = f", as trainer.min_steps asks for, though only {chosen['fitting']} fit"
    return (
        f"budget {chosen['budget']}: {chosen['steps']} steps for each run{why} (seconds per step: {paces}); "
        f"{runs} runs will take about {format_duration(chosen['expected_seconds'])}"
    )


class Chosen(BaseModel):
    """The entries of `budget.json` that are read again."""

    budget: str
    steps: int = Field(strict=True, ge=1, le=MOST)


def write_budget(study: Path, chosen: Mapping[str, Any]) -> None:
    write_json(study, FILE, chosen, durable=True)


def read_budget(study: Path, budget: str) -> int | None:
    """The number of steps in a study's `budget.json`; None if there is none.

    Raises DamagedFile, and ConfigError for another budget: runs of a study have equally many steps.
    """
    file = study / FILE
    try:
        with reading(
            file, "\n  → put a copy back, or set another study=NAME: the runs of a study have equally many steps"
        ):
            chosen = validate(Chosen, read_json(file))
    except FileNotFoundError:
        return None
    steps, before = chosen.steps, chosen.budget
    if before != budget:
        raise ConfigError(
            f"budget={budget}: the runs of {study} have {steps} steps each, for budget={before}\n"
            f"  → budget={before}, or another study=NAME"
        )
    return steps


def apply_budget(cfg: DictConfig, study: Path) -> None:
    """Set `trainer.max_steps` of a run to its study's number of steps, if the config has a budget.

    Raises ConfigError if the study has none.
    """
    if cfg.get("budget") is None:
        return
    steps = read_budget(study, cfg.budget)
    if steps is None:
        raise ConfigError(
            f"budget={cfg.budget} is the time of a whole study (-m), and {study} is none with a budget\n"
            "  → trainer.max_time=DD:HH:MM:SS for a single run; a study of one run: add -m"
        )
    cfg.trainer.max_steps = steps


def as_trial(cfg: DictConfig, folder: Path, name: str) -> DictConfig:
    """A copy of a run's config, with Hydra's part, for a short trial in `folder/name` that writes `times.json`."""
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.budget = None
        cfg.trainer.min_steps = cfg.trainer.min_epochs = None  # Lightning would not stop the trial earlier
        cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir = str(folder), name
        cfg.callbacks.stage_times = {"_target_": "segstudy.callbacks.stage_times.StageTimes"}
        cfg.logger = {key: value for key, value in (cfg.logger or {}).items() if key in ("tensorboard", "csv")}
        for stage in ("val", "test"):
            cfg.trainer.setdefault(f"limit_{stage}_batches", TRIAL_BATCHES)
    return cfg


def read_times(cfg: DictConfig, folder: Path, seconds: float) -> VariantTimes:
    """The result of a trial that took so many seconds in all. cfg: of the run that was tried."""
    values = json.loads(read_text(folder / "times.json"))
    epoch, trainer = values["steps_per_epoch"], cfg.trainer
    limits = [(trainer.max_epochs or 0) * epoch, trainer.max_steps]
    return VariantTimes(
        step=values["step"],
        validation=values["validation"],
        rest=seconds - values["timed"] + values["test"],
        epoch=epoch,
        every=trainer.check_val_every_n_epoch or 1,
        most=min((limit for limit in limits if limit > 0), default=MOST),
        least=trainer.get("min_steps") or 0,
    )

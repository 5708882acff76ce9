"""Launches the runs of a study: turns its budget into steps, and trains several runs at once where that is faster."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from segstudy import entry, interruption
from segstudy.budget import VariantTimes, as_trial, choose_steps, describe, read_budget, read_times, write_budget
from segstudy.build import build_data
from segstudy.console import print_error, print_line
from segstudy.display import Display
from segstudy.errors import ConfigError, SegstudyError, TrainingError
from segstudy.files import folder_lock
from segstudy.side_by_side import Job, Outcome, choose_number, start_server, train_side_by_side, wait_for_server
from segstudy.sweep import FAILED

TRIAL = ".trial-"
"""Prefix of the folder in which a study's variants are timed."""

Overrides = Sequence[str]
"""What one run of a study changes, such as model=v1 and seed=0."""


class Sweep(Job):
    """What Hydra gives a launcher. config: of the command, without the settings of single runs."""

    @property
    def folder(self) -> Path:
        return Path(self.config.hydra.sweep.dir)

    def compose(self, overrides: Overrides, number: int = 0) -> DictConfig:
        """The config of the run with this number, with Hydra's part."""
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def job(self, config: DictConfig) -> Job:
        return Job(config, self.context, self.task)


def launch(
    sweep: Sweep, n_jobs: Any, runs: Sequence[Overrides], first: int, one_by_one: Callable[..., Sequence[JobReturn]]
) -> Sequence[JobReturn]:
    """Train these runs, the first of which has the number `first`: one by one in this process, or several at once.

    n_jobs: see `choose_number`. A mistake ends the command with exit code 2: Hydra would print a traceback.
    """
    interruption.place = str(sweep.folder.absolute())
    try:
        configs = {name: sweep.compose(given) for name, given in variants_of(runs).items()}
        number, threads = choose_number(n_jobs, [*configs.values()], len(runs))
        if number > 1 or any(cfg.budget is not None for cfg in configs.values()):
            start_server()
            prepare_data([*configs.values()])
        set_budget(sweep, configs, runs, number, threads)
    except SegstudyError as error:
        print_error(error)
        sys.exit(2)
    if number == 1:
        if n_jobs == "auto" and len(runs) > 1 and torch.get_num_threads() == 1 and not torch.accelerator.is_available():
            print_line("one run at a time: PyTorch has one thread → unset OMP_NUM_THREADS, or hydra.launcher.n_jobs=2")
        return one_by_one(runs, first)
    print_line(f"{number} runs at once, {threads} thread{'s' * (threads > 1)} each")
    jobs = (sweep.job(sweep.compose(given, first + i)) for i, given in enumerate(runs))
    with Display(short_names(runs)) as show:
        outcomes = train_side_by_side(jobs, number, threads, show)
    FAILED.extend(outcome.name for outcome in outcomes if outcome.failure is not None)
    return [_job_return(outcome) for outcome in outcomes]


def prepare_data(configs: Sequence[DictConfig]) -> None:
    """Download and cache the data of these configs: with a progress bar, once, and before anything is timed."""
    prepared: list[DictConfig] = []
    for cfg in configs:
        if cfg.data not in prepared:
            prepared.append(cfg.data)
            with suppress(SegstudyError):  # its runs will report it, and the others train
                build_data(cfg)


def set_budget(
    sweep: Sweep, configs: dict[str, DictConfig], runs: Sequence[Overrides], number: int, threads: int
) -> None:
    """Turn the budget of a study, if it has one, into its number of steps, by a trial run of each variant.

    configs: of one run of each variant. number, threads: runs at once and threads of each, as in the study.
    Raises ConfigError if the runs have several budgets, or the budget is too small; TrainingError if a trial fails.
    """
    budgets = {cfg.budget for cfg in configs.values()}
    if budgets == {None}:
        return
    if len(budgets) > 1 or any(cfg.trainer.devices != 1 for cfg in configs.values()):
        raise ConfigError(
            "a study has one budget, and its runs use one device each\n  → trainer.max_steps=N instead of budget"
        )
    (budget,) = budgets
    with folder_lock(sweep.folder):  # the same command elsewhere waits, and uses the same number
        steps = read_budget(sweep.folder, budget)
        if steps is not None:
            print_line(f"budget {budget}: {steps} steps for each run, as at the start of this study")
            return
        print_line(f"budget {budget}: timing a few steps of {', '.join(configs)} …")
        times = time_variants(sweep, configs, number, threads)
        own = {_without_seed(given): name for name, given in variants_of(runs).items()}
        each = [own[_without_seed(given)] for given in runs]
        chosen = choose_steps(budget, time.monotonic() - entry.BEGAN, times, each, number)
        write_budget(sweep.folder, chosen)
        print_line(describe(chosen, len(runs)))


def time_variants(sweep: Sweep, configs: dict[str, DictConfig], number: int, threads: int) -> dict[str, VariantTimes]:
    """The times of each variant, from short trial runs in a temporary folder of the study."""
    for left in sweep.folder.glob(f"{TRIAL}*"):  # by a killed command
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=sweep.folder, prefix=TRIAL) as place:
        folder = Path(place)
        jobs = [sweep.job(as_trial(cfg, folder, str(i))) for i, cfg in enumerate(configs.values())]
        wait_for_server()
        outcomes = train_side_by_side(jobs, number, threads)
        times = {}
        for i, (name, cfg) in enumerate(configs.items()):
            outcome = outcomes[i]
            if outcome.failure is not None:
                raise TrainingError(f"{name} cannot be timed, so no run was started: {outcome.failure}")
            start = 0 if number > 1 else outcome.started  # one by one, runs need no process of their own
            times[name] = read_times(cfg, folder / str(i), outcome.seconds - start)
    return times


def variants_of(runs: Sequence[Overrides]) -> dict[str, Overrides]:
    """The variants among these runs: short name → overrides of its first run."""
    variants: dict[tuple[str, ...], Overrides] = {}
    for given in runs:
        variants.setdefault(_without_seed(given), given)
    return dict(zip(short_names([*variants]), variants.values(), strict=True))


def short_names(runs: Sequence[Overrides]) -> list[str]:
    """A name for each run: its model, and the settings that not all of them share."""
    shared = set.intersection(*map(set, runs))
    own = [[o for o in given if o.startswith("model=") or o not in shared] for given in runs]
    own = [sorted(given, key=lambda o: not o.startswith("model=")) for given in own]
    return [" ".join(given).removeprefix("model=") or f"run {i + 1}" for i, given in enumerate(own)]


def _without_seed(given: Overrides) -> tuple[str, ...]:
    return tuple(o for o in given if not o.startswith("seed="))


def _job_return(outcome: Outcome) -> JobReturn:
    returned = JobReturn(status=JobStatus.COMPLETED)
    returned.return_value = outcome.score
    return returned

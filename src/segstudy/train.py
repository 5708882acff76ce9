"""The Hydra entry point: check the command, lock the run's folder, train, and print errors."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from rich.markup import escape

from segstudy import entry, interruption
from segstudy.budget import apply_budget
from segstudy.build import refused_settings
from segstudy.config.check import check
from segstudy.config.compose import apply_overrides, register_resolvers, resolve_environment
from segstudy.config.overrides import check_overrides
from segstudy.config.paths import CONF
from segstudy.config.run_folder import claimed_folder
from segstudy.config.run_names import MACHINE_SETTINGS, changed_settings
from segstudy.console import (
    console,
    log_beside_others,
    print_error,
    print_line,
    print_warning,
    silence_warnings,
    tell_study,
)
from segstudy.errors import DamagedFile, SegstudyError, first_line
from segstudy.runs.checkpoints import starting_file
from segstudy.runs.record import Record, sealed
from segstudy.sweep import FAILED, PLANNED, STARTED, end_stopped_study, plan_mistakes, train_in_own_process
from segstudy.train_and_test import run, selection_score


def main() -> None:
    """`python train.py …` and `segstudy train …`."""
    register_resolvers()
    sys.path.insert(0, os.getcwd())  # for the user's own modules beside train.py
    silence_warnings()
    try:
        sys.argv[1:] = check_overrides(sys.argv[1:], further_checks=[refused_settings, plan_mistakes])
    except SegstudyError as error:
        print_error(error)
        sys.exit(2)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here; Hydra would print them and exit
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except Exception as error:
        if not STARTED:
            raise
        end_stopped_study(STARTED[0], error)


def task(cfg: DictConfig) -> float | None:
    """Train and test one run in the folder that the config names. A failed run does not stop a sweep.

    Returns what a search maximises: the validation mIoU of the tested checkpoint; None for a failed run.
    """
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    if interruption.place is not None:
        interruption.place = str(folder.parent if sweep else folder)
    tell_study("began", folder.name)
    total = f" of {len(PLANNED)}" if PLANNED else ""
    console.rule(f"[bold]{f'run {hydra_cfg.job.num + 1}{total}: ' if sweep else ''}{escape(folder.name)}")
    if sweep and cfg.trainer.devices != 1:
        train_in_own_process(hydra_cfg, folder)
        return selection_score(folder, cfg.checkpoint)
    threads = torch.get_num_threads()
    try:
        apply_overrides(cfg, hydra_cfg.overrides.task)
        resolve_environment(cfg)
        check(cfg, further_checks=[refused_settings, plan_mistakes])
        apply_budget(cfg, folder.parent)
        if cfg.start_from is not None:
            starting_file(Path(cfg.start_from))
        with claimed_folder(folder, cfg) as record:
            if record.status == "done":
                print_line(f"already done, in {os.path.relpath(folder.parent)}")
                test_again_if_damaged(folder, record, hydra_cfg.overrides.task)
            else:
                log_beside_others(folder)
                record.note(changes=changed_settings(hydra_cfg.runtime.choices["model"], hydra_cfg.overrides.task))
                if cfg.budget is not None:
                    record.note(budget={"time": cfg.budget, "steps": cfg.trainer.max_steps})
                run(cfg, folder, record)
        score = selection_score(folder, cfg.checkpoint)
        tell_study("ended", score)
        return score
    except Exception as error:
        if interruption.received:  # an error caused by an interruption (in a process group) is no failure of the run
            raise
        if isinstance(error, SegstudyError | MisconfigurationException):
            print_error(error)
        else:
            traceback.print_exc()
            tell_study("failed", f"{type(error).__name__}: {error}")
        if not sweep:
            sys.exit(1)
        FAILED.append(folder.name)
        return None
    finally:
        torch.set_num_threads(threads)  # a continued run sets those that it began with; the next run has its own


def test_again_if_damaged(folder: Path, record: Record, overrides: Sequence[str]) -> None:
    """Repeat the test of a finished run if a file of it has changed since; with the paths of this command."""
    try:
        for name in record.values.get("files", {}):
            if name.startswith("test/"):
                sealed(folder, name, record.values)
    except DamagedFile as error:
        from segstudy.inference.evaluate import retest

        print_warning(f"{first_line(error)}: the run is tested again")
        retest(folder, [o for o in overrides if o.startswith("data.") and MACHINE_SETTINGS.match(o)])


if __name__ == "__main__":
    entry.train()

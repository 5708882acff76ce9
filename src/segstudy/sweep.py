"""A study (-m): its check and notes before the first run, runs in processes of their own, and its end."""

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from segstudy import interruption
from segstudy.config.paths import CONF
from segstudy.config.run_names import changed_settings, run_name
from segstudy.console import INTERRUPTED, console, print_error
from segstudy.errors import ConfigError, SegstudyError, did_you_mean
from segstudy.files import read_text
from segstudy.runs.tables import print_study, records
from segstudy.study.analysis.plan import Plan, matching
from segstudy.study.results import variant_changes, variant_names

FAILED: list[str] = []
"""Names of the runs of this sweep that failed, for its last line and exit code."""

NOT_BY_TORCHRUN = """a study (-m) is not started by torchrun: each of its runs starts processes of its own
  → the same command without torchrun, with trainer=ddp; or torchrun for one run at a time"""


NO_SELECT_ROLE = """a search chooses by validation, which here is on the reported split: its result would be flattered
  → data.select_fraction=0.1, or data.val beside a data.test"""


def is_search(config: DictConfig) -> bool:
    """Whether a sweeper chooses the runs (hparams_search=…), not the command line."""
    return "BasicSweeper" not in (OmegaConf.select(config, "hydra.sweeper._target_") or "BasicSweeper")


def has_select_role(config: DictConfig) -> bool:
    """Whether a config's data sets images apart for choosing."""
    return bool(config.data.get("select_fraction") or (config.data.get("val") and config.data.get("test")))


def train_in_own_process(hydra_cfg: HydraConf, folder: Path) -> None:
    """Train one run of a sweep as a command of its own, for several devices.

    Lightning starts its other processes with the command line of this one: they would each begin the whole sweep.
    """
    overrides = [*hydra_cfg.overrides.task, f"hydra.run.dir='{folder}'", "hydra.mode=RUN"]
    interruption.place = None  # the run's process says it
    with subprocess.Popen([sys.executable, "-m", "segstudy.entry", *overrides]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ctrl-C reaches it too, a signal to this process alone does not
            process.wait()
            raise
    if code in INTERRUPTED:
        interruption.stop(code - 128)
    if code:
        FAILED.append(folder.name)


def plan_mistakes(cfg: DictConfig) -> list[str]:
    """What is wrong with the report section, a line each: for `check` and `check_overrides`, as a further check."""
    try:
        plan = Plan.of(OmegaConf.to_container(cfg.report))  # type: ignore[arg-type]
    except ConfigError as error:
        return [str(error)]
    return [mistake for side in plan.sides() for mistake in _mistaken_options(side)]


def _mistaken_options(side: str) -> list[str]:
    """Choices such as loss=dise in a side of the plan, which no run can make."""
    mistakes = []
    for group, option in re.findall(r"(?:^|[\s|])(\w+)=([^\s|]+)", side):
        options = [file.stem for file in (CONF / group).glob("*.yaml")]
        if options and option not in options:
            mistakes.append(f"report: no variant can be {side!r}: no {group}={option}{did_you_mean(option, options)}")
    return mistakes


def planned_variants(config: DictConfig) -> dict[str, list[str]]:
    """The variants that a sweep will train and that its folder holds already: their changes by their names."""
    swept = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*swept, *config.hydra.overrides.task])
    runs = dict(records(Path(config.hydra.sweep.dir)))
    for batch in BasicSweeper.split_arguments(overrides, None):
        for given in batch:
            model = next((o[6:] for o in given if o.startswith("model=")), config.hydra.runtime.choices["model"])
            runs |= {run_name(model, given): {"changes": changed_settings(model, given)}}
    names = variant_names(runs)
    return {names[run]: variant_changes(r["changes"]) for run, r in runs.items() if "changes" in r}


class Study(Callback):
    """Hydra's callback: before a sweep, what its plan will lack; at its end, the table of all runs and the report."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            print_error(ConfigError(NOT_BY_TORCHRUN))
            sys.exit(2)
        if is_search(config) and not has_select_role(config):
            print_error(ConfigError(NO_SELECT_ROLE))
            sys.exit(2)
        # Hydra writes this file next, and would follow a link.
        (Path(config.hydra.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
        if is_search(config):  # its variants are not known before
            return
        plan = Plan.of(OmegaConf.to_container(config.report))  # type: ignore[arg-type]
        variants = planned_variants(config) if plan.sides() else {}
        for side in plan.sides():
            if not matching(side, variants):
                console.print(
                    f"[yellow]report: no run of this study is {escape(repr(side))} ({escape(', '.join(variants))})",
                    soft_wrap=True,
                    highlight=False,
                )

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        interruption.place = str(folder)
        console.rule(f"[bold]study {folder.name}")
        # The runs of a search chose among themselves: they are listed, not compared.
        unfinished = print_study(folder, console) if is_search(config) else self._conclude(folder)
        if (best := folder / "optimization_results.yaml").is_file():
            console.print(f"best: {escape(read_text(best))}", highlight=False)
        console.print(
            f"next: make tensorboard RUNS={folder}; the same command continues what is unfinished", soft_wrap=True
        )
        if unfinished or FAILED:
            console.print(f"[red]failed or unfinished: {', '.join(sorted({*unfinished, *FAILED}))}", soft_wrap=True)
            sys.exit(1)  # Hydra itself would end with 0 here

    def _conclude(self, folder: Path) -> list[str]:
        """The study's tables and report. Hydra turns an exception of a callback into a warning: it ends here."""
        from segstudy.study.report.write import report_study  # a single run needs none of what a report is made with

        try:
            return report_study(folder, console)
        except Exception as error:
            if isinstance(error, SegstudyError):
                print_error(error)
            else:
                traceback.print_exc()
            failed = f"; failed: {', '.join(FAILED)}" if FAILED else ""
            console.print(
                f"[red]no report was written[/] (segstudy report {folder} writes it later){failed}", soft_wrap=True
            )
            sys.exit(1)

"""TODO"""

import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from segstudy import entry
from segstudy.config.run_folder import run_name
from segstudy.console import INTERRUPTED, console, print_error
from segstudy.errors import ConfigError, SegstudyError
from segstudy.runs.tables import records
from segstudy.study.analysis.plan import Plan, matching

FAILED: list[str] = []
"""Names of the runs of this sweep that failed, for its last line and exit code."""

NOT_BY_TORCHRUN = """a study (-m) is not started by torchrun: each of its runs starts processes of its own
  → the same command without torchrun, with trainer=ddp; or torchrun for one run at a time"""


def alone(hydra_cfg: HydraConf, folder: Path) -> None:
    """Train one run of a sweep over several devices as a command of its own: Lightning starts its other processes with
    the command line of this one, and they would each begin the whole sweep."""
    overrides = [*hydra_cfg.overrides.task, f"hydra.run.dir='{folder}'", "hydra.mode=RUN"]
    entry.place = None  # the run's process tells
    with subprocess.Popen([sys.executable, "-m", "segstudy.entry", *overrides]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ctrl-C reaches it too, a signal to this process alone does not
            process.wait()
            raise
    if code in INTERRUPTED:
        entry.stop(code - 128)
    if code:
        FAILED.append(folder.name)


def changes(model: str, overrides: Sequence[str]) -> list[str]:
    """What the command changed, model first, for the names of variants in tables."""
    keep = (o.lstrip("+~") for o in overrides)
    return [f"model={model}", *(o for o in keep if not o.startswith(("model=", "experiment=", "report.")))]


def planned(config: DictConfig) -> dict[str, list[str]]:
    """The variants that a sweep will train and that its folder holds already: their changes by their names."""
    from segstudy.study.results import variant_changes, variant_names

    swept = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*swept, *config.hydra.overrides.task])
    runs = dict(records(Path(config.hydra.sweep.dir)))
    for batch in BasicSweeper.split_arguments(overrides, None):
        for given in batch:
            model = next((o[6:] for o in given if o.startswith("model=")), config.hydra.runtime.choices["model"])
            runs |= {run_name(model, given): {"changes": changes(model, given)}}
    names = variant_names(runs)
    return {names[run]: variant_changes(r["changes"]) for run, r in runs.items() if "changes" in r}


class Study(Callback):
    """Hydra's callback: before a sweep, what its plan will lack; at its end, the table of all runs and the report."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            print_error(ConfigError(NOT_BY_TORCHRUN))
            sys.exit(2)
        # Hydra writes this file next, and would follow a link.
        (Path(config.hydra.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
        plan = Plan.of(OmegaConf.to_container(config.report))  # type: ignore[arg-type]
        variants = planned(config) if plan.sides() else {}
        for side in plan.sides():
            if not matching(side, variants):
                console.print(
                    f"[yellow]report: no run of this study is {escape(repr(side))} ({escape(', '.join(variants))})",
                    soft_wrap=True,
                    highlight=False,
                )

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        entry.place = str(folder)
        console.rule(f"[bold]study {folder.name}")
        unfinished = self._conclude(folder)
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

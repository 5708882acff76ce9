"""A study (-m): checks before the first run, runs in their own processes, and the report at the end."""

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from segstudy import interruption
from segstudy.config.overrides import quote
from segstudy.config.paths import CONF
from segstudy.config.run_names import changed_settings, run_folder_name
from segstudy.console import INTERRUPTED, console, print_error, print_line
from segstudy.errors import ConfigError, SegstudyError, did_you_mean, first_line
from segstudy.files import read_text
from segstudy.runs.tables import print_study, records
from segstudy.side_by_side import start_server
from segstudy.study.analysis.plan import Plan, matching
from segstudy.study.results import variant_changes, variant_names

FAILED: list[str] = []
"""Names of the failed runs of this sweep, for its last line and exit code."""

PLANNED: list[list[str]] = []
"""The overrides of each run of this sweep; empty for a search."""

STARTED: list[DictConfig] = []
"""The config of this process's sweep if another launcher than segstudy's trains its runs."""

NOT_BY_TORCHRUN = """torchrun cannot start a study (-m): each of its runs starts its own processes
  → the same command without torchrun, with trainer=ddp; or torchrun for one run at a time"""

NO_BUDGET = """budget is for a study whose variants the command lists, with hydra/launcher=segstudy: a search does not
know its variants beforehand, and other launchers do not time them
  → trainer.max_steps=N; for a search also hydra.sweeper.n_trials=N"""

NO_SELECT_ROLE = """a search chooses by validation mIoU, but here validation uses the reported split: the reported mIoU
would be too high
  → data.select_fraction=0.1, or both data.val and data.test"""


def is_search(config: DictConfig) -> bool:
    """Whether a search (hparams_search=…) chooses the runs, not the command line."""
    return "BasicSweeper" not in (OmegaConf.select(config, "hydra.sweeper._target_") or "BasicSweeper")


def has_own_launcher(config: DictConfig) -> bool:
    return str(OmegaConf.select(config, "hydra.launcher._target_")).endswith("SegstudyLauncher")


def sweep_mistake(config: DictConfig) -> str | None:
    """Why a sweep cannot begin; None if it can."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return NOT_BY_TORCHRUN
    if config.get("budget") and (is_search(config) or not has_own_launcher(config)):
        return NO_BUDGET
    if not is_search(config):
        return None
    selects = config.data.get("select_fraction") or (config.data.get("val") and config.data.get("test"))
    return None if selects else NO_SELECT_ROLE


def train_in_own_process(hydra_cfg: HydraConf, folder: Path) -> None:
    """Train one run of a sweep on several devices, in a process of its own.

    Lightning starts its further processes with this process's command line: each would start the whole sweep.
    """
    overrides = [*hydra_cfg.overrides.task, f"hydra.run.dir={quote(str(folder))}", "hydra.mode=RUN"]
    interruption.place = None  # the run's own process prints the line
    with subprocess.Popen([sys.executable, "-m", "segstudy.entry", *overrides]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ctrl-C reaches both processes, but a signal may have been sent to this one alone
            process.wait()
            raise
    if code in INTERRUPTED:
        interruption.stop(code - 128)
    if code:
        FAILED.append(folder.name)


def plan_mistakes(cfg: DictConfig, _: Sequence[str] = ()) -> list[str]:
    """Mistakes in the report section, a line each; a further check for `check` and `check_overrides`."""
    try:
        plan = Plan.of(OmegaConf.to_container(cfg.report))  # type: ignore[arg-type]
    except ConfigError as error:
        return [str(error)]
    return [mistake for side in plan.sides() for mistake in _mistaken_options(side)]


def _mistaken_options(side: str) -> list[str]:
    """A line for each choice in a side of the plan that does not exist, such as loss=dise."""
    mistakes = []
    for group, option in re.findall(r"(?:^|[\s|])(\w+)=([^\s|]+)", side):
        options = [file.stem for file in (CONF / group).glob("*.yaml")]
        if options and option not in options:
            mistakes.append(f"report: {side!r} matches no variant: no {group}={option}{did_you_mean(option, options)}")
    return mistakes


def planned_runs(config: DictConfig) -> list[list[str]]:
    """The overrides of each run that a sweep will train."""
    swept = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*swept, *config.hydra.overrides.task])
    return [list(given) for batch in BasicSweeper.split_arguments(overrides, None) for given in batch]


def planned_folders(config: DictConfig) -> list[tuple[str, str, list[str]]]:
    """(name of the folder, model, overrides) of each run that a sweep will train."""
    found = []
    for given in planned_runs(config):
        model = next((o[6:] for o in given if o.startswith("model=")), config.hydra.runtime.choices["model"])
        found.append((run_folder_name(config.hydra.sweep.dir, model, given), model, given))
    return found


def require_own_folders(folders: Sequence[tuple[str, str, list[str]]]) -> None:
    """Raise ConfigError if two runs of a sweep would have the same folder."""
    first: dict[str, list[str]] = {}
    for name, _, given in folders:
        one = first.setdefault(name, given)
        if sorted(one) != sorted(given):
            settings = " and ".join(", ".join(o for o in a if o not in b) for a, b in ((one, given), (given, one)))
            raise ConfigError(
                f"two runs would share the folder {name}: {settings}\n"
                "  a name holds the last part of each setting and path, and no setting of the machine\n"
                "  → rename the files, or train them as studies of their own: study=NAME"
            )


def planned_variants(config: DictConfig) -> dict[str, list[str]]:
    """The variants that a sweep will train, and those already in its folder: name → changes."""
    runs = dict(records(Path(config.hydra.sweep.dir)))
    for name, model, given in planned_folders(config):
        runs |= {name: {"changes": changed_settings(model, given)}}
    names = variant_names(runs)
    return {names[run]: variant_changes(r["changes"]) for run, r in runs.items() if "changes" in r}


def end_stopped_study(config: DictConfig, error: Exception) -> NoReturn:
    """End a study whose launcher failed, as joblib's does if a run is killed: the other runs are in their folders."""
    print_line(f"the launcher stopped: {type(error).__name__}: {first_line(error)}", "red")
    Study().on_multirun_end(config)
    sys.exit(1)


class Study(Callback):
    """Hydra callback: warns before a sweep if its plan names missing variants; prints the tables and writes the report
    at its end."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if mistake := sweep_mistake(config):
            print_error(ConfigError(mistake))
            sys.exit(2)
        if not has_own_launcher(config):
            STARTED.append(config)
        # Hydra writes this file next and would follow a symbolic link.
        (Path(config.hydra.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
        if is_search(config):  # its variants are not known beforehand
            return
        if config.get("budget"):
            start_server()  # Hydra now composes each run's config, which takes as long
        PLANNED[:] = planned_runs(config)
        if "${run_name:" in OmegaConf.to_yaml(config.hydra.sweep):  # else the user names the folders
            try:
                require_own_folders(planned_folders(config))
            except ConfigError as error:
                print_error(error)
                sys.exit(2)
        plan = Plan.of(OmegaConf.to_container(config.report))  # type: ignore[arg-type]
        variants = planned_variants(config) if plan.sides() else {}
        for side in plan.sides():
            if not matching(side, variants):
                print_line(f"report: {side!r} matches no run of this study ({', '.join(variants)})", "yellow")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        interruption.place = str(folder)
        console.rule(f"[bold]study {escape(folder.name)}")
        # A search selected among its own runs, so they are listed, not compared.
        unfinished = print_study(folder, console) if is_search(config) else self._report(folder)
        if (best := folder / "optimization_results.yaml").is_file():
            print_line(f"best: {read_text(best)}")
        curves = f"curves of all runs: tensorboard --logdir {folder}"
        if unfinished or FAILED:
            print_line(f"next: the same command continues unfinished runs; {curves}")
        elif not is_search(config):
            print_line(f"next: open {folder / 'report.html'} in a browser; {curves}")
        if unfinished or FAILED:
            print_line(f"failed or unfinished: {', '.join(sorted({*unfinished, *FAILED}))}", "red")
            sys.exit(1)  # Hydra would exit with 0

    def _report(self, folder: Path) -> list[str]:
        """Print the study's tables and write its report; returns the unfinished runs.

        Exits on an error: Hydra would turn an exception into a warning.
        """
        try:
            from segstudy.study.report.write import report_study  # slow imports that a single run does not need

            return report_study(folder)
        except Exception as error:
            if isinstance(error, SegstudyError):
                print_error(error)
            else:
                traceback.print_exc()
            failed = f"; failed: {', '.join(FAILED)}" if FAILED else ""
            print_line(f"no report was written (segstudy report {folder} writes it later){failed}", "red")
            sys.exit(1)

"""Hydra's launcher of a study: its runs one after another, or several at once, each in a process of its own.

Hydra looks for launchers in the namespace `hydra_plugins` alone, and imports this file at every start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn


@dataclass
class SegstudyLauncherConf:
    _target_: str = "hydra_plugins.segstudy_launcher.SegstudyLauncher"
    n_jobs: Any = "auto"


ConfigStore.instance().store("segstudy", SegstudyLauncherConf, group="hydra/launcher", provider="segstudy")


class SegstudyLauncher(BasicLauncher):
    """n_jobs: runs at once, a number or auto (`segstudy.side_by_side.choose_number`). 1: in this process."""

    def __init__(self, n_jobs: Any = "auto"):
        super().__init__()
        self.n_jobs = n_jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from segstudy.launch import Sweep, launch  # slow imports that other commands do not need

        sweep = Sweep(self.config, self.hydra_context, self.task_function)  # type: ignore[arg-type]  # `setup` is over
        return launch(sweep, self.n_jobs, job_overrides, initial_job_idx, super().launch)

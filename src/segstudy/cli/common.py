"""What several commands share: the console, the groups of `segstudy --help`, settings, and folders of runs."""

from pathlib import Path
from typing import Any

from rich.console import Console

BEFORE, USE, COMPARE = "Before training", "Use trained networks", "Compare"
"""Groups of commands in `segstudy --help`."""

console = Console()


def say(line: str, style: str | None = None) -> None:
    """Print a line as it is: names and paths in it are neither markup nor wrapped."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def config_of(overrides: list[str]) -> Any:
    """The checked config of settings such as model=v3. Raises ConfigError with every mistake."""
    from segstudy.config.compose import apply_overrides, compose_config
    from segstudy.config.overrides import check_overrides
    from segstudy.sweep import plan_mistakes

    cfg = compose_config(check_overrides(overrides, further_checks=[plan_mistakes]))
    apply_overrides(cfg, overrides)
    return cfg


def runs_and_settings(words: list[str]) -> tuple[list[Path], list[str]]:
    """The runs' folders among a command's words, and the settings. A run's name may have "=" in it, too."""
    settings = [word for word in words if "=" in word and not Path(word).is_dir()]
    return [Path(word) for word in words if word not in settings], settings

"""What several commands take: settings, folders of runs, options; and the groups of `segstudy --help`."""

from pathlib import Path
from typing import Any

BEFORE, USE, COMPARE = "Before training", "Use trained networks", "Compare"
"""Groups of commands in `segstudy --help`."""


def config_of(overrides: list[str]) -> Any:
    """The checked config of settings such as model=v3. Raises ConfigError with every mistake."""
    from segstudy.config.compose import apply_overrides, compose_config
    from segstudy.config.overrides import check_overrides
    from segstudy.sweep import plan_mistakes

    cfg = compose_config(check_overrides(overrides, further_checks=[plan_mistakes]))
    apply_overrides(cfg, overrides)
    return cfg


def runs_and_settings(words: list[str]) -> tuple[list[Path], list[str]]:
    """Split a command's words into folders of runs and settings. A folder's name may have "=" in it, too."""
    settings = [word for word in words if "=" in word and not Path(word).is_dir()]
    return [Path(word) for word in words if word not in settings], settings

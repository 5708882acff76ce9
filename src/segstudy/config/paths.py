"""The folder of the shipped configs."""

from pathlib import Path

_inside, _beside = Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf"

CONF = _inside if _inside.is_dir() else _beside
"""Inside the package if installed, beside `src` in a clone."""

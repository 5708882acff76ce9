"""Where the shipped configs are."""

from pathlib import Path

_inside, _beside = Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf"

CONF = _inside if _inside.is_dir() else _beside
"""The configs: inside an installed package, beside `src` in a clone."""

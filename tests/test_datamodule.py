"""What all data sets share: the settings of conf/data_common.yaml."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from segstudy.config.check import check_overrides
from segstudy.config.paths import CONF
from segstudy.errors import ConfigError

DATA_SETS = sorted(p.stem for p in (CONF / "data").glob("*.yaml"))


def test_the_common_settings_are_written_once() -> None:
    """A data set's file has only the common keys that it sets otherwise, and each key of either says what it is."""
    common = OmegaConf.load(CONF / "data_common.yaml")
    for name in DATA_SETS:
        own = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        assert [key for key in own if key in common and own[key] == common[key]] == []
    lines = (CONF / "data_common.yaml").read_text().splitlines()
    assert [line for line in lines if "#" not in line and "augment" not in line.lower() and "contrast" not in line] == [
        "batch_size: 16", "seed: ${seed}", "cache_dir: ${oc.env:SEGSTUDY_CACHE,'~/.cache/segstudy'}",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["base", "common", "data_common"])
def test_the_common_file_is_no_data_set(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data={name}: no such data .*{', '.join(DATA_SETS)}"):
        check_overrides([f"data={name}"])


def test_the_help_lists_the_data_sets_alone() -> None:
    train = Path(__file__).parents[1] / "train.py"
    text = subprocess.run([sys.executable, train, "--help"], capture_output=True, text=True, check=True).stdout
    assert f"\ndata: {', '.join(DATA_SETS)}\n" in text
    assert "data_common" not in text

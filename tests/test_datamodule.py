"""What all data sets share: the settings of conf/data_common.yaml."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from test_train import main_here

from segstudy.config.compose import compose_config
from segstudy.config.overrides import check_overrides
from segstudy.config.paths import CONF
from segstudy.data.datamodule import SegmentationData
from segstudy.data.datasets.scenes import Scenes
from segstudy.errors import ConfigError

DATA_SETS = sorted(p.stem for p in (CONF / "data").glob("*.yaml"))


def test_the_common_settings_are_written_once() -> None:
    """A data set's file has only the common keys that it sets otherwise, and each key of either says what it is."""
    common = OmegaConf.load(CONF / "data_common.yaml")
    for name in DATA_SETS:
        own = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        assert [key for key in own if key in common and own[key] == common[key]] == []
    lines = (CONF / "data_common.yaml").read_text().splitlines()
    plain = [line for line in lines if "#" not in line]
    assert all("augment" in line.lower() or "contrast" in line for line in plain)


@pytest.mark.parametrize("name", ["base", "common", "data_common"])
def test_the_common_file_is_no_data_set(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data={name}: no such data .*{', '.join(DATA_SETS)}"):
        check_overrides([f"data={name}"])


def test_the_help_lists_the_data_sets_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_here(tmp_path, monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert f"\ndata: {', '.join(DATA_SETS)}\n" in text
    assert "data_common" not in text


@pytest.mark.parametrize("name", DATA_SETS)
def test_from_python_a_data_set_is_as_in_the_config(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an argument's default is, data=NAME sets the same; with augment=None nothing is augmented."""
    monkeypatch.delenv("SEGSTUDY_CACHE")
    cfg = compose_config([f"data={name}"]).data
    kind = get_class(cfg["_target_"])
    arguments = {} if name == "scenes" else {"root": "photos"}
    data, configured = kind(**arguments), instantiate(cfg, **arguments)
    assert isinstance(data, SegmentationData)
    assert data.augment is not None
    assert vars(data.augment) == vars(configured.augment)
    attributes = {k: v for k, v in vars(data).items() if not k.startswith("_") and k not in ("augment", "trainer")}
    assert attributes == {k: vars(configured)[k] for k in attributes}
    assert {"fit", "batch_size", "select_fraction", "seed", "balanced"} <= attributes.keys()
    assert kind(**arguments, augment=None).augment is None


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_says_what_it_is(name: str) -> None:
    kind = get_class(compose_config([f"data={name}"]).data["_target_"])
    text = inspect.getdoc(kind) or ""
    assert [word for word in ("Classes: ", "Format: ", "No data: ") if word not in text] == []
    assert "Cite: " in text or name in ("scenes", "folder")
    assert kind.terms or name == "folder"
    taken = set(inspect.signature(kind.__init__).parameters) - {"self", "loading", "voc"}
    assert [argument for argument in taken if f"{argument}:" not in text and f"{argument}," not in text] == []


def test_select_is_defined_once() -> None:
    data = Scenes(train_images=8, val_images=4, select_fraction=0.25, size=32)
    data.test = "val"
    with pytest.raises(ConfigError, match=r"data\.val=val and data\.select_fraction=0\.25 both define `select`"):
        data.setup()

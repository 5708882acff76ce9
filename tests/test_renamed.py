"""Run folders of an earlier version: their configs name classes that are called otherwise today."""

from pathlib import Path

from omegaconf import OmegaConf

from segstudy.config.compose import compose_config
from segstudy.config.run_folder import read_config
from segstudy.config.run_names import differences
from segstudy.config.targets import RENAMED, locate, update_targets


def test_every_present_name_is_one() -> None:
    for name in RENAMED.values():
        assert callable(locate(name))


def test_a_folder_of_before_is_read_and_is_the_same_run(tmp_path: Path) -> None:
    cfg = compose_config(["augment=strong", "data=voc", "data.root=photos"])
    before = {new: old for old, new in RENAMED.items()}
    text = OmegaConf.to_yaml(cfg)
    for new, old in before.items():
        text = text.replace(f"_target_: {new}\n", f"_target_: {old}\n")
    assert "segstudy.data.voc.VOC" in text
    assert "segstudy.data.effects.Tint" in text
    (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path, ("data", "callbacks")).data._target_ == "segstudy.data.datasets.voc.VOC"
    old = OmegaConf.create(text)
    update_targets(old)
    assert differences(old, cfg) == []  # type: ignore[arg-type]

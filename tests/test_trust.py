"""Run folders from strangers: each kind of trap is one clear error, and nothing is executed, opened or written."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_run, save_record
from omegaconf import OmegaConf
from safetensors.torch import save_file

import segstudy
from segstudy import build
from segstudy.config.compose import compose_config, resolve_environment
from segstudy.config.run_folder import read_config
from segstudy.config.targets import locate
from segstudy.config.trust import foreign_resolvers, is_allowed, restrict_paths
from segstudy.errors import ConfigError
from segstudy.inference.evaluate import drop_own_callbacks
from segstudy.inference.loading import EvaluationSpec, evaluation_config, load_run, load_runs
from segstudy.networks.encoders import LibraryEncoder
from segstudy.runs.checkpoints import start_from

OPENED: list[str] = []
"""What Python opens while WATCHING[0]."""
WATCHING = [False]


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING[0] and event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(_note)  # for as long as the process lives: it does nothing unless asked


class Code:
    """What a hostile file holds: a call that is made when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "honest")


@pytest.fixture
def folder(honest: Path, tmp_path: Path) -> Path:
    """A copy to put traps into."""
    return Path(shutil.copytree(honest, tmp_path / "run"))


def change(folder: Path, **values: Any) -> None:
    """Write settings into a run's config, at the top."""
    cfg = OmegaConf.load(folder / "config.yaml")
    for key, value in values.items():
        cfg[key] = value
    OmegaConf.save(cfg, folder / "config.yaml")


def append(folder: Path, key: str, text: str) -> None:
    """Replace a group of a run's config by YAML as it is written."""
    cfg = OmegaConf.load(folder / "config.yaml")
    del cfg[key]
    (folder / "config.yaml").write_text(f"{OmegaConf.to_yaml(cfg)}\n{key}: {text}\n")


def refused(folder: Path, said: str, canary: Path) -> None:
    """Loading is refused with these words, in few lines, and nothing has happened."""
    with pytest.raises(ConfigError, match=said) as error:
        segstudy.load(folder)
    assert len(str(error.value).splitlines()) <= 4
    assert not canary.exists()


def test_an_honest_one_loads(honest: Path) -> None:
    assert segstudy.load(honest).classes == ["ground", "cat", "dog"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.mkdir", "is not part of segstudy"),
        ("builtins.eval", "is not part of segstudy"),
        ("segmentation_models_pytorch.from_pretrained", "is not part of segstudy"),
        ("segstudy.runs.record.subprocess.run", "cannot be imported"),  # a name inside a module of ours
        ("segstudy.build.instantiate", "cannot be built: wrong kind"),  # a function that a module of ours uses
        ("segstudy.networks.weights.urlopen", "cannot be built: wrong kind"),
        ("segstudy.data.download.fetch_archive", "cannot be built: wrong kind"),
        ("segstudy.cli.main.main", "cannot be built: wrong kind"),
        ("segstudy.cli.network.Path", "cannot be built: wrong kind"),  # a class, but no network
        ("segstudy.data.folder.datamodule.Folder", "cannot be built: wrong kind"),  # a data set where a network belongs
        ("lightning.pytorch.callbacks.ModelCheckpoint", "cannot be built: wrong kind"),
    ],
)
def test_a_part_that_is_none(target: str, said: str, folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    change(folder, bridge={"_target_": target, "path": str(canary)})
    refused(folder, said, canary)


@pytest.mark.parametrize(
    "text",
    [
        "{x: [{y: [{_target_: os.mkdir, path: CANARY}]}]}",  # deep in lists
        "'${oc.create:{_target_: os.mkdir, path: CANARY}}'",  # a part that interpolation makes
        "'${oc.decode:\"{_target_: os.mkdir, path: CANARY}\"}'",
        "{_target_: '${oc.decode:os.mkdir}', path: CANARY}",
        "{_target_: segstudy.networks.bridges.NoBridge, _partial_: true, _args_: [{_target_: os.mkdir, path: CANARY}]}",
        "'\\${oc.create:{_target_: os.mkdir, path: CANARY}}'",  # an interpolation that another one makes
    ],
)
def test_a_part_that_is_hidden(text: str, folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    append(folder, "bridge", text.replace("CANARY", str(canary)))
    refused(folder, r"os\.mkdir is not part of segstudy|asks for more than values", canary)


def test_the_environment_is_not_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "a key")
    for text in ("${oc.env:SECRET}", "a ${ oc.env:SECRET,x}", "${oc.decode:${oc.env:SECRET}}", "\\\\${oc.env:SECRET}"):
        change(folder, bridge={"note": [text]})
        refused(folder, r"asks for more than\s+values\n  bridge\.note\.0: ", tmp_path / "canary")


def test_a_run_keeps_the_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", "/photos/${x}")
    cfg = compose_config(["data=voc", "data.root='${oc.env:PHOTOS}/voc'"])
    resolve_environment(cfg)
    assert [*foreign_resolvers(OmegaConf.to_container(cfg))] == []
    assert cfg.data.root == "/photos/${x}/voc"


def test_a_strangers_run_starts_no_crowd_of_processes(folder: Path) -> None:
    data = OmegaConf.create({"workers": 4000, "cache_dir": "/somewhere"})
    restrict_paths(data)
    assert data.workers <= (os.cpu_count() or 1)


def test_yaml_that_is_more_than_values(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    append(folder, "bridge", f"!!python/object/apply:os.mkdir [{canary}]")
    refused(folder, r"config\.yaml is damaged: could not determine a constructor", canary)
    laughs = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    (folder / "config.yaml").write_text(f"a0: &a0 [ha]\n{laughs}\n")
    refused(folder, "aliases", canary)
    for text in ("", "- a\n- b\n", "a: [", "a: ${nowhere}", "\0"):
        (folder / "config.yaml").write_text(text)
        refused(folder, r"config\.yaml is damaged: ", canary)


@pytest.mark.parametrize("kind", ["torch", "pickle", "inside"])
def test_code_in_a_checkpoint(kind: str, folder: Path, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", folder / "checkpoints" / "last.ckpt"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Code(canary)))
    else:
        held = {"state_dict": {}, "callbacks": Code(canary)} if kind == "inside" else Code(canary)
        torch.save(held, file)
    refused(folder, r"is not a file of weights.*no code of it was run", canary)
    with pytest.raises(ConfigError, match="is not a file of weights"):
        start_from(torch.nn.Conv2d(1, 1, 1), file)
    assert not canary.exists()


def other_network(folder: Path) -> dict[str, torch.Tensor]:
    other = make_run(folder / "other", "encoder.widths=[4,8,8]", "bridge=aspp")
    return torch.load(other / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("make", [other_network, lambda _: {"state_dict": {}}, lambda _: {"a": torch.zeros(2)}])
def test_weights_of_another_network(make: Callable[[Path], Any], folder: Path, tmp_path: Path) -> None:
    torch.save(make(tmp_path), folder / "checkpoints" / "last.ckpt")
    refused(folder, r"does not fit this network:\n  (missing|unexpected): \d+, e\.g\. ", tmp_path / "canary")


@pytest.mark.parametrize("held", [[1, 2], {"state_dict": 3}, torch.zeros(2), {"a": "b"}])
def test_what_holds_no_weights(held: Any, folder: Path, tmp_path: Path) -> None:
    torch.save(held, folder / "checkpoints" / "last.ckpt")
    refused(folder, "holds no state dict", tmp_path / "canary")


def test_a_damaged_safetensors(folder: Path, tmp_path: Path) -> None:
    (folder / "checkpoints" / "last.ckpt").unlink()
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    refused(folder, "does not fit this network", tmp_path / "canary")
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    refused(folder, "is not a file of weights", tmp_path / "canary")


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", ["last"], 3])
def test_a_record_leads_to_no_other_file(name: Any, folder: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "secret.ckpt")
    record = json.loads((folder / "record.json").read_text())
    save_record(folder, record | {"checkpoint": name})
    refused(folder, "names a checkpoint|damaged: checkpoint: ", tmp_path / "canary")


def test_paths_in_a_config_are_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "weights.pth").write_bytes(pickle.dumps(Code(tmp_path / "canary")))
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.encoder.weights = str(outside / "weights.pth")
    cfg.start_from = str(outside / "weights.pth")
    written = str(outside / "written")
    cfg.data = {
        "_target_": "segstudy.data.folder.datamodule.Folder",
        "root": str(outside),
        "size": 32,
        "cache_dir": written,
    }
    cfg.runs_dir = written
    cfg.callbacks.last.dirpath = written
    OmegaConf.save(cfg, folder / "config.yaml")
    before = sorted(tmp_path.rglob("*"))
    OPENED.clear()
    WATCHING[0] = True
    try:
        segstudy.load(folder)
    finally:
        WATCHING[0] = False
    assert any(name.endswith("last.ckpt") for name in OPENED)  # it does watch
    assert not [name for name in OPENED if str(outside) in name]
    assert sorted(tmp_path.rglob("*")) == before


def test_testing_writes_and_downloads_only_where_this_machine_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGSTUDY_CACHE", str(tmp_path / "ours"))
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.data = compose_config(["data=pet"]).data
    cfg.data.update(root=str(tmp_path / "photos"), cache_dir=str(tmp_path / "theirs"), download=True, size=32)
    OmegaConf.save(cfg, folder / "config.yaml")
    members = load_runs([folder])
    data = evaluation_config(members, EvaluationSpec()).data
    assert (data.cache_dir, data.download) == (str(tmp_path / "ours"), False)
    data = evaluation_config(
        members, EvaluationSpec([f"data.cache_dir={tmp_path / 'mine'}", "data.download=true"])
    ).data
    assert (data.cache_dir, data.download) == (str(tmp_path / "mine"), True)


def test_ones_own_parts_need_ones_word(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGSTUDY_TRUST", "os")
    change(folder, bridge={"_target_": "os.mkdir", "_partial_": True})
    with pytest.raises(ConfigError):  # it is built now, and is no bridge
        load_run(folder)


def test_what_each_group_may_hold() -> None:
    for place, target in {
        "network.decoder": "segstudy.networks.decoders.PreactDecoder", "schedule": "segstudy.optim.cosine",
        "loss.terms.x": "torch.nn.CrossEntropyLoss", "optim.optimizer": "torch.optim.Adam",
        "data.augment.then.blur": "segstudy.data.transforms.color.Blur", "trainer": "lightning.Trainer",
        "callbacks.x": "lightning.pytorch.callbacks.EarlyStopping",
    }.items():  # fmt: skip
        assert is_allowed(place, locate(target))
        assert not is_allowed("schedule" if place != "schedule" else "loss", locate(target))


OWN = {
    "data": {"_target_": "my_parts.Coins", "root": "photos", "size": 32, "batch_size": 2, "cache_dir": "cache"},
    "loss": {"_target_": "my_parts.MyLoss"},
    "optim": {"optimizer": {"_target_": "my_parts.Mine", "_partial_": True}, "lr": 0.1, "encoder_lr": None},
    "schedule": {"_target_": "my_parts.slowly", "_partial_": True},
    "callbacks": {"mine": {"_target_": "my_parts.Bell"}},
}


@pytest.mark.parametrize("group", OWN)
def test_only_the_network_of_ones_own_needs_ones_word_to_predict(group: str, folder: Path) -> None:
    change(folder, **{group: OWN[group]})
    segstudy.load(folder)


@pytest.mark.parametrize("group", ["data", "trainer"])
def test_what_an_evaluation_builds_is_checked(group: str, folder: Path) -> None:
    change(folder, **{group: {**OmegaConf.load(folder / "config.yaml")[group], "_target_": "os.mkdir"}})
    members = load_runs([folder])
    with pytest.raises(ConfigError, match=rf"{group}\._target_=os\.mkdir is not part of segstudy"):
        evaluation_config(members, EvaluationSpec())


@pytest.mark.parametrize("group", ["data", "loss", "optim", "schedule", "trainer"])
def test_what_inspect_builds_is_checked(group: str, folder: Path) -> None:
    from segstudy.cli.network import open_training

    part = {"optimizer": {"_target_": "os.mkdir"}, "lr": 0.1, "encoder_lr": None} if group == "optim" else None
    change(folder, **{group: part or {**OmegaConf.load(folder / "config.yaml")[group], "_target_": "os.mkdir"}})
    with pytest.raises(ConfigError, match=rf"{group}.*=os\.mkdir is not part of segstudy"):
        open_training([str(folder)])


def test_a_reports_photos_are_of_data_that_is_checked(folder: Path) -> None:
    change(folder, data={**OmegaConf.load(folder / "config.yaml").data, "_target_": "os.mkdir"})
    with pytest.raises(ConfigError, match=r"data\._target_=os\.mkdir is not part of segstudy"):
        read_config(folder, ("data",))


def test_a_retest_builds_no_callback_that_measures_nothing() -> None:
    cfg = OmegaConf.create({
        "callbacks": {
            "mine": {"_target_": "my_parts.Bell"}, "off": {"_target_": "my_parts.Off", "enabled": False},
            "best": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "x", "mode": "neither"},
            "pictures": {"_target_": "segstudy.callbacks.pictures.Pictures", "count": 2},
        }
    })  # fmt: skip
    assert drop_own_callbacks(cfg) == "; without callbacks.mine (to use: SEGSTUDY_TRUST=my_parts)"
    assert list(cfg.callbacks) == ["best", "pictures"]
    names = [type(c).__name__ for c in build.testing_callbacks(cfg)]
    assert names == ["PerImageConfusion", "TestDiagnostics", "PerImageErrors", "Pictures"]


def test_an_encoder_may_load_weights_and_so_stands_only_where_networks_are() -> None:
    assert is_allowed("network.encoder", LibraryEncoder)
    assert not is_allowed("loss", LibraryEncoder)

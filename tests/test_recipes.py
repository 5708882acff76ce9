"""The recipes of CONTRIBUTING.md, walked through from outside the package."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_train import NO_PICTURES, train

from segstudy.build import build_data, build_module, build_start
from segstudy.config.check import check
from segstudy.config.compose import apply_overrides, compose_config
from segstudy.config.paths import CONF
from segstudy.data.datamodule import SegmentationData
from segstudy.errors import ConfigError
from segstudy.inference.loading import load_run
from segstudy.inspection.receptive_field import receptive_fields
from segstudy.networks.normalize import normalize_of
from segstudy.optim import parameter_groups

MY_LOSS = """
import torch
from segstudy.losses import Loss

class MyLoss(Loss):
    def __init__(self, power: float = 1.0):
        super().__init__()
        self.power = power

    def compute(self, logits, labels):
        return (1 - logits.softmax(1).gather(1, labels[:, None])).pow(self.power).mean()
"""

MY_NETWORK = """
import torch

class MyNetwork(torch.nn.Module):
    def __init__(self, num_classes: int, width: int = 4):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, width, 3, padding=1), torch.nn.Conv2d(width, num_classes, 1))

    def forward(self, image):
        return self.body(image)
"""

OTHER_ENCODER = """
import torch

class Mine(torch.nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.encoder.mean = "mine"
        self.model = "mine"
        self.head = torch.nn.Conv2d(4, num_classes, 1)

    def forward(self, image):
        return self.head(self.encoder(image))
"""

MY_DATA = """
from PIL import Image
import numpy as np
from pathlib import Path
from segstudy.data.datamodule import SegmentationData
from segstudy.data.images import Sample

class Coins(SegmentationData):
    classes = ("table", "coin")
    palette = ((0, 0, 0), (255, 200, 0))

    def __init__(self, root: str, **loading):
        super().__init__(**loading)
        self.root = Path(root)

    def samples(self, split):
        return [Sample(p.stem, p, p.with_suffix(".png")) for p in sorted((self.root / split).glob("*.jpg"))]
"""


def test_a_loss_and_a_network_of_ones_own_train_and_load_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_loss.py").write_text(MY_LOSS)
    (tmp_path / "my_network.py").write_text(MY_NETWORK)
    own = ["loss._target_=my_loss.MyLoss", "+loss.power=2", "network._target_=my_network.MyNetwork"]
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    assert train(folder, *own, NO_PICTURES, "trainer.max_epochs=1")["status"] == "done"
    with pytest.raises(ConfigError, match="SEGSTUDY_TRUST=my_"):
        load_run(folder)
    monkeypatch.setenv("SEGSTUDY_TRUST", "my_loss,my_network")
    network, _ = load_run(folder)
    assert type(network).__name__ == "MyNetwork"


def trained_batch(*overrides: str) -> tuple[torch.nn.Module, SegmentationData]:
    """The network of a config after a step of training, as build.py makes both, and its data."""
    own = ("data.size=32", "data.train_images=2", "data.val_images=2", "data.batch_size=2")
    cfg = compose_config([*own, *overrides])
    apply_overrides(cfg, overrides)
    check(cfg)
    data = build_data(cfg)
    network, origin, _ = build_start(cfg, data)
    assert origin == "random"
    module = build_module(cfg, network, data)
    before = {name: values.clone() for name, values in network.named_parameters()}
    optimizer = module.optimizer(parameter_groups(network, 0.1, 0.2))
    batch = data.on_after_batch_transfer(data.roles["fit"].__getitems__([0, 1]), 0)
    module.loss(module(batch["image"]), batch["mask"]).backward()
    optimizer.step()
    assert all(not torch.equal(values, before[name]) for name, values in network.named_parameters() if "weight" in name)
    return network, data


def test_an_encoder_written_as_contributing_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()
    written = text.split("An encoder of your own")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "my_encoder.py").write_text(written)
    monkeypatch.syspath_prepend(tmp_path)
    network, _ = trained_batch("encoder._target_=my_encoder.Coarse")
    assert type(network.encoder).__name__ == "Coarse"
    assert network.normalize.values() == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    groups = {g["name"]: len(g["params"]) for g in parameter_groups(network, 0.1, 0.2)}
    assert groups["encoder"] == 4
    field = receptive_fields(network)
    assert [(f.channels, f.stride) for f in field[:2]] == [(8, 1), (16, 2)]


def test_a_network_whose_encoder_is_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other_encoder.py").write_text(OTHER_ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    network, _ = trained_batch("network._target_=other_encoder.Mine")
    assert normalize_of(network) is None
    assert receptive_fields(network)[-1].extent == 3


def test_a_data_set_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from conftest import save_mask
    from PIL import Image

    (tmp_path / "my_data.py").write_text(MY_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for i in range(4):
            Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(tmp_path / split / f"{i}.jpg")
            save_mask(np.eye(20), tmp_path / split / f"{i}.png")
    settings = {"_target_": "my_data.Coins", "root": str(tmp_path), "size": 16, "batch_size": 2}
    data = instantiate(OmegaConf.create(settings | {"cache_dir": str(tmp_path / "cache")}))
    data.setup()
    assert len(data.roles["fit"]) == 4
    assert data.pixels()[1] > 0


def test_a_model_and_an_experiment_are_only_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()
    model = text.split("```yaml\n")[1].split("```")[0]
    conf = tmp_path / "conf"
    for file in CONF.rglob("*.yaml"):
        target = conf / file.relative_to(CONF)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())
    (conf / "model" / "mine.yaml").write_text(model)
    (conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mine\nseed: 7\n"
    )
    monkeypatch.setattr("segstudy.config.compose.CONF", conf)
    cfg = compose_config(["experiment=mine"])
    check(cfg)
    assert cfg.encoder.name == "resnet34"
    assert cfg.loss.terms.keys() == {"ce", "dice"}
    assert cfg.seed == 7
    assert compose_config(["experiment=mine", "loss=focal"]).loss._target_ == "segstudy.losses.Focal"


def test_the_commands_of_the_readme_are_good_ones() -> None:
    """Every `python train.py …` in README and CONTRIBUTING passes the check of the command line."""
    from segstudy.config.overrides import check_overrides

    root = Path(__file__).parents[1]
    text = (root / "README.md").read_text() + (CONF / "config.yaml").read_text()
    commands = [line.strip().removeprefix("$ ") for line in text.splitlines() if "python train.py" in line]
    tried = 0
    for line in commands:
        words = line.split("python train.py", 1)[1].split("`")[0].split("    ")[0].split("#")[0].split()
        overrides = [w.strip("'\"") for w in words if "=" in w and not w.startswith("-") and "GROUP" not in w]
        if overrides and not any("my_" in o for o in overrides):
            check_overrides(overrides)
            tried += 1
    assert tried >= 6
    for path in ("results", "CONTRIBUTING.md"):
        assert (root / path).exists()
    assert len(Path(root / "README.md").read_text().splitlines()) < 200

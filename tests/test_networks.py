"""Networks: parameter counts, any image size, gradients everywhere, and V1 written a second time."""

import functools

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.build import build_network
from segstudy.config.compose import register_resolvers
from segstudy.config.paths import CONF
from segstudy.errors import ConfigError
from segstudy.networks.bridges import ASPP
from segstudy.networks.decoders import smp_decoders
from segstudy.networks.encoders import LibraryEncoder
from segstudy.networks.smp import SMPNetwork, architectures

SMALL = ("encoder=double_conv", "encoder.widths=[4,8,8]")
"""A plain encoder that costs nothing."""


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def built(*overrides: str, classes: int = 5) -> nn.Module:
    return build_network(composed(*overrides), classes, load_weights=False)[0]


@functools.cache
def names(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# What is shipped


@pytest.mark.parametrize(
    ("model", "parameters"), [("v1", 2_686_613), ("v2", 2_686_613), ("v3", 4_917_909), ("v4", 33_012_949)]
)
def test_the_studys_parameter_counts(model: str, parameters: int) -> None:
    assert count(built(f"model={model}", classes=21)) == parameters


def check_sizes(network: nn.Module, sizes: tuple = ((70, 95), (33, 47)), classes: int = 5) -> None:
    network.eval()
    for size in sizes:
        with torch.no_grad():
            logits = network(torch.randn(1, 3, *size))
        assert logits.shape == (1, classes, *size)
        assert logits.isfinite().all()
        assert logits.std() > 0


def silent(network: nn.Module) -> list[str]:
    """The parameters that no gradient reaches from a training step on two images."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    network.train()
    logits = network(torch.randn(2, 3, 39, 61))
    (logits * torch.randn_like(logits)).sum().backward()
    return [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def learns(network: nn.Module, allowed: tuple[str, ...] = ()) -> None:
    assert [name for name in silent(network) if not name.startswith(allowed)] == []


RESNET = ["encoder.name=resnet18"]
THIN_MODEL = {
    "v4": [],
    "v4_lite": [],
    "v4_random": [],
    "v4_no_aspp": [],
    "v1_imagenet": [],
    "resnet_unet": RESNET,
    "smp_unet": RESNET,
    "strong": ["encoder.name=tu-convnext_atto"],
}


@pytest.mark.parametrize("model", names("model"))
def test_every_model(model: str) -> None:
    two = model.startswith("pet_")
    network = built(f"model={model}", *THIN_MODEL.get(model, ["encoder.widths=[4,6,8,10,12]"]), classes=2 if two else 5)
    check_sizes(network, classes=1 if two else 5)
    learns(network, ("auxiliary.",))  # that head is asked for by the training step alone


ENCODERS = {name: (f"encoder={name}",) for name in names("encoder")}
ENCODERS["library"] = ("encoder=library", "encoder.name=tu-convnext_atto")
ENCODERS["preact"] += ("encoder.widths=[4,6,8,10,12]",)
ENCODERS["double_conv"] += ("encoder.widths=[4,6,8,10,12]",)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_every_encoder(encoder: tuple[str, ...]) -> None:
    network = built("decoder=preact", "decoder.widths=[8,8,8,8]", *encoder)
    maps = network.encoder(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == network.encoder.channels
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in network.encoder.strides]
    check_sizes(network, ((33, 47),))
    # smp leaves efficientnet's last 1×1 convolution in the encoder, after the last map.
    learns(network, ("encoder.body._conv_head", "encoder.body._bn1") if "encoder=efficientnet_b0" in encoder else ())


@pytest.mark.parametrize("bridge", names("bridge"))
@pytest.mark.parametrize("model", ["v1", "unet"])
def test_every_bridge(bridge: str, model: str) -> None:
    network = built(f"model={model}", f"bridge={bridge}", "encoder.widths=[4,8,8]")
    check_sizes(network)
    learns(network)


PYRAMIDS = {
    "from stride 1": ("encoder=preact", "encoder.widths=[16,16,32,32,32]"),
    "from stride 2": ("encoder=library", "encoder.name=tu-mobilenetv3_small_050"),
    "from stride 4": ("encoder=mit_b0",),
}


@pytest.mark.parametrize("decoder", names("decoder"))
@pytest.mark.parametrize("encoder", PYRAMIDS.values(), ids=PYRAMIDS)
def test_every_decoder(decoder: str, encoder: tuple[str, ...]) -> None:
    network = built(*encoder, f"decoder={decoder}", "bridge=none", "head=conv_1x1")
    check_sizes(network, ((33, 47),))
    if decoder == "manet":  # its squeezed branches have one or two channels, whose ReLU may be off in one batch
        assert [name for name in silent(network) if ".SE_" not in name] == []
    else:
        learns(network)


def test_every_library_decoder_has_a_file() -> None:
    assert set(smp_decoders()) <= set(names("decoder"))


@pytest.mark.parametrize("up", ["transpose", "nearest", "bilinear"])
@pytest.mark.parametrize("down", ["maxpool", "strided"])
def test_double_conv_switches(up: str, down: str) -> None:
    network = built("model=unet", "encoder.widths=[4,8,8]", f"encoder.down={down}", f"decoder.up={up}")
    check_sizes(network)
    learns(network)


LISTED = (CONF / "network" / "smp.yaml").read_text().split("arch: Unet")[1].split("#")[1].strip().split(", ")


def test_the_listed_architectures_are_those_there_are() -> None:
    assert sorted(LISTED) == sorted(architectures().values())


@pytest.mark.parametrize("arch", LISTED)
def test_every_listed_architecture_is_built(arch: str) -> None:
    with torch.device("meta"):  # shapes alone: quick
        network = SMPNetwork(3, LibraryEncoder("resnet18", weights=None), arch).eval()
        assert network(torch.zeros(1, 3, 128, 160)).shape == (1, 3, 128, 160)


@pytest.mark.parametrize("arch", ["Unet", "FPN", "Linknet", "DeepLabV3Plus", "PSPNet", "Segformer", "UPerNet"])
def test_whole_architectures(arch: str) -> None:
    network = built("network=smp", f"network.arch={arch}", "encoder=resnet18")
    assert len(list(network.encoder.parameters())) > 0
    check_sizes(network, ((33, 47),))
    # PSPNet ends at stride 8: the deeper layers are the library's, and nothing reads them.
    learns(network, ("model.encoder.layer3", "model.encoder.layer4") if arch == "PSPNet" else ())


def test_pan_from_128_pixels_on() -> None:
    # Its pyramid halves the map of stride 16 three times, so that it has a smallest size; the library's own limit.
    check_sizes(built("network=smp", "network.arch=PAN", "encoder=resnet18"), ((97, 128),))


# What is refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network=smp"], r"network=smp needs a library encoder: add encoder=resnet34"),
        (["encoder=resnet18", "decoder=unet", "+decoder.colour=1"], r"decoder.name=unet has no option colour; it has "),
        (
            [*SMALL, "decoder=double_conv", "decoder.widths=[8]"],
            r"decoder.widths has 1 entries, the encoder has 2 skips",
        ),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(*overrides)


# ASPP


def test_aspp_trains_on_a_batch_of_one() -> None:
    bridge = ASPP(8, rates=(2,)).train()
    before = bridge.pooled[1].running_mean.clone()
    out = bridge(torch.randn(1, 8, 6, 6))
    out.sum().backward()
    assert out.isfinite().all()
    assert torch.equal(bridge.pooled[1].running_mean, before)  # one value says nothing of a variance
    assert not torch.equal(bridge.branches[0][1].running_mean, torch.zeros(8))
    bridge(torch.randn(2, 8, 6, 6))
    assert not torch.equal(bridge.pooled[1].running_mean, before)


def test_a_network_with_aspp_trains_on_one_image() -> None:
    network = built("model=v3", "encoder.widths=[4,8,8]").train()
    network(torch.randn(1, 3, 32, 32)).sum().backward()
    assert network.bridge.pooled[0].weight.grad is not None


def test_aspp_branches_by_hand() -> None:
    bridge = ASPP(4, channels=6, rates=(2, 4, 8)).eval()
    assert [b[0].dilation[0] for b in bridge.branches] == [1, 2, 4, 8]
    assert [b[0].kernel_size[0] for b in bridge.branches] == [1, 3, 3, 3]
    x = torch.randn(2, 4, 9, 11)
    with torch.no_grad():
        pooled = bridge.pooled(F.adaptive_avg_pool2d(x, 1))
        parts = [F.relu(branch[1](branch[0](x))) for branch in bridge.branches] + [F.interpolate(pooled, x.shape[2:])]
        assert torch.allclose(bridge(x), F.relu(bridge.fuse[1](bridge.fuse[0](torch.cat(parts, 1)))), atol=1e-6)


# V1 a second time, from the study's description


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def resize(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.resize(F.elu(self.norm2(self.conv1(F.elu(self.norm1(x)))))))


class Up(Down):
    def resize(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class StudyUNet(nn.Module):
    """The own U-Net of the study, block by block as it is described."""

    def __init__(self, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.downs = nn.ModuleList([Down(64, 64), Down(64, 128), Down(128, 128), Down(128, 256)])
        self.ups = nn.ModuleList([Up(256, 128), Up(256, 128), Up(256, 64), Up(128, 64)])
        self.last = nn.Conv2d(128, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        skips = [self.stem(image)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.ups:
            x = torch.cat([up(x), skips.pop()], 1)
        return self.last(F.elu(x))


def parts(network: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.BatchNorm2d)) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, kinds)]


def test_v1_equals_the_studys_description() -> None:
    v1, again = built("model=v1", classes=21), StudyUNet(21)
    assert count(v1) == count(again)
    for kind in (nn.Conv2d, nn.BatchNorm2d):  # both list their layers in the order of the data
        for mine, its in zip(parts(again, (kind,)), parts(v1, (kind,)), strict=True):
            mine.load_state_dict(its.state_dict())
    image = torch.randn(2, 3, 32, 48)
    for mode in (False, True):
        v1.train(mode)
        again.train(mode)
        with torch.no_grad():
            assert torch.allclose(v1(image), again(v1.normalize(image)), atol=1e-4)


def test_v3_is_v1_with_aspp_between() -> None:
    v1, v3 = built("model=v1"), built("model=v3")
    assert isinstance(v3.bridge, ASPP)
    assert count(v3) - count(v1) == count(v3.bridge)
    assert [str(m) for m in parts(v3.decoder)] == [str(m) for m in parts(v1.decoder)]


def test_padding_is_cropped_on_the_right_side() -> None:
    network = built("model=v1", "encoder.widths=[4,8]").eval()
    image = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        mean = network.normalize.mean  # what is padded is the normalised image, with 0
        whole = network(F.pad(image - mean, (0, 1, 0, 1)) + mean)
        assert torch.allclose(network(image), whole[:, :, :33, :47], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outside_of_training_no_two_classes_tie_in_half_precision(dtype: torch.dtype) -> None:
    network = built(*SMALL, classes=8)
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tied = {}
    for training in (True, False):
        network.eval().training = training  # the layers stay as they are: only the head's precision may differ
        with torch.no_grad(), torch.autocast("cpu", dtype):
            logits = network(image)
        assert logits.dtype == (dtype if training else torch.float32)
        best = logits.float().topk(2, 1).values
        tied[training] = (best[:, 0] == best[:, 1]).sum().item()
    assert tied[True] > 0
    assert tied[False] == 0

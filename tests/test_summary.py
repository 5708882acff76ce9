"""What a network is made of: hand-worked FLOP and receptive fields, the study's figures, everything shipped drawn."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from segstudy.build import build_network
from segstudy.cli.main import app
from segstudy.config.compose import compose_config
from segstudy.config.paths import CONF
from segstudy.errors import ConfigError
from segstudy.inspection.diagram import draw
from segstudy.inspection.receptive_field import effective_receptive_field, field_side, receptive_fields
from segstudy.inspection.summary import PUBLISHED, describe, trace_architecture

THIN = ["encoder.widths=[4,4,4,4,4]", "decoder.widths=[4,4,4,4]"]


def built(*overrides: str, classes: int = 3) -> nn.Module:
    return build_network(compose_config(list(overrides)), classes, load_weights=False)[0]


def conv(kernel: int, stride: int = 1, dilation: int = 1, channels: int = 3) -> nn.Conv2d:
    return nn.Conv2d(3, channels, kernel, stride, dilation * (kernel // 2), dilation)


# Layers


def test_flop_by_hand() -> None:
    network = nn.Sequential(conv(3, channels=8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Flatten(2))
    network.append(nn.Linear(16 * 24, 5))
    whole, first, relu, up, flat, linear = describe(network, 8, 12)
    assert first.flop == 2 * 3 * 8 * 9 * 8 * 12  # multiply and add counted apart
    assert up.flop == 2 * 8 * 4 * 2 * 2 * 8 * 12  # each input pixel makes 2×2
    assert linear.flop == 2 * 4 * 384 * 5
    assert relu.flop == flat.flop == 0
    assert whole.flop == first.flop + up.flop + linear.flop
    assert first.parameters == 3 * 8 * 9 + 8
    assert (first.shape, up.shape, linear.shape) == ((8, 8, 12), (4, 16, 24), (4, 5))
    assert (whole.depth, first.depth) == (0, 1)


def test_a_layer_that_runs_twice_counts_twice_and_a_list_holds_its_members() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([conv(1), conv(3)])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](self.layers[0](x))

    layers = {layer.name: layer for layer in describe(Twice(), 4, 4)}
    assert layers["layers.0"].flop == 2 * (2 * 3 * 3 * 16)
    assert layers["layers.1"].flop == 0
    assert layers["layers.1"].shape is None
    assert layers["layers"].flop == layers[""].flop == layers["layers.0"].flop


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_studys_figures(model: str) -> None:
    whole = describe(built(f"model={model}", classes=21), 256, 256)[0]
    assert (whole.parameters, round(whole.flop / 1e9, 1)) == PUBLISHED[model]


def test_the_network_is_left_as_it_is() -> None:
    network = built("model=v3", *THIN).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    describe(network, 32, 32)
    trace_architecture(network, 32, 32)
    receptive_fields(network)
    assert network.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


# Receptive fields


@pytest.mark.parametrize(
    ("layers", "extent", "stride"),
    [
        ([conv(3)], 3, 1),
        ([conv(3), conv(3)], 5, 1),
        ([conv(3), nn.MaxPool2d(2), conv(3)], 8, 2),  # 3, + 1 of the pool, + 2 at stride 2
        ([conv(3, dilation=4)], 9, 1),
        ([nn.Conv2d(3, 6, 3, padding="same", groups=3), nn.Conv2d(6, 3, 5, padding=2)], 7, 1),
        ([conv(3, stride=2), conv(3, stride=2), conv(3)], 3 + 2 * 2 + 2 * 4, 4),
        ([conv(7, stride=2), nn.MaxPool2d(3, 2, 1)], 7 + 2 * 2, 4),
        ([conv(3), nn.BatchNorm2d(3), nn.ReLU(), nn.ELU(), nn.Sigmoid(), conv(3)], 5, 1),
        ([nn.MaxPool2d(2), conv(3), nn.Upsample(scale_factor=2)], 6, 1),
    ],
)
def test_receptive_fields_by_hand(layers: list[nn.Module], extent: int, stride: int) -> None:
    for layer in layers:  # weights must not matter
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, -1.0)
    (field,) = receptive_fields(nn.Sequential(*layers))
    assert (field.extent, field.local, field.stride) == (extent, extent, stride)
    assert field.text() == f"{extent} px"


class OneSize(nn.Sequential):
    """Two 3×3 convolutions, the first of them strided, that take images of 24×24 alone."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.Conv2d(2, 2, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[2:] == (24, 24), "not 24×24"
        return super().forward(image)


def test_a_network_of_one_size_is_measured_at_it() -> None:
    (field,) = receptive_fields(OneSize(), (24, 24))
    assert (field.extent, field.local, field.stride) == (3 + 2 * 2, 7, 2)
    with pytest.raises(AssertionError, match="not 24×24"):
        receptive_fields(OneSize())
    wide = nn.Sequential(OneSize(), nn.Conv2d(2, 2, 21, padding=10))
    assert receptive_fields(wide, (24, 24))[0].text() == "24 px or more"


class Squeezed(nn.Module):
    """A mean of 3×3 and one of all."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, 1, 1) + x.mean((2, 3), keepdim=True)


def test_global_pooling_sees_the_whole_image_and_is_told_apart() -> None:
    (field,) = receptive_fields(Squeezed())
    assert (field.extent, field.local, field.text()) == (None, 3, "whole image")


def test_v1_by_the_formula() -> None:
    # conv3 of the stem; then each block adds conv3 (2 rows of its stride), pool (1 row), conv3 at the doubled stride.
    expected, stride = [3], 1
    for _ in range(4):
        expected.append(expected[-1] + 2 * stride + stride + 2 * 2 * stride)
        stride *= 2
    fields = receptive_fields(built("model=v1", *THIN))
    assert [f.extent for f in fields[:-1]] == expected
    assert [f.stride for f in fields] == [1, 2, 4, 8, 16, 1]


# The U


def test_the_u_of_v3() -> None:
    drawn = trace_architecture(built("model=v3", classes=21), 64, 96)
    assert [(s.part, s.channels, s.height) for s in drawn.stages] == [
        ("image", 3, 64),
        *(("encoder", c, 64 // 2**i) for i, c in enumerate([64, 64, 128, 128, 256])),
        ("bridge", 256, 4),
        *(("decoder", c, 8 * 2**i) for i, c in enumerate([128, 128, 64, 64])),
        ("logits", 21, 64),
    ]
    assert all(s.width * 2 == s.height * 3 for s in drawn.stages)
    assert drawn.skips == [(1, 10), (2, 9), (3, 8), (4, 7)]


def test_only_maps_that_are_read_are_skips() -> None:
    # DeepLabV3+ reads one finer map, at stride 4.
    drawn = trace_architecture(built("network=smp", "network.arch=DeepLabV3Plus", "encoder=resnet18"), 64, 64)
    ((start, end),) = drawn.skips
    assert (drawn.stages[start].part, drawn.stages[start].height) == ("encoder", 16)
    assert (drawn.stages[end].part, drawn.stages[end].height) == ("decoder", 16)


def test_a_network_of_other_parts_is_not_drawn() -> None:
    with pytest.raises(ConfigError, match="Sequential has no part called encoder or decoder, found 0"):
        trace_architecture(nn.Sequential(conv(3)), 32, 32)


SHIPPED = {f"model={p.stem}": [f"model={p.stem}"] for p in sorted((CONF / "model").glob("*.yaml"))}
SHIPPED |= {
    f"decoder={p.stem}": ["encoder=resnet18", f"decoder={p.stem}"] for p in sorted((CONF / "decoder").glob("*.yaml"))
}
SHIPPED |= {f"encoder={name}": [f"encoder={name}"] for name in ("mit_b0", "mobilenet_v2", "efficientnet_b0")}
SHIPPED["network=smp"] = ["network=smp", "encoder=resnet18"]


@pytest.mark.parametrize("overrides", SHIPPED.values(), ids=SHIPPED)
def test_everything_shipped_is_described_and_drawn(overrides: list[str]) -> None:
    two = overrides[0].startswith("model=pet_")
    network = built(*overrides, classes=2) if two else built(*overrides)
    layers = describe(network, 64, 64)
    parts = [layer for layer in layers if layer.depth == 1]
    assert layers[0].flop == sum(part.flop for part in parts) > 0
    assert layers[0].shape == (1 if two else 3, 64, 64)
    drawn = trace_architecture(network, 64, 64)
    assert drawn.stages[-1].channels == (1 if two else 3)
    assert len(drawn.skips) >= 2
    figure = draw(drawn, "a title")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert all(str(s.channels) in words and f"{s.height}×{s.width}" in words for s in drawn.stages)


# The command


def test_the_command_needs_no_data(tmp_path: Path) -> None:
    out = tmp_path / "network.svg"
    given = ["network", "model=v1", "data=voc", *THIN, "--size", "64", "--depth", "1", "--out", str(out)]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0
    assert "64×64, 21 classes" in done.output
    assert "receptive field" in done.output
    assert "encoder.stem" not in done.output
    assert "published" not in done.output  # the command has changed V1
    assert "<svg" in out.read_text()


def test_the_command_names_mistakes() -> None:
    with pytest.raises(ConfigError, match="no such model"):
        CliRunner().invoke(app, ["network", "model=v9"], catch_exceptions=False)


# Effective receptive fields


def flat(kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A convolution whose class 1 is the sum of its window, the others 0."""
    layer = conv(kernel, stride, dilation)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    nn.init.ones_(layer.weight[1])
    return layer


def test_the_effective_field_of_one_convolution_is_its_window() -> None:
    gradient = effective_receptive_field(flat(3), torch.rand(2, 3, 16, 20))
    assert gradient.shape == (16, 20)
    assert gradient.nonzero().aminmax(dim=0).min.tolist() == [7, 9]
    assert gradient.nonzero().aminmax(dim=0).max.tolist() == [9, 11]
    assert field_side(gradient) == 3
    assert field_side(effective_receptive_field(flat(3, dilation=4), torch.rand(1, 3, 16, 16))) == 3  # nine pixels


def test_the_effective_field_of_a_stack_is_smaller_than_the_theoretical_one() -> None:
    layers = [flat(3) for _ in range(6)]
    gradient = effective_receptive_field(nn.Sequential(*layers), torch.rand(1, 3, 40, 40))
    assert (gradient > 0).sum() == 13**2
    assert 6 < field_side(gradient) < 13
    assert field_side(gradient, 0.5) < field_side(gradient)


def test_a_mean_over_the_batch_of_what_counts_for_the_predicted_class() -> None:
    network, image = flat(1), torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 3, 5, 5)
    # Predicted are class 1 (its logit less a third of itself) and class 0 (nothing less a third of class 1's).
    assert effective_receptive_field(network, image)[2, 2] == pytest.approx(3 * (2 / 3 + 1 / 3) / 2)
    single = nn.Conv2d(3, 1, 3, padding=1)
    whole = effective_receptive_field(single, torch.rand(1, 3, 9, 9)).sum().item()
    assert whole == pytest.approx(single.weight.abs().sum().item())


def test_an_effective_field_leaves_the_network_as_it_is_and_works_in_a_test() -> None:
    network = nn.Sequential(conv(3), nn.BatchNorm2d(3), nn.ReLU(), conv(3)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        gradient = effective_receptive_field(network, torch.rand(2, 3, 16, 16))
    assert gradient.dtype == torch.float32
    assert 1 < field_side(gradient) <= 5
    assert all(p.grad is None for p in network.parameters())
    assert field_side(torch.zeros(4, 4)) != field_side(torch.zeros(4, 4))  # NaN

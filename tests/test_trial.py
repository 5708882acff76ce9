"""What a network cannot be trained with is said before the first step."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from segstudy.build import build_network
from segstudy.config.compose import compose_config
from segstudy.errors import ConfigError
from segstudy.inspection.trial import check_trains

CPU = torch.device("cpu")


def test_a_size_that_the_network_cannot_take_is_named_with_one_that_it_can() -> None:
    cfg = compose_config(["model=smp_unet", "network.arch=PAN", "encoder=resnet18", "encoder.weights=null"])
    network, _ = build_network(cfg, 3)
    with pytest.raises(ConfigError) as error:
        check_trains(network, 2, (64, 64), CPU, nullcontext())
    assert "PAN cannot be trained with data.batch_size=2 data.size=[64, 64]: Given input size" in str(error.value)
    assert str(error.value).endswith("→ data.batch_size=2 data.size=[128, 128]")
    check_trains(network, 2, (128, 128), CPU, nullcontext())


def test_a_batch_of_one_value_a_channel_is_named() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with pytest.raises(ConfigError, match=r"Sequential cannot .*: Expected more than 1 value(?s:.*)data.batch_size=2 "):
        check_trains(network, 1, (8, 8), CPU, nullcontext())


class NeedsValues(nn.Module):
    """A network that torch cannot run without values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, image: Tensor) -> Tensor:
        assert image.sum().item() == 0
        return self.norm(self.layer(image))


def test_a_network_that_needs_values_is_tried_with_them_and_left_as_it_is() -> None:
    network = NeedsValues().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    check_trains(network, 2, (8, 8), CPU, nullcontext())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    assert all(p.grad is None for p in network.parameters())

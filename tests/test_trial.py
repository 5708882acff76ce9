"""What a network cannot be trained with is said before the first step."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from segstudy.build import build_network
from segstudy.config.compose import compose_config
from segstudy.data.transforms.augment import Augment
from segstudy.errors import ConfigError
from segstudy.inspection.trial import check_evaluates, check_trains

CPU = torch.device("cpu")


def test_a_size_that_the_network_cannot_take_is_named_with_one_that_it_can() -> None:
    cfg = compose_config(["model=smp_unet", "network.arch=PAN", "encoder=resnet18", "encoder.weights=null"])
    network, _ = build_network(cfg, 3)
    with pytest.raises(ConfigError) as error:
        check_trains(network, 2, (64, 64), CPU, nullcontext())
    assert "PAN cannot be trained with data.batch_size=2 data.size=[64, 64]\n  it needs a larger size: Given" in str(
        error.value
    )
    assert str(error.value).endswith("→ data.batch_size=2 data.size=[128, 128]")
    check_trains(network, 2, (128, 128), CPU, nullcontext())


def test_a_batch_of_one_value_a_channel_is_named() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with pytest.raises(
        ConfigError, match=r"Sequential cannot .*\n.*2 or more images: Expected more(?s:.*)batch_size=2 "
    ):
        check_trains(network, 1, (8, 8), CPU, nullcontext())


def test_the_smallest_size_after_augmentation_counts() -> None:
    cfg = compose_config(["model=smp_unet", "network.arch=PAN", "encoder=resnet18", "encoder.weights=null"])
    network, _ = build_network(cfg, 3)
    with pytest.raises(ConfigError, match=r"of which data\.augment\.sizes makes \[64, 64\](?s:.*)→ .*\[256, 256\]"):
        check_trains(network, 2, (128, 128), CPU, nullcontext(), Augment(sizes=[2, 0.5]).smallest_size)


def test_pan_pads_small_images_outside_training() -> None:
    cfg = compose_config(["model=smp_unet", "network.arch=PAN", "encoder=resnet18", "encoder.weights=null"])
    network = build_network(cfg, 3)[0].eval()
    image = torch.rand(1, 3, 40, 150)
    padded = nn.functional.pad(image, (0, 10, 0, 88))
    with torch.inference_mode():
        logits = network(image)
        assert logits.shape == (1, 3, 40, 150)
        zeros = network.normalize(padded)
        zeros[:, :, 40:] = zeros[:, :, :, 150:] = 0
        torch.testing.assert_close(logits, network.model(zeros)[:, :, :40, :150])
        large = torch.rand(1, 3, 128, 160)
        torch.testing.assert_close(network(large), network.model(network.normalize(large)))


def test_a_size_that_cannot_be_tested_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 9), nn.BatchNorm2d(2))
    check_evaluates(network, [(9, 9), (9, 20)], CPU)
    with pytest.raises(ConfigError, match=r"Sequential cannot be tested on images of 9×8 pixels: Calculated"):
        check_evaluates(network, [(9, 9), (9, 8)], CPU)


class WithAuxiliary(nn.Module):
    """A network whose auxiliary head alone has one value a channel."""

    auxiliary_weight = 0.4

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(3)

    def forward(self, image: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.layer(image)
        return (logits, self.norm(image.mean((2, 3), keepdim=True))) if auxiliary else logits


def test_the_auxiliary_head_is_tried() -> None:
    with pytest.raises(ConfigError, match="it needs 2 or more images"):
        check_trains(WithAuxiliary(), 1, (8, 8), CPU, nullcontext())


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

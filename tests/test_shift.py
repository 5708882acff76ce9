"""Shift consistency: 1 for what moves with its input, less for what is drawn on a grid."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.errors import DataError
from segstudy.measures.shift import shift_consistency


def on_a_grid(image: Tensor) -> Tensor:
    """The class of every eighth pixel, for the 8×8 pixels from it on."""
    return F.interpolate(image[:, :, ::8, ::8], size=image.shape[2:], mode="nearest")


def test_a_pointwise_network_is_consistent() -> None:
    torch.manual_seed(0)
    network, image = nn.Conv2d(3, 4, 1), torch.randn(2, 3, 64, 48)
    kept, compared = shift_consistency(network, image, network(image))
    assert kept.tolist() == compared.tolist() == [4 * (64 - 16) * (48 - 16)] * 2
    assert not kept.requires_grad


def test_borders_are_left_out() -> None:
    torch.manual_seed(0)
    network, image = nn.Conv2d(3, 4, 5, padding=2), torch.randn(1, 3, 64, 64)
    kept, compared = shift_consistency(network, image, network(image), shifts=(1, 4))
    assert kept.tolist() == compared.tolist()


def test_a_grid_is_consistent_only_with_its_own_steps() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 64)
    image[1] = torch.tensor([1.0, 0, 0])[:, None, None]  # one class everywhere
    kept, compared = shift_consistency(on_a_grid, image, on_a_grid(image), shifts=(4,))
    assert kept[0] / compared[0] < 0.6
    assert kept[1] == compared[1]
    kept, compared = shift_consistency(on_a_grid, image, on_a_grid(image), shifts=(8,))
    assert kept.tolist() == compared.tolist()


def test_works_under_autocast_and_inference_mode() -> None:
    network, image = nn.Conv2d(3, 2, 1), torch.randn(1, 3, 32, 32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        kept, compared = shift_consistency(network, image, network(image))
    assert kept == compared


def test_an_image_without_a_middle_is_an_error() -> None:
    with pytest.raises(DataError, match="16×40 has no pixel further than 8 px"):
        shift_consistency(on_a_grid, torch.zeros(1, 3, 16, 40), torch.zeros(1, 3, 16, 40))

"""Seeds: separate streams from one seed, and variants that share what they share."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy import stats
from torch import nn

from segstudy.build import build_network
from segstudy.config.compose import register_resolvers
from segstudy.config.paths import CONF
from segstudy.networks.encoders import LibraryEncoder
from segstudy.seeds import derive, initialise, permutation, stream, uniform_numbers


def network(*overrides: str) -> nn.Module:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_network(compose("config", list(overrides)), 5, load_weights=False)[0]


def same(a: nn.Module, b: nn.Module) -> list[bool]:
    other = b.state_dict()
    return [torch.equal(v, other[k]) for k, v in a.state_dict().items() if k in other]


def test_same_seed_same_weights_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = network("model=v1", "seed=5")
    torch.rand(17)
    second = network("model=v1", "seed=5")
    assert all(same(first, second))
    other = network("model=v1", "seed=6")
    assert not torch.equal(first.head[1].weight, other.head[1].weight)


def test_building_leaves_the_global_generator_alone() -> None:
    layer = nn.Conv2d(3, 4, 3)
    before = torch.get_rng_state()
    initialise(layer, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_v1_and_v2_start_identical() -> None:
    v1, v2 = network("model=v1"), network("model=v2")
    assert v1.state_dict().keys() == v2.state_dict().keys()
    assert all(same(v1, v2))


def test_v3_starts_as_v1_wherever_they_share_a_path() -> None:
    v1, v3 = network("model=v1"), network("model=v3")
    assert all(k in v3.state_dict() for k in v1.state_dict())
    assert len(v3.state_dict()) > len(v1.state_dict())
    assert all(same(v1, v3))


def test_layers_of_one_shape_differ() -> None:
    twins = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    initialise(twins, 0)
    assert not torch.equal(twins[0].weight, twins[1].weight)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mit_b0", "tu-convnext_atto"])
def test_library_encoders_are_drawn_from_the_seed(name: str) -> None:
    encoders = [LibraryEncoder(name, weights=None) for _ in range(2)]
    assert not all(same(*encoders))
    for encoder in encoders:
        initialise(encoder, 3)
    assert all(same(*encoders))


def test_stream_is_named_and_restores() -> None:
    draws = []
    for name in ("a", "a", "b"):
        before = torch.get_rng_state()
        with stream(1, name):
            draws.append(torch.rand(3).tolist())
        assert torch.equal(torch.get_rng_state(), before)
    assert draws[0] == draws[1] != draws[2]


def test_derived_seeds_are_distinct_and_fit_a_generator() -> None:
    seeds = {derive(s, name, epoch) for s in range(10) for name in ("order", "augment") for epoch in range(50)}
    assert len(seeds) == 1000
    assert 0 <= min(seeds) <= max(seeds) < 2**63
    assert derive(1, "a", 23) != derive(1, "a2", 3)


def test_derived_seeds_are_the_same_on_every_machine() -> None:
    # Frozen figures: if they change, no earlier run can be repeated.
    assert (derive(0, "order", 0), derive(7, "weights", "head.1")) == (3471081512423777433, 1049075704875650773)
    assert permutation(6, 0, 0).tolist() == [2, 5, 0, 3, 1, 4]
    assert uniform_numbers(0, 0, torch.arange(2), 2).flatten().tolist() == pytest.approx(
        [0.3679541, 0.4684966, 0.9972901, 0.4731629]
    )


def test_uniforms_are_a_function_of_seed_epoch_and_index() -> None:
    whole = uniform_numbers(3, 2, torch.arange(50), 6)
    picked = torch.tensor([41, 7, 7, 0])
    assert torch.equal(uniform_numbers(3, 2, picked, 6), whole[picked])
    torch.manual_seed(99)
    assert torch.equal(uniform_numbers(3, 2, torch.arange(50), 6), whole)
    assert torch.equal(uniform_numbers(3, 2, torch.arange(50), 4), whole[:, :4])  # one more draw changes no earlier one
    for seed, epoch in ((4, 2), (3, 3)):
        assert not (uniform_numbers(seed, epoch, torch.arange(50), 6) == whole).any()


def test_uniforms_are_uniform() -> None:
    values = uniform_numbers(0, 1, torch.arange(5000), 8)
    assert values.dtype == torch.float32
    assert 0 <= values.min() <= values.max() < 1
    for column in values.T:
        counts, _ = np.histogram(column.numpy(), bins=20, range=(0, 1))
        assert stats.chisquare(counts).pvalue > 1e-4
    pairs, _, _ = np.histogram2d(values[:-1, 0].numpy(), values[1:, 0].numpy(), bins=10, range=[(0, 1)] * 2)
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4


def test_uniforms_are_uncorrelated() -> None:
    columns = [uniform_numbers(0, epoch, torch.arange(5000), 4).numpy() for epoch in range(3)]
    correlation = np.corrcoef(np.concatenate(columns, 1).T) - np.eye(12)
    assert np.abs(correlation).max() < 0.07  # five standard errors of 5,000 pairs


def test_the_filler_index_has_draws_too() -> None:
    assert uniform_numbers(0, 0, torch.tensor([-1]), 3).shape == (1, 3)


def test_permutation_is_of_the_seed_and_the_epoch() -> None:
    order = permutation(100, 0, 0)
    assert sorted(order.tolist()) == list(range(100))
    torch.manual_seed(5)
    assert torch.equal(permutation(100, 0, 0), order)
    assert not torch.equal(permutation(100, 0, 1), order)
    assert not torch.equal(permutation(100, 1, 0), order)

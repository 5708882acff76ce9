"""Tiles: weights that add up, the whole image's result where there is no context, and labels without all the scores."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_voc
from omegaconf import OmegaConf
from test_evaluate import train
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from segstudy import labels as labelling
from segstudy.callbacks.per_image_confusion import SIZES
from segstudy.cli.main import app
from segstudy.errors import ConfigError
from segstudy.inference.evaluate import Evaluation, evaluate
from segstudy.inference.loading import EvaluationSpec, LoadedRun, evaluation_config, evaluation_data, load_runs
from segstudy.inference.model import InputSettings, Model
from segstudy.inference.tta import TestTimeAugmentation
from segstudy.labels import labels_and_mean_confidence, labels_at
from segstudy.networks.normalize import Normalize
from segstudy.tiles import Place, Tiles, blend_tiles, predict_tiled


def seeded(*layers: nn.Module) -> nn.Sequential:
    """The layers with random weights that are always the same."""
    network = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network


def model_of(network: nn.Module, classes: int, background: int | None = 0) -> Model:
    """A model around a network, trained at 16×24."""
    names = ["background", *(f"class {c}" for c in range(1, classes))]
    palette = [[c * 10, 255 - c * 10, 128] for c in range(classes)]
    record = {"class_names": names, "palette": palette, "data": {"background": background}}
    cfg = OmegaConf.create({"data": {"size": [16, 24]}, "trainer": {"precision": "32-true"}})
    return Model(LoadedRun("made", Path("made"), network.eval(), record, cfg), "cpu")


def smooth(height: int, width: int) -> np.ndarray:
    """A photo of soft blobs: uint8 (H,W,3)."""
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(1))
    image = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)[0]
    return (image * 255).to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("side", "overlap", "length", "starts"),
    [
        (4, 0.5, 10, [0, 2, 4, 6]), (4, 0.0, 8, [0, 4]), (4, 0.0, 10, [0, 3, 6]), (4, 0.5, 4, [0]), (4, 0.9, 3, [0]),
        (4, 0.9, 6, [0, 1, 2]), (4, 0.25, 9, [0, 3, 5]),
        (64, 0.5, 130, [0, 32, 64, 96]), (96, 0.5, 200, [0, 32, 64, 96, 128]), (64, 0.9, 70, [0, 4, 8]),
        (64, 0.5, 64, [0]),
    ],
)  # fmt: skip
def test_tiles_are_spread_evenly(side: int, overlap: float, length: int, starts: list[int]) -> None:
    assert Tiles(side, overlap).starts(length) == starts


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("length", [1, 5, 7, 8, 20, 53])
def test_weights_add_up_and_tiles_overlap_enough(overlap: float, length: int) -> None:
    tiles = Tiles(7, overlap)
    starts = tiles.starts(length)
    total = torch.zeros(length)
    for start, weight in zip(starts, tiles.weights(length), strict=True):
        assert (weight > 0).all()
        total[start : start + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones(length))
    assert starts[-1] + min(7, length) == length
    assert all(b - a <= max(1, 7 * (1 - overlap)) for a, b in pairwise(starts))


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("side", [1, 10, 63, 64, 65, 96, 128, 250, 256, 512])
def test_neighbours_share_at_least_what_is_asked(side: int, overlap: float) -> None:
    starts = Tiles(side, overlap).starts(3 * side + 17)
    shared = [a + side - b for a, b in pairwise(starts)]
    assert min(shared) >= min(overlap * side - 1e-9, side - 1)  # a step is a pixel at least
    if side >= 64:
        even = min(32, 2 ** int(np.log2(side * (1 - overlap) + 1e-9)))
        assert all(start % even == 0 for start in starts)


def test_a_tile_counts_most_in_its_middle() -> None:
    first, second = Tiles(8, 0.5).weights(12)
    assert first[:4].tolist() == [1.0] * 4  # there is no other
    assert (first[4:].diff() < 0).all()
    torch.testing.assert_close(first[4:], second[:4].flip(0))


@pytest.mark.parametrize(("side", "overlap"), [(0, 0.5), (-4, 0.5), (8, -0.1), (8, 0.95), (8, float("nan"))])
def test_impossible_tiles_are_refused(side: int, overlap: float) -> None:
    with pytest.raises(ConfigError, match=r"--tiles|--overlap"):
        Tiles(side, overlap)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(9, 13), (16, 16), (16, 40), (32, 48), (37, 61), (1, 50)])
@pytest.mark.parametrize("views", [None, TestTimeAugmentation(flip=True)])
def test_without_context_tiles_change_nothing(
    shape: tuple[int, int], overlap: float, views: TestTimeAugmentation | None
) -> None:
    model = model_of(nn.Sequential(Normalize(), seeded(nn.Conv2d(3, 5, 1))), 5)
    photo = smooth(*shape)
    whole = model.predict(photo, "original", views)
    assert len(np.unique(whole)) > 1
    np.testing.assert_array_equal(model.predict(photo, views=views, tiles=Tiles(16, overlap)), whole)
    network = model.network
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        chances = predict_tiled(lambda tile: network(tile).softmax(1), image, Tiles(16, overlap))
        torch.testing.assert_close(chances, network(image).softmax(1))


def test_with_little_context_tiles_change_little() -> None:
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)
    model = model_of(seeded(*layers), 4)
    photo = smooth(150, 210)
    whole, parts = model.predict(photo, "original"), model.predict(photo, tiles=Tiles(64))
    for c in np.unique(whole):
        assert ((whole == c) & (parts == c)).sum() / ((whole == c) | (parts == c)).sum() > 0.99
    hard = model.predict(photo, tiles=Tiles(64, 0.0))
    assert (parts != whole).sum() <= (hard != whole).sum()


def test_tiles_of_an_image_in_another_size() -> None:
    model = model_of(seeded(nn.Conv2d(3, 5, 1)), 5)
    photo = smooth(40, 50)
    assert (model.predict(photo, "80x60", tiles=Tiles(32)) == model.predict(photo, "80x60")).mean() > 0.98


def test_tiles_pool_where_the_whole_image_does() -> None:
    pooled = nn.Sequential(nn.AvgPool2d(16, ceil_mode=True), nn.Conv2d(3, 5, 1), nn.Upsample(scale_factor=16))
    model = model_of(seeded(*pooled), 5)
    photo = smooth(160, 224)
    np.testing.assert_array_equal(model.predict(photo, tiles=Tiles(80)), model.predict(photo, "original"))


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize(
    ("shape", "side", "batch"),
    [((20, 13), 8, 1), ((13, 40), 8, 3), ((8, 8), 8, 1), ((5, 30), 8, 2), ((150, 170), 64, 2)],
)
def test_blocks_are_the_weighted_sum_of_all_tiles(
    shape: tuple[int, int], side: int, batch: int, overlap: float
) -> None:
    tiles, draw = Tiles(side, overlap), np.random.default_rng(0)
    tops, lefts = (tiles.starts(length) for length in shape)
    down, across = (tiles.weights(length) for length in shape)
    expected = np.zeros((3, *shape))
    drawn = {}
    for top, rises in zip(tops, down, strict=True):
        for left, widths in zip(lefts, across, strict=True):
            drawn[top, left] = draw.random((3, len(rises), len(widths)), np.float32)
            place = expected[:, top : top + len(rises), left : left + len(widths)]
            place += drawn[top, left] * np.outer(rises, widths)
    asked: list[Place] = []

    def chances(places: list[Place]) -> Tensor:
        assert len(places) <= batch
        asked.extend(places)
        return torch.from_numpy(np.stack([drawn[place] for place in places]))

    seen = np.zeros(shape, int)
    for top, left, block in blend_tiles(shape, tiles, chances, batch):
        assert (top, left) in asked[-batch:]  # a block comes before any tile after its own is asked for
        rows, columns = slice(top, top + block.shape[1]), slice(left, left + block.shape[2])
        np.testing.assert_allclose(block, expected[:, rows, columns], atol=1e-6)
        seen[rows, columns] += 1
    assert (seen == 1).all()
    assert asked == sorted(drawn)


@pytest.mark.parametrize("values", [2**22, 500])  # at once, and in bands of a few rows
@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((8, 8), (33, 50)), ((20, 30), (77, 41)), ((40, 30), (13, 17)), ((1, 1), (5, 7)), ((6, 5), (1, 1)),
        ((9, 9), (9, 9)),
    ],
)  # fmt: skip
def test_labels_are_those_of_the_interpolated_scores(
    small: tuple[int, int], large: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "VALUES", values)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(6, *small, generator=generator)
    soft = F.avg_pool2d(noise[None], 3, 1, 1)[0]
    for scores in (noise, soft, soft[:2], soft.contiguous(memory_format=torch.contiguous_format).permute(0, 2, 1)):
        shape = large if scores.shape[1:] == small else large[::-1]
        fast = torch.from_numpy(labels_and_mean_confidence(scores, shape)[0]).long()
        assert torch.equal(fast, labels_at(scores, shape))


def test_confidence_is_the_mean_highest_probability() -> None:
    chances = torch.tensor([[[[0.5, 0.9]], [[0.5, 0.1]]], [[[0.2, 0.0]], [[0.8, 1.0]]]])
    means = [labels_and_mean_confidence(one, (1, 2), probabilities=True)[1] for one in chances]
    assert means == pytest.approx([0.7, 0.9])
    assert labels_and_mean_confidence(chances[0].log() + 3, (4, 4), probabilities=False)[1] == pytest.approx(0.7)
    model = model_of(seeded(nn.Conv2d(3, 5, 1)), 5)
    photo = smooth(20, 30)
    whole, parts = (model.labels(photo, InputSettings("original", tiles=tiles))[1] for tiles in (None, Tiles(8)))
    assert whole == pytest.approx(parts, rel=1e-5)
    assert whole == pytest.approx(model.probabilities(photo, "original").max(0).mean(), rel=1e-5)


def test_evaluated_in_tiles_a_network_without_context_has_the_same_figures(tmp_path: Path) -> None:
    make_voc(tmp_path / "photos")
    own = ["data=voc", f"data.root={tmp_path / 'photos'}", "data.size=32", "trainer.precision=32-true"]
    members = load_runs([train(tmp_path / "run", *own)])
    members = [replace(members[0], network=seeded(nn.Conv2d(3, 21, 1)))]
    wanted = EvaluationSpec(size="original")
    for views in (None, TestTimeAugmentation(flip=True)):
        whole, parts = (
            evaluate(Evaluation(members, views, tiles=tiles), cfg, evaluation_data(cfg, members, wanted))
            for cfg, tiles in ((evaluation_config(members, wanted), tiles) for tiles in (None, Tiles(16)))
        )
        assert len(whole) == len(parts) == 1 + (views is not None)
        for before, after in zip(whole.values(), parts.values(), strict=True):
            for size in SIZES:
                assert before[size].sum() > 0
                np.testing.assert_array_equal(after[size], before[size])
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--tiles", "16"], catch_exceptions=False)
    assert "at original size, in tiles of 16×16 that overlap by 0.5" in " ".join(done.output.split())

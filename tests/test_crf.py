"""The CRF against a mean field worked pixel by pixel, and its measurement at the test."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from segstudy.build import build_data
from segstudy.config.check import check
from segstudy.config.compose import compose_config
from segstudy.config.run_folder import claim_folder
from segstudy.inference import crf as crf_module
from segstudy.inference.crf import CRF, CRFEvaluation, refine
from segstudy.inference.loading import load_run
from segstudy.metrics import Confusion, summary
from segstudy.runs.tables import print_classes
from segstudy.train_and_test import run


def random_case(height: int, width: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1.0] * classes, (height, width)).transpose(2, 0, 1)
    # few enough levels that neighbours are alike, far enough apart that they differ
    image = rng.integers(100, 140, (height, width, 3)).astype(np.uint8)
    return torch.from_numpy(probabilities).float(), torch.from_numpy(image)


def brute_force(probabilities: np.ndarray, image: np.ndarray, crf: CRF) -> np.ndarray:
    """Algorithm 1 of Krähenbühl & Koltun 2011, with costs summed over all pairs of pixels, in float64."""
    classes, height, width = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    n = len(pixels)
    alike, nearby = np.zeros((n, n)), np.zeros((n, n))
    for i, (y, x) in enumerate(pixels):
        for j, (v, u) in enumerate(pixels):
            if i == j or max(abs(y - v), abs(x - u)) > crf.radius:
                continue
            distance = (y - v) ** 2 + (x - u) ** 2
            contrast = sum((float(a) - float(b)) ** 2 for a, b in zip(image[y, x], image[v, u], strict=True))
            alike[i, j] = math.exp(-distance / (2 * crf.position**2) - contrast / (2 * crf.colour**2))
            nearby[i, j] = math.exp(-distance / (2 * crf.near**2))
    kernel = np.zeros((n, n))
    for weight, k in ((crf.appearance, alike), (crf.smoothness, nearby)):
        kernel += weight * k / np.sqrt(np.outer(k.sum(1), k.sum(0)))
    start = probabilities.astype(np.float64).reshape(classes, n).T
    q = start.copy()
    for _ in range(crf.iterations):
        new = np.empty_like(q)
        for i in range(n):
            for c in range(classes):
                cost = sum(kernel[i] @ q[:, other] for other in range(classes) if other != c)
                new[i, c] = start[i, c] * math.exp(-cost)
        q = new / new.sum(1, keepdims=True)
    return q.T.reshape(classes, height, width)


def test_large_images_are_refined_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, image = random_case(41, 12)
    crf = CRF(iterations=2, radius=2)
    whole = refine(probabilities, image, crf)
    monkeypatch.setattr(crf_module, "PIXELS", 12 * 9)  # strips of nine rows
    assert torch.equal(refine(probabilities, image, crf), whole)
    monkeypatch.setattr(crf_module, "PIXELS", 1)  # in strips as high as the reach of the CRF
    assert torch.equal(refine(probabilities, image, crf), whole)


@pytest.mark.parametrize("radius", [6, 2, 1])
@pytest.mark.parametrize("weights", [(10.0, 3.0), (2.0, 0.5), (0.0, 4.0), (5.0, 0.0)])
def test_the_mean_field_is_that_of_all_pairs_in_the_window(radius: int, weights: tuple[float, float]) -> None:
    probabilities, image = random_case(6, 7)  # a radius of 6 connects every pair
    crf = CRF(radius=radius, appearance=weights[0], smoothness=weights[1], position=4.0, colour=20.0, near=1.5)
    expected = brute_force(probabilities.numpy(), image.numpy(), crf)
    refined = refine(probabilities, image, crf)
    np.testing.assert_allclose(refined.numpy(), expected, atol=1e-5)
    assert abs(expected - probabilities.numpy()).max() > 0.1  # and it is not the input


def test_a_pair_of_pixels_worked_by_hand() -> None:
    probabilities = torch.tensor([[[0.6, 0.2]], [[0.4, 0.8]]])  # (C=2, H=1, W=2)
    image = torch.full((1, 2, 3), 7, dtype=torch.uint8)
    refined = refine(probabilities, image, CRF(iterations=1, appearance=1.0, smoothness=0.0))
    # one neighbour: its normalised weight is 1, so the message is its probability
    left = 0.6 * math.exp(0.2) / (0.6 * math.exp(0.2) + 0.4 * math.exp(0.8))
    right = 0.2 * math.exp(0.6) / (0.2 * math.exp(0.6) + 0.8 * math.exp(0.4))
    assert refined[0, 0].tolist() == pytest.approx([left, right], abs=1e-6)


def test_without_iterations_or_weights_nothing_changes() -> None:
    probabilities, image = random_case(9, 8)
    assert torch.equal(refine(probabilities, image, CRF(iterations=0)), probabilities)
    torch.testing.assert_close(refine(probabilities, image, CRF(appearance=0.0, smoothness=0.0)), probabilities)


def test_a_uniform_image_and_prediction_keep_their_class() -> None:
    probabilities = torch.tensor([0.2, 0.45, 0.35]).view(3, 1, 1).expand(3, 16, 20)
    refined = refine(probabilities, torch.full((16, 20, 3), 90, dtype=torch.uint8))
    assert (refined.argmax(0) == 1).all()


def test_a_noisy_edge_snaps_to_the_edge_of_the_image() -> None:
    rng = np.random.default_rng(3)
    columns = np.arange(24)
    truth = np.broadcast_to(columns >= 12, (24, 24))
    edge = 12 + rng.integers(-3, 4, 24)[:, None]  # each row is wrong by up to 3 pixels
    right = np.where(columns >= edge, 0.8, 0.2)
    image = np.where(truth, 200, 50)[..., None] + rng.normal(0, 4, (24, 24, 3))
    probabilities = torch.from_numpy(np.stack([1 - right, right])).float()
    before, pixels = probabilities.argmax(0).numpy(), torch.from_numpy(image.astype(np.uint8))
    assert (before != truth).sum() > 24
    assert np.array_equal(refine(probabilities, pixels).argmax(0).numpy(), truth)
    # and not because labels are only smoothed: without the image the edge stays wrong somewhere
    smoothed = refine(probabilities, pixels, CRF(appearance=0.0)).argmax(0).numpy()
    assert (smoothed != truth).any()


def test_probabilities_sum_to_one_also_with_zeros_and_a_pixel_unlike_all_others() -> None:
    probabilities, image = random_case(7, 9)
    probabilities[:, 2, 3] = torch.tensor([1.0, 0.0, 0.0])
    image[2, 3] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    refined = refine(probabilities, image)
    torch.testing.assert_close(refined.sum(0), torch.ones(7, 9))
    assert refined.isfinite().all()
    assert refined[0, 2, 3] == pytest.approx(1.0)


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    cases = [random_case(8, 5), random_case(8, 5)]
    cases[1] = (cases[1][0].flip(2), cases[1][1].flip(0))
    batch = refine(torch.stack([p for p, _ in cases]), torch.stack([i for _, i in cases]))
    for refined, (probabilities, image) in zip(batch, cases, strict=True):
        torch.testing.assert_close(refined, refine(probabilities, image))


def test_turned_input_gives_turned_output() -> None:
    probabilities, image = random_case(6, 11)
    turned = refine(probabilities.rot90(1, (1, 2)), image.rot90(1, (0, 1)))
    torch.testing.assert_close(turned, refine(probabilities, image).rot90(1, (1, 2)))


def test_what_does_not_fit_is_refused() -> None:
    probabilities, image = random_case(6, 7)
    for other in (image[:5], image.permute(2, 0, 1), image.float() / 255, image[None]):
        with pytest.raises(ValueError, match=r"do not fit(.|\n)*\(H,W,3\)"):
            refine(probabilities, other)


# At the test


def test_the_crf_gets_the_exact_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 16, 16, 3)
    monkeypatch.setattr("segstudy.inference.crf.refine", lambda _, pixels, __: pixels)
    batch = {"image": image.permute(0, 3, 1, 2).float() / 255}
    assert torch.equal(CRFEvaluation().probabilities(None, None, torch.zeros(1, 2, 16, 16), batch), image)  # type: ignore[arg-type]


def test_the_record_keeps_its_figures_apart(tmp_path: Path) -> None:
    cfg = compose_config([
        "data.size=32", "data.train_images=16", "data.val_images=6", "trainer=cpu", "trainer.max_epochs=1",
        "encoder.widths=[8,8,8,8,8]", "decoder.widths=[8,8,8,8]", "trainer.precision=32-true",
        "callbacks.pictures.count=1", "callbacks.crf.enabled=true", "callbacks.crf.iterations=3",
        "callbacks.tta.enabled=true",
    ])  # fmt: skip
    check(cfg)
    folder = tmp_path / "run"
    record = claim_folder(folder, cfg)
    run(cfg, folder, record)
    network, _ = load_run(folder)
    data = build_data(cfg)
    images = data.roles["report"].__getitems__(range(6))
    batch = data.on_after_batch_transfer(images, 0)
    with torch.no_grad():
        probabilities = network(batch["image"]).softmax(1)
    counts = Confusion(len(data.classes))
    for p, pixels, mask in zip(probabilities, images["image"], batch["mask"], strict=True):
        counts.update(refine(p, pixels, CRF(iterations=3)).argmax(0)[None], mask[None])
    assert record.values["metrics_crf"] == pytest.approx(summary(counts.compute()), abs=1e-6)
    assert record.values["metrics_crf"] != record.values["metrics"]["network"]
    assert "metrics_tta" in record.values
    console = Console(record=True, width=200)
    print_classes(record.values, console)
    text = console.export_text()
    assert "with CRF:" in text
    assert "with views:" in text

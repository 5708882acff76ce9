"""Batch augmentation: properties over many draws, and the warp against a computation of its own."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from segstudy.data.augment import Augment

COLOURS = torch.rand(256, 3, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
STRONG = Augment(flip=0.5, scale=(0.5, 2.0), brightness=0.5, contrast=0.5, colour=0.8)
GEOMETRY = {"brightness": 0, "contrast": 0}


def labels(count: int, height: int = 64, width: int = 96, block: int = 16, seed: int = 0) -> Tensor:
    """Masks of blocks of 0…4 and 255."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 6, (count, height // block, width // block), generator=generator)
    small[small == 5] = 255
    return small.repeat_interleave(block, 1).repeat_interleave(block, 2)


def painted(mask: Tensor) -> Tensor:
    """The image in which each pixel has the colour of its label."""
    return COLOURS[mask].permute(0, 3, 1, 2)


def photos(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def interior(mask: Tensor, reach: int) -> Tensor:
    """Pixels whose neighbourhood of `reach` pixels has one label; False at the border of the picture."""
    pad = torch.nn.functional.pad(mask.float()[:, None], [reach] * 4, value=-1)
    pool = torch.nn.MaxPool2d(2 * reach + 1, stride=1)
    return (pool(pad) == -pool(-pad))[:, 0]


def test_labels_out_are_labels_in_or_255() -> None:
    mask = labels(8, 33, 47, block=1)[:, :32, :32]
    mask[mask == 255] = 3  # so that every 255 below comes from outside
    for epoch in range(20):
        image, out = STRONG(photos(8, 32, 32), mask, STRONG.draws(0, epoch, torch.arange(8)))
        assert out.dtype == torch.int64
        assert out.shape == mask.shape
        assert image.shape == (8, 3, 32, 32)
        for before, after in zip(mask, out, strict=True):
            assert set(after.unique().tolist()) <= {*before.unique().tolist(), 255}


def test_images_stay_in_0_to_1() -> None:
    extremes = torch.cat([photos(4, 24, 24), photos(4, 24, 24).round()])
    seen = []
    for epoch in range(30):
        image, _ = STRONG(extremes, labels(8, 32, 32)[:, :24, :24], STRONG.draws(3, epoch, torch.arange(8)))
        seen.append(image)
    assert torch.stack(seen).min() >= 0
    assert torch.stack(seen).max() <= 1


def test_a_mask_painted_into_its_image_stays_aligned() -> None:
    augment = Augment(flip=0.5, scale=(0.5, 2.0), **GEOMETRY)
    mask = labels(16)
    checked = 0
    for epoch in range(10):
        image, out = augment(painted(mask), mask, augment.draws(0, epoch, torch.arange(16)))
        inner = interior(out, 2) & (out != 255)
        difference = (image - painted(out)).abs().amax(1)
        assert difference[inner].max() < 1e-4
        checked += int(inner.sum())
    assert checked > 0.2 * 10 * mask.numel()


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.2, 2.0)])
def test_counted_pixels_never_mix_with_the_outside(scale: tuple[float, float]) -> None:
    """A zoom of at least 1 shows only the image: no pixel is ignored, none is darkened at the border."""
    augment = Augment(flip=0.5, scale=scale, **GEOMETRY)
    mask = torch.full((32, 20, 20), 3)
    for epoch in range(5):
        image, out = augment(torch.ones(32, 3, 20, 20), mask, augment.draws(0, epoch, torch.arange(32)))
        assert (out == 3).all()
        assert image.min() > 1 - 1e-5


def test_flip_alone_is_exact() -> None:
    augment = Augment(flip=0.5, **GEOMETRY)
    image, mask = photos(64, 9, 14), labels(64, 9, 14, block=1)
    draws = augment.draws(0, 0, torch.arange(64))
    out, out_mask = augment(image, mask, draws)
    mirrored = draws[:, 3] < 0.5
    assert 16 < mirrored.sum() < 48
    for i in range(64):
        expected = (image[i].flip(2), mask[i].flip(1)) if mirrored[i] else (image[i], mask[i])
        assert torch.equal(out[i], expected[0])
        assert torch.equal(out_mask[i], expected[1])


@pytest.mark.parametrize(("flip", "turned"), [(0.0, False), (1.0, True)])
def test_flip_probability_0_and_1(flip: float, turned: bool) -> None:
    augment = Augment(flip=flip, scale=(1.0, 1.0), **GEOMETRY)
    image, mask = photos(16, 8, 8), labels(16, 8, 8, block=1)
    out, out_mask = augment(image, mask, augment.draws(5, 2, torch.arange(16)))
    assert torch.equal(out, image.flip(3) if turned else image)
    assert torch.equal(out_mask, mask.flip(2) if turned else mask)


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_no_change_asked_is_the_identity(colour: float) -> None:
    augment = Augment(flip=0, scale=(1.0, 1.0), brightness=0, contrast=0, colour=colour)
    image, mask = photos(8, 11, 7), labels(8, 11, 7, block=1)
    out, out_mask = augment(image, mask, augment.draws(0, 0, torch.arange(8)))
    assert torch.equal(out, image)
    assert torch.equal(out_mask, mask)


def test_a_zoom_next_to_1_changes_next_to_nothing() -> None:
    """The path through grid_sample neither shifts by half a pixel nor turns the axes."""
    augment = Augment(flip=0, scale=(1.0, 1.0 + 1e-6), **GEOMETRY)
    image, mask = photos(8, 12, 18), labels(8, 12, 18, block=1)
    out, out_mask = augment(image, mask, augment.draws(0, 0, torch.arange(8)))
    assert (out - image).abs().max() < 1e-4
    assert torch.equal(out_mask, mask)


def test_an_image_does_not_depend_on_its_batch() -> None:
    image, mask, indices = photos(6, 32, 32), labels(6, 32, 32), torch.tensor([40, 3, 17, 8, 25, 11])
    together = STRONG(image, mask, STRONG.draws(7, 2, indices))
    order = [4, 1, 5]
    apart = STRONG(image[order], mask[order], STRONG.draws(7, 2, indices[order]))
    torch.testing.assert_close(apart[0], together[0][order], rtol=0, atol=1e-6)
    assert torch.equal(apart[1], together[1][order])


def test_draws_differ_by_image_epoch_and_seed_and_are_even() -> None:
    indices = torch.arange(4000)
    draws = STRONG.draws(0, 0, indices)
    assert draws.shape == (4000, 7)
    assert draws.min() >= 0
    assert draws.max() < 1
    for other in (STRONG.draws(0, 1, indices), STRONG.draws(1, 0, indices), STRONG.draws(0, 0, indices + 4000)):
        assert (draws == other).float().mean() < 0.001
    assert torch.equal(draws, STRONG.draws(0, 0, indices))
    assert (draws.mean(0) - 0.5).abs().max() < 0.02  # the standard error is 0.0046
    assert np.abs(np.corrcoef(draws.T.numpy()) - np.eye(7)).max() < 0.08


def test_zoom_below_1_shows_the_whole_image_and_255_outside() -> None:
    """At 1/2, wherever the image lies in the frame, all of its four corners and nothing else is seen."""
    augment = Augment(flip=0.5, scale=(0.5, 0.5), **GEOMETRY)
    quarters = torch.zeros(1, 40, 60, dtype=torch.long)
    quarters[:, 20:, :30], quarters[:, :20, 30:], quarters[:, 20:, 30:] = 1, 2, 3
    mask = quarters.repeat(64, 1, 1)
    image, out = augment(painted(mask), mask, augment.draws(0, 0, torch.arange(64)))
    places = set()
    for picture, seen in zip(image, out, strict=True):
        assert seen.shape == (40, 60)
        rows, columns = (seen != 255).any(1).nonzero(), (seen != 255).any(0).nonzero()
        box = seen[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box != 255).all()
        assert abs(box.shape[0] - 20) <= 1
        assert abs(box.shape[1] - 30) <= 1
        assert all(abs((box == label).sum() - 150) <= 25 for label in range(4))
        assert (picture[:, seen == 255] == 0.45).all()
        places.add((int(rows.min()), int(columns.min())))
    assert len(places) > 50


def test_zoom_is_drawn_evenly_in_its_logarithm() -> None:
    """Half of the draws of [1/2, 2] are smaller than 1, which shows pixels from outside."""
    augment = Augment(flip=0, scale=(0.5, 2.0), **GEOMETRY)
    mask = torch.zeros(400, 32, 32, dtype=torch.long)
    _, out = augment(torch.zeros(400, 3, 32, 32), mask, augment.draws(0, 0, torch.arange(400)))
    smaller = (out == 255).flatten(1).any(1).float().mean()
    assert 0.4 < smaller < 0.6


@pytest.mark.parametrize(("zoom", "flip"), [(0.7, 0.0), (0.7, 1.0), (1.0, 1.0), (1.6, 0.0), (1.6, 1.0)])
def test_warp_equals_numpy(zoom: float, flip: float) -> None:
    height, width = 13, 17
    augment = Augment(flip=flip, scale=(zoom, zoom + 1e-9), **GEOMETRY)
    image, mask = photos(1, height, width), labels(1, height, width, block=1)
    draws = torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.0, 0.3, 0.8]])
    got_image, got_mask = augment(image, mask, draws)
    pixels, truth = image[0].numpy().astype(np.float64), mask[0].numpy()
    room = abs(1 - 1 / zoom)
    for i, j in itertools.product(range(height), range(width)):
        # Centres of pixels in −1…1; the window has half-width 1/zoom around its own centre.
        y = ((2 * i + 1) / height - 1) / zoom + room * (2 * 0.8 - 1)
        x = ((2 * j + 1) / width - 1) / zoom * (-1 if flip else 1) + room * (2 * 0.3 - 1)
        if max(abs(x), abs(y)) > 1:
            expected, label = np.full(3, 0.45), 255
        else:
            r, c = ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2
            r, c = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
            label = truth[round(r), round(c)]
            r0, c0 = int(r), int(c)
            r1, c1 = min(r0 + 1, height - 1), min(c0 + 1, width - 1)
            top = pixels[:, r0, c0] * (1 - (c - c0)) + pixels[:, r0, c1] * (c - c0)
            low = pixels[:, r1, c0] * (1 - (c - c0)) + pixels[:, r1, c1] * (c - c0)
            expected = top * (1 - (r - r0)) + low * (r - r0)
        np.testing.assert_allclose(got_image[0, :, i, j].numpy(), expected, atol=2e-5)
        assert got_mask[0, i, j] == label


def test_brightness_and_contrast_touch_no_label_and_do_what_they_say() -> None:
    augment = Augment(flip=0, brightness=0.2, contrast=0.4, colour=0.5)
    image, mask = 0.3 + 0.4 * photos(6, 8, 8), labels(6, 8, 8, block=1)
    draws = torch.full((6, 7), 0.5)
    draws[:, 0] = torch.tensor([0.49, 0.49, 0.49, 0.49, 0.51, 0.51])  # the last two are left alone
    draws[:, 1] = torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0, 0.0])
    draws[:, 2] = torch.tensor([0.5, 0.5, 1.0, 0.0, 1.0, 0.0])
    out, out_mask = augment(image, mask, draws)
    assert torch.equal(out_mask, mask)
    mean = image.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(out[0], ((image - mean) * 1.4 + mean)[0])
    torch.testing.assert_close(out[1], ((image - mean) * 0.6 + mean)[1])
    torch.testing.assert_close(out[2], image[2] + 0.2)
    torch.testing.assert_close(out[3], image[3] - 0.2)
    torch.testing.assert_close(out[4:], image[4:])


def test_the_batch_that_came_in_is_not_changed() -> None:
    image, mask = photos(4, 16, 16), labels(4, 16, 16)
    kept = image.clone(), mask.clone()
    for augment in (STRONG, Augment(scale=(1.0, 1.0))):
        augment(image, mask, augment.draws(0, 0, torch.arange(4)))
    assert torch.equal(image, kept[0])
    assert torch.equal(mask, kept[1])


@pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 1.0), (1.5, 0.5), (1.0,), (0.5, 1.0, 2.0)])
def test_impossible_scale_is_refused(scale: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"data\.augment\.scale is \[low, high\] with 0 < low ≤ high, not \["):
        Augment(scale=scale)

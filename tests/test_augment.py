"""Batch augmentation: properties over many draws, and the warp against a computation of its own."""

import itertools
import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy import ndimage, stats
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from segstudy.config.compose import compose_config
from segstudy.config.paths import CONF
from segstudy.data.transforms.augment import Augment
from segstudy.data.transforms.base import GREY, Transform, rectangles
from segstudy.data.transforms.color import Blur, HueSaturation, RandomErasing, rotate_hue
from segstudy.data.transforms.mixing import CopyPaste, CutMix, MixUp, beta_quantile, beta_table, dither
from segstudy.seeds import uniform_numbers

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
        image, out = STRONG(photos(8, 32, 32), mask, STRONG.make_params(0, epoch, torch.arange(8)))
        assert out.dtype == torch.int64
        assert out.shape == mask.shape
        assert image.shape == (8, 3, 32, 32)
        for before, after in zip(mask, out, strict=True):
            assert set(after.unique().tolist()) <= {*before.unique().tolist(), 255}


def test_images_stay_in_0_to_1() -> None:
    extremes = torch.cat([photos(4, 24, 24), photos(4, 24, 24).round()])
    seen = []
    for epoch in range(30):
        image, _ = STRONG(extremes, labels(8, 32, 32)[:, :24, :24], STRONG.make_params(3, epoch, torch.arange(8)))
        seen.append(image)
    assert torch.stack(seen).min() >= 0
    assert torch.stack(seen).max() <= 1


def test_a_mask_painted_into_its_image_stays_aligned() -> None:
    augment = Augment(flip=0.5, scale=(0.5, 2.0), **GEOMETRY)
    mask = labels(16)
    checked = 0
    for epoch in range(10):
        image, out = augment(painted(mask), mask, augment.make_params(0, epoch, torch.arange(16)))
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
        image, out = augment(torch.ones(32, 3, 20, 20), mask, augment.make_params(0, epoch, torch.arange(32)))
        assert (out == 3).all()
        assert image.min() > 1 - 1e-5


def test_flip_alone_is_exact() -> None:
    augment = Augment(flip=0.5, **GEOMETRY)
    image, mask = photos(64, 9, 14), labels(64, 9, 14, block=1)
    params = augment.make_params(0, 0, torch.arange(64))
    out, out_mask = augment(image, mask, params)
    mirrored = params[:, 3] < 0.5
    assert 16 < mirrored.sum() < 48
    for i in range(64):
        expected = (image[i].flip(2), mask[i].flip(1)) if mirrored[i] else (image[i], mask[i])
        assert torch.equal(out[i], expected[0])
        assert torch.equal(out_mask[i], expected[1])


@pytest.mark.parametrize(("flip", "turned"), [(0.0, False), (1.0, True)])
def test_flip_probability_0_and_1(flip: float, turned: bool) -> None:
    augment = Augment(flip=flip, scale=(1.0, 1.0), **GEOMETRY)
    image, mask = photos(16, 8, 8), labels(16, 8, 8, block=1)
    out, out_mask = augment(image, mask, augment.make_params(5, 2, torch.arange(16)))
    assert torch.equal(out, image.flip(3) if turned else image)
    assert torch.equal(out_mask, mask.flip(2) if turned else mask)


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_no_change_asked_is_the_identity(colour: float) -> None:
    augment = Augment(flip=0, scale=(1.0, 1.0), brightness=0, contrast=0, colour=colour)
    image, mask = photos(8, 11, 7), labels(8, 11, 7, block=1)
    out, out_mask = augment(image, mask, augment.make_params(0, 0, torch.arange(8)))
    assert torch.equal(out, image)
    assert torch.equal(out_mask, mask)


def test_a_zoom_next_to_1_changes_next_to_nothing() -> None:
    """The path through grid_sample neither shifts by half a pixel nor turns the axes."""
    augment = Augment(flip=0, scale=(1.0, 1.0 + 1e-6), **GEOMETRY)
    image, mask = photos(8, 12, 18), labels(8, 12, 18, block=1)
    out, out_mask = augment(image, mask, augment.make_params(0, 0, torch.arange(8)))
    assert (out - image).abs().max() < 1e-4
    assert torch.equal(out_mask, mask)


def test_an_image_does_not_depend_on_its_batch() -> None:
    image, mask, indices = photos(6, 32, 32), labels(6, 32, 32), torch.tensor([40, 3, 17, 8, 25, 11])
    together = STRONG(image, mask, STRONG.make_params(7, 2, indices))
    order = [4, 1, 5]
    apart = STRONG(image[order], mask[order], STRONG.make_params(7, 2, indices[order]))
    torch.testing.assert_close(apart[0], together[0][order], rtol=0, atol=1e-6)
    assert torch.equal(apart[1], together[1][order])


def test_draws_differ_by_image_epoch_and_seed_and_are_even() -> None:
    indices = torch.arange(4000)
    params = STRONG.make_params(0, 0, indices)
    assert params.shape == (4000, 7)
    assert params.min() >= 0
    assert params.max() < 1
    for other in (
        STRONG.make_params(0, 1, indices),
        STRONG.make_params(1, 0, indices),
        STRONG.make_params(0, 0, indices + 4000),
    ):
        assert (params == other).float().mean() < 0.001
    assert torch.equal(params, STRONG.make_params(0, 0, indices))
    assert (params.mean(0) - 0.5).abs().max() < 0.02  # the standard error is 0.0046
    assert np.abs(np.corrcoef(params.T.numpy()) - np.eye(7)).max() < 0.08


def test_zoom_below_1_shows_the_whole_image_and_255_outside() -> None:
    """At 1/2, wherever the image lies in the frame, all of its four corners and nothing else is seen."""
    augment = Augment(flip=0.5, scale=(0.5, 0.5), **GEOMETRY)
    quarters = torch.zeros(1, 40, 60, dtype=torch.long)
    quarters[:, 20:, :30], quarters[:, :20, 30:], quarters[:, 20:, 30:] = 1, 2, 3
    mask = quarters.repeat(64, 1, 1)
    image, out = augment(painted(mask), mask, augment.make_params(0, 0, torch.arange(64)))
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
    _, out = augment(torch.zeros(400, 3, 32, 32), mask, augment.make_params(0, 0, torch.arange(400)))
    smaller = (out == 255).flatten(1).any(1).float().mean()
    assert 0.4 < smaller < 0.6


@pytest.mark.parametrize(("zoom", "flip"), [(0.7, 0.0), (0.7, 1.0), (1.0, 1.0), (1.6, 0.0), (1.6, 1.0)])
def test_warp_equals_numpy(zoom: float, flip: float) -> None:
    height, width = 13, 17
    augment = Augment(flip=flip, scale=(zoom, zoom + 1e-9), **GEOMETRY)
    image, mask = photos(1, height, width), labels(1, height, width, block=1)
    params = torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.0, 0.3, 0.8]])
    got_image, got_mask = augment(image, mask, params)
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
    params = torch.full((6, 7), 0.5)
    params[:, 0] = torch.tensor([0.49, 0.49, 0.49, 0.49, 0.51, 0.51])  # the last two are left alone
    params[:, 1] = torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0, 0.0])
    params[:, 2] = torch.tensor([0.5, 0.5, 1.0, 0.0, 1.0, 0.0])
    out, out_mask = augment(image, mask, params)
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
        augment(image, mask, augment.make_params(0, 0, torch.arange(4)))
    assert torch.equal(image, kept[0])
    assert torch.equal(mask, kept[1])


# Rotation and sizes


def rotated(degrees: float, **settings: object) -> tuple[Augment, Tensor]:
    """An Augment that turns by exactly so much with these draws, and does nothing else."""
    augment = Augment(flip=0, rotation=abs(degrees), **GEOMETRY, **settings)  # type: ignore[arg-type]
    params = torch.full((1, augment.num_params), 0.5)
    params[:, 7] = 1.0 if degrees > 0 else 0.0
    return augment, params


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (-90, 3), (180, 2)])
def test_quarter_turns_are_rot90(degrees: float, quarters: int) -> None:
    augment, params = rotated(degrees)
    image, mask = photos(1, 16, 16), labels(1, 16, 16, block=1)
    out, out_mask = augment(image, mask, params)
    torch.testing.assert_close(out, image.rot90(quarters, (2, 3)), rtol=0, atol=1e-4)
    assert torch.equal(out_mask, mask.rot90(quarters, (1, 2)))


def test_a_turn_is_in_pixels_and_equals_scipy() -> None:
    """In a picture that is not square, against scipy's interpolation at coordinates worked out here."""
    height, width, degrees = 20, 30, 25
    augment, params = rotated(degrees)
    image, mask = photos(1, height, width), labels(1, height, width, block=5)
    out, out_mask = augment(image, mask, params)
    rows, columns = np.mgrid[:height, :width]
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    angle = math.radians(degrees)  # anticlockwise, with y downwards
    source = np.stack([math.sin(angle) * x + math.cos(angle) * y, math.cos(angle) * x - math.sin(angle) * y])
    source += np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    within = (abs(source[0] - (height - 1) / 2) < height / 2) & (abs(source[1] - (width - 1) / 2) < width / 2)
    for channel in range(3):
        expected = ndimage.map_coordinates(image[0, channel].numpy(), source, order=1, mode="nearest")
        np.testing.assert_allclose(out[0, channel].numpy(), np.where(within, expected, GREY), atol=1e-4)
    expected_mask = ndimage.map_coordinates(mask[0].numpy(), source, order=0, mode="nearest")
    assert np.array_equal(out_mask[0].numpy(), np.where(within, expected_mask, 255))
    assert 0.6 < within.mean() < 0.95


def test_angles_are_drawn_evenly_to_both_sides() -> None:
    """A single bright column: its slope tells the angle of each image."""
    augment = Augment(flip=0, rotation=40, **GEOMETRY)
    mask = torch.zeros(200, 33, 33, dtype=torch.long)
    mask[:, :, 16] = 1
    params = augment.make_params(0, 0, torch.arange(200))
    _, out = augment(torch.zeros(200, 3, 33, 33), mask, params)
    found = []
    for picture in out:
        y, x = (picture == 1).nonzero().double().T
        found.append(math.degrees(math.atan(float(((y - 16) * (x - 16)).sum() / ((y - 16) ** 2).sum()))))
    np.testing.assert_allclose(found, 40 * (2 * params[:, 7].numpy() - 1), atol=2.5)
    assert abs(np.mean(found)) < 5  # the standard error is 1.6
    assert 20 < np.std(found) < 26  # 23.1 for an even draw


@pytest.mark.parametrize("then", [{}, {"mixup": MixUp(probability=0.5)}])
def test_sizes_are_multiples_of_32_and_all_occur(then: dict[str, Transform]) -> None:
    augment = Augment(sizes=(0.5, 0.75, 1.0, 1.25), scale=(0.8, 1.2), then=then, **GEOMETRY)
    mask = labels(4, 128, 192)
    seen = {}
    for epoch in range(40):
        params = augment.make_params(0, epoch, torch.arange(4))
        size = augment.output_size(params, 128, 192)
        assert augment.output_size(augment.make_params(0, epoch, torch.arange(4)), 128, 192) == size
        if size not in seen:
            image, out = augment(painted(mask), mask, params, size)
            assert image.shape == (4, 3, *size)
            assert out.shape == (4, *size)
        seen[size] = seen.get(size, 0) + 1
    # 0.75 · 192 = 144 = 4.5 · 32 goes to the even multiple, as round does; 1.25 · 192 = 240 = 7.5 · 32 likewise.
    assert seen.keys() == {(64, 96), (96, 128), (128, 192), (160, 256)}
    assert min(seen.values()) >= 3


def test_another_size_shows_the_same_picture() -> None:
    """Twice the size of a smooth picture is the picture: no shift by half a pixel, and labels stay with colours."""
    augment = Augment(flip=0, sizes=(2.0,), **GEOMETRY)
    mask = labels(2, 32, 64)
    params = augment.make_params(0, 0, torch.arange(2))
    image, out = augment(painted(mask), mask, params, augment.output_size(params, 32, 64))
    assert torch.equal(out, mask.repeat_interleave(2, 1).repeat_interleave(2, 2))
    torch.testing.assert_close(
        image, torch.nn.functional.interpolate(painted(mask), scale_factor=2, mode="bilinear"), rtol=0, atol=1e-4
    )


def test_one_size_is_never_rounded() -> None:
    augment = Augment(flip=0, rotation=10, **GEOMETRY)
    assert augment.output_size(augment.make_params(0, 0, torch.arange(2)), 45, 77) == (45, 77)


# Random numbers


def test_more_numbers_leave_the_first_as_they_are() -> None:
    indices = torch.arange(50)
    assert torch.equal(uniform_numbers(4, 2, indices, 40)[:, :7], uniform_numbers(4, 2, indices, 7))
    full = Augment(rotation=5, then={"mixup": MixUp(probability=1), "blur": Blur(probability=1)})
    assert torch.equal(full.make_params(4, 2, indices)[:, :7], Augment().make_params(4, 2, indices))


def test_switching_a_part_on_changes_no_draw_of_the_others() -> None:
    def params(mixup: float, erase: float) -> Tensor:
        then = {"mixup": MixUp(probability=mixup), "erase": RandomErasing(probability=erase)}
        return Augment(then=then).make_params(1, 1, torch.arange(9))

    assert torch.equal(params(0, 0.5)[:, 12:], params(0.5, 0.5)[:, 12:])
    assert torch.equal(params(0.5, 0)[:, :12], params(0.5, 0.5)[:, :12])


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 2.0, 8.0])
def test_quantiles_of_beta_equal_scipys(alpha: float) -> None:
    p = np.linspace(0, 1, 501)
    np.testing.assert_allclose(beta_quantile(p, alpha, beta_table(alpha)), stats.beta(alpha, alpha).ppf(p), atol=2e-4)


# Parts


PARTS = {
    "mixup": MixUp(alpha=0.4, probability=0.6),
    "cutmix": CutMix(probability=0.6),
    "copy_paste": CopyPaste(probability=0.6),
    "tint": HueSaturation(0.5, 0.2, probability=0.6),
    "blur": Blur((0.3, 1.2), probability=0.6),
    "erase": RandomErasing((0.05, 0.3), probability=0.6),
}
MIXING = ("mixup", "cutmix", "copy_paste")
NAMES = [*PARTS, "all"]


def augment_with(*names: str) -> Augment:
    return Augment(flip=0, then={name: PARTS[name] for name in names}, **GEOMETRY)


def everything() -> Augment:
    return Augment(0.5, (0.5, 2.0), 0.5, 0.5, 0.8, rotation=30, sizes=(0.5, 1.0, 1.5), then=PARTS)


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_colours_stay_in_range_and_the_batch_as_it_was(name: str) -> None:
    augment = everything() if name == "all" else augment_with(name)
    mask = torch.stack([m * 0 + torch.randint(10 * i, 10 * i + 9, m.shape) for i, m in enumerate(labels(6, 32, 64))])
    mask[:, :8, :8] = 255
    image = torch.cat([photos(3, 32, 64), photos(3, 32, 64).round()])
    kept = image.clone(), mask.clone()
    for epoch in range(6):
        params = augment.make_params(3, epoch, torch.arange(6))
        out, out_mask = augment(image, mask, params, augment.output_size(params, 32, 64))
        assert out.shape[2:] == out_mask.shape[1:]
        assert out_mask.dtype == torch.int64
        assert out.min() >= 0
        assert out.max() <= 1
        for i, after in enumerate(out_mask):
            # Mixing parts in a row can bring in more than the next image's.
            sources = range(6) if name == "all" else {i, (i + 1) % 6} if name in MIXING else {i}
            allowed = set(mask[list(sources)].unique().tolist()) | {255}
            assert set(after.unique().tolist()) <= allowed
    assert torch.equal(image, kept[0])
    assert torch.equal(mask, kept[1])


@pytest.mark.parametrize("name", ["cutmix", "copy_paste", "erase", "blur", "all"])
def test_a_painted_mask_stays_aligned_through_the_parts(name: str) -> None:
    """MixUp and HueSaturation change colours by design; all others and the geometry keep label and colour together.

    Where an edge that grid_sample made soft is pasted onto its own label, soft pixels lie inside: with all, 1 % may.
    """
    augment = augment_with(*[n for n in PARTS if n == name])
    if name == "all":
        then = {k: v for k, v in PARTS.items() if k not in ("mixup", "tint")}
        augment = Augment(0.5, (0.7, 1.5), rotation=30, sizes=(1.0, 1.5), then=then, **GEOMETRY)
    mask = labels(12)
    checked = 0
    for epoch in range(2):
        params = augment.make_params(0, epoch, torch.arange(12))
        image, out = augment(painted(mask), mask, params, augment.output_size(params, 64, 96))
        inner = interior(out, 7) & (out != 255)  # Blur sees 4 pixels to each side, an edge enlarged 2.25× has 2
        wrong = (image - painted(out)).abs().amax(1)[inner] > 1e-4
        assert wrong.float().mean() <= (0.01 if name == "all" else 0)
        checked += int(inner.sum())
    assert checked > 500


@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers_give_the_same_batch_and_each_image_its_own(name: str) -> None:
    augment = everything() if name == "all" else augment_with(name)
    one, label = photos(1, 32, 32), labels(2, 32, 32, block=8)
    image = torch.cat([one, 1 - one]).repeat(8, 1, 1, 1)
    mask = label.repeat(8, 1, 1)
    params = augment.make_params(7, 1, torch.arange(16))
    first, again = augment(image, mask, params), augment(image, mask, augment.make_params(7, 1, torch.arange(16)))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    # All even images were alike, with like partners. Now they differ, but for those that were not drawn.
    looks = {tuple(picture.flatten().tolist()) for picture in first[0][::2]}
    assert len(looks) >= 4
    assert not torch.equal(first[0], image)
    other = augment(image, mask, augment.make_params(7, 2, torch.arange(16)))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", [n for n in PARTS if n not in MIXING])
def test_parts_within_an_image_do_not_depend_on_its_batch(name: str) -> None:
    augment = augment_with(name)
    image, mask, indices = photos(6, 32, 32), labels(6, 32, 32), torch.tensor([40, 3, 17, 8, 25, 11])
    together = augment(image, mask, augment.make_params(7, 2, indices))
    order = [4, 1, 5]
    apart = augment(image[order], mask[order], augment.make_params(7, 2, indices[order]))
    torch.testing.assert_close(apart[0], together[0][order], rtol=0, atol=1e-6)
    assert torch.equal(apart[1], together[1][order])


@pytest.mark.parametrize("name", PARTS)
def test_images_that_are_not_drawn_are_exactly_as_they_were(name: str) -> None:
    part = PARTS[name]
    image, mask = photos(40, 24, 24), labels(40, 32, 32, block=4)[:, :24, :24]
    params = part.make_params(uniform_numbers(0, 0, torch.arange(40), part.num_params))
    out, out_mask = part(image, mask, params)
    off = params[:, 0] >= 0.6
    assert 8 < off.sum() < 24
    assert torch.equal(out[off], image[off])
    assert torch.equal(out_mask[off], mask[off])
    changed = (out != image).flatten(1).any(1) | (out_mask != mask).flatten(1).any(1)
    assert changed[~off].float().mean() > 0.9


def test_probability_0_is_not_even_called() -> None:
    class Costly(Transform):
        def __call__(self, image: Tensor, mask: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            raise AssertionError("a part that is off was called")

    off = {name: type(part)(probability=0.0) for name, part in PARTS.items()} | {"own": Costly(0.0)}
    augment = Augment(flip=0, then=off, **GEOMETRY)
    image, mask = photos(4, 16, 16), labels(4, 16, 16)
    params = augment.make_params(0, 0, torch.arange(4))
    assert params.shape == (4, 7)
    out, out_mask = augment(image, mask, params)
    assert torch.equal(out, image)
    assert torch.equal(out_mask, mask)


# Each part by itself


def test_saturation_equals_torchvision() -> None:
    image, mask = photos(5, 16, 16), labels(5, 16, 16)
    params = torch.tensor([[0.0, u, 0.5] for u in (0.0, 0.2, 0.5, 0.8, 1.0)])
    out, out_mask = HueSaturation(saturation=0.8, hue=0, probability=1)(image, mask, params)
    for i, factor in enumerate((0.2, 0.52, 1.0, 1.48, 1.8)):
        torch.testing.assert_close(out[i], reference.adjust_saturation(image[i], factor), rtol=0, atol=1e-5)
    assert torch.equal(out_mask, mask)


def test_hue_equals_torchvision() -> None:
    image = photos(5, 16, 16)
    image[:, :, 0] = image[:, :1, 0]  # greys
    image[:, :, 1] = image[:, :, 1].round()  # pure colours, with ties
    turn = torch.tensor([-0.5, -0.13, 0.0, 0.2, 0.45])
    out, _ = HueSaturation(saturation=0, hue=0.5, probability=1)(
        image, labels(5, 16, 16), torch.stack([turn * 0, turn * 0, turn + 0.5], 1)
    )
    torch.testing.assert_close(out, rotate_hue(image, turn))
    for i in range(5):
        torch.testing.assert_close(out[i], reference.adjust_hue(image[i], float(turn[i])), rtol=0, atol=1e-5)


def test_blur_equals_torchvision_and_scipy() -> None:
    image, mask = photos(3, 20, 26), labels(3, 32, 32)[:, :20, :26]
    blur = Blur(sigma=(0.5, 1.5), probability=1)  # sees 5 pixels to each side
    out, out_mask = blur(image, mask, torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.0, 1.0]]))
    for i, sigma in enumerate((0.5, 1.0, 1.5)):
        torch.testing.assert_close(out[i], reference.gaussian_blur(image[i], [11, 11], [sigma] * 2), rtol=0, atol=1e-5)
        expected = [ndimage.gaussian_filter(c.numpy(), sigma, mode="mirror", radius=5) for c in image[i]]
        np.testing.assert_allclose(out[i].numpy(), np.stack(expected), atol=1e-5)
    assert torch.equal(out_mask, mask)


def test_erased_rectangles_have_the_area_asked_for_and_are_ignored() -> None:
    height, width = 60, 100
    erase = RandomErasing(area=(0.1, 0.3), aspect=(0.5, 2.0), probability=1)
    image, mask = 0.5 + 0.5 * photos(200, height, width), torch.full((200, height, width), 4)
    params = uniform_numbers(1, 0, torch.arange(200), 5)
    out, out_mask = erase(image, mask, params)
    gone = out_mask == 255
    assert torch.equal(gone, (out == GREY).all(1))
    assert torch.equal(out.permute(0, 2, 3, 1)[~gone], image.permute(0, 2, 3, 1)[~gone])
    share = gone.float().mean((1, 2))
    torch.testing.assert_close(share, 0.1 + 0.2 * params[:, 1], rtol=0, atol=0.012)
    tall, wide = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(tall * wide, gone.sum((1, 2)))  # a rectangle
    wanted = torch.exp(math.log(0.5) + math.log(4) * params[:, 2])
    free = (tall < height) & (wide < width)
    torch.testing.assert_close((tall / wide)[free], wanted[free], rtol=0.12, atol=0)
    assert len({(int(g.any(1).int().argmax()), int(g.any(0).int().argmax())) for g in gone}) > 150


def test_rectangles_reach_every_border_and_become_longer_where_they_must() -> None:
    place = torch.tensor([[0.0, 0.0], [0.9999, 0.9999]])
    first, last = rectangles(torch.full((2,), 0.25), torch.ones(2), place, 8, 8)
    assert first[:4, :4].all()
    assert last[4:, 4:].all()
    assert first.sum() == last.sum() == 16
    # Half of 10 × 40 with an aspect of 1 would be 14 high: it is 10 × 20. With one of 1/100, wider than 40: 5 × 40.
    flat = rectangles(torch.full((2,), 0.5), torch.tensor([1.0, 0.01]), place, 10, 40)
    assert [(int(f.any(1).sum()), int(f.any(0).sum())) for f in flat] == [(10, 20), (5, 40)]
    assert not rectangles(torch.zeros(2), torch.ones(2), place, 8, 8).any()


def test_cutmix_moves_a_rectangle_of_the_share_1_minus_lambda() -> None:
    image, mask = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 3, 40, 60) / 50, torch.arange(50).view(50, 1, 1)
    mask = mask.repeat(1, 40, 60)
    mask[1::10, :20] = 255  # void moves along
    part = CutMix(probability=1)
    params = part.make_params(uniform_numbers(2, 0, torch.arange(50), 4))
    out, out_mask = part(image, mask, params)
    theirs = out[:, 0] != image[:, 0]
    for i in range(50):
        partner = (i + 1) % 50
        assert torch.equal(out[i][:, theirs[i]], image[partner][:, theirs[i]])
        assert torch.equal(out_mask[i][theirs[i]], mask[partner][theirs[i]])
        assert torch.equal(out_mask[i][~theirs[i]], mask[i][~theirs[i]])
    assert (out_mask[::10] == 255).any()
    torch.testing.assert_close(theirs.float().mean((1, 2)), 1 - params[:, 1], rtol=0, atol=0.025)
    assert 0.4 < (1 - params[:, 1]).mean() < 0.6  # alpha 1 is an even draw


def test_mixup_mixes_colours_by_lambda_and_draws_labels_with_it() -> None:
    image, mask = photos(30, 32, 48), torch.arange(30).view(30, 1, 1).repeat(1, 32, 48)
    mask[3] = 255
    part = MixUp(alpha=1.0, probability=1)
    params = part.make_params(uniform_numbers(5, 0, torch.arange(30), 3))
    out, out_mask = part(image, mask, params)
    own = params[:, 1]
    for i in range(30):
        partner = (i + 1) % 30
        torch.testing.assert_close(out[i], own[i] * image[i] + (1 - own[i]) * image[partner])
        assert set(out_mask[i].unique().tolist()) <= {int(mask[i, 0, 0]), int(mask[partner, 0, 0])}
    share = (out_mask == mask).float().mean((1, 2))
    torch.testing.assert_close(share, own, rtol=0, atol=0.01)  # independent noise would be off by up to 0.03


def test_the_drawn_labels_loss_is_the_mixed_loss_on_average() -> None:
    """Over many draws of one pair with one λ, the cross-entropy is λ of the one and 1−λ of the other's."""
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    own = 0.3
    phases = (torch.arange(400) + 0.5) / 400
    drawn = torch.where(dither(phases, 8, 8) < own, mask[0], mask[1])
    loss = torch.nn.functional.cross_entropy(logits.expand(400, -1, -1, -1), drawn)
    ends = [torch.nn.functional.cross_entropy(logits, m[None]) for m in mask]
    torch.testing.assert_close(loss, own * ends[0] + (1 - own) * ends[1], rtol=1e-3, atol=0)


def test_dither_is_even_in_any_neighbourhood() -> None:
    noise = dither(torch.tensor([0.1, 0.77]), 64, 64)
    assert noise.min() >= 0
    assert noise.max() < 1
    for threshold in (0.1, 0.5, 0.9):
        share = torch.nn.functional.avg_pool2d((noise < threshold).float()[:, None], 16, 1)
        assert (share - threshold).abs().max() < 0.03  # independent noise: up to 0.15


def test_copy_paste_by_hand() -> None:
    """Background 0 and void are never pasted; a class that the partner has lands with its pixels, nothing else."""
    b, v = 0, 255
    mask = torch.tensor([[[b, 1], [1, v]], [[2, b], [2, v]], [[b, b], [v, b]], [[7, 254], [b, 1]]])
    image = (torch.arange(48.0).view(4, 3, 2, 2)) / 48
    paste = CopyPaste(background=0, probability=1)
    out, out_mask = paste(image, mask, torch.tensor([[0.0, 0.9], [0.0, 0.1], [0.0, 0.5], [0.0, 0.0]]))
    # 0 gets class 2 of image 1; 1 gets nothing of image 2; 2 gets of {1, 7, 254} the middle one; 3 gets class 1 of 0.
    assert out_mask.tolist() == [[[2, 1], [2, v]], [[2, b], [2, v]], [[7, b], [v, b]], [[7, 1], [1, 1]]]
    for i, places in enumerate([[(0, 0), (1, 0)], [], [(0, 0)], [(0, 1), (1, 0)]]):
        for y, x in itertools.product(range(2), range(2)):
            source = (i + 1) % 4 if (y, x) in places else i
            assert torch.equal(out[i, :, y, x], image[source, :, y, x])


def test_copy_paste_draws_evenly_and_without_a_background_takes_class_0_too() -> None:
    mask = torch.tensor([0, 3, 200, 255]).view(1, 2, 2).repeat(600, 1, 1)
    params = uniform_numbers(0, 0, torch.arange(600), 2)
    for background, there in ((None, [0, 3, 200]), (0, [3, 200]), (3, [0, 200])):
        target = torch.full_like(mask, 9)
        both = torch.stack([target, mask], 1).flatten(0, 1)
        _, out = CopyPaste(background, probability=1)(torch.zeros(1200, 3, 2, 2), both, params.repeat_interleave(2, 0))
        pasted = torch.stack([out[0::2].eq(label).flatten(1).any(1) for label in there])
        assert (pasted.sum(0) == 1).all()
        torch.testing.assert_close(pasted.float().mean(1), torch.full((len(there),), 1 / len(there)), rtol=0, atol=0.07)


@pytest.mark.parametrize("name", MIXING)
def test_a_batch_of_one_has_no_partner(name: str) -> None:
    part = PARTS[name]
    image, mask = photos(1, 16, 16), labels(1, 16, 16)
    params = part.make_params(torch.tensor([[0.0, 0.4, 0.6, 0.2]])[:, : part.num_params])
    out, out_mask = part(image, mask, params)
    torch.testing.assert_close(out, image)
    assert torch.equal(out_mask, mask)


# Settings


def test_the_default_only_adds_to_what_a_data_set_says() -> None:
    """conf/augment/default.yaml repeats no key of a data file, else it would silently win over it; strong does win."""
    plain, strong = (compose_config([f"augment={name}", "data=scenes"]).data.augment for name in ("default", "strong"))
    assert instantiate(plain).transforms == []
    assert plain.scale == [1.0, 1.0]
    assert strong.scale == [0.5, 2.0]
    assert len(instantiate(strong).transforms) == 6
    assert compose_config(["augment=none"]).data.augment is None
    added = {"_target_", "rotation", "sizes", "then"}
    assert {str(k) for k in plain} - added == {"flip", "scale", "brightness", "contrast", "colour"}
    for file in (CONF / "data_common.yaml", *(CONF / "data").glob("*.yaml")):
        block = file.read_text().partition("\naugment:\n")[2]
        keys = {line.split(":")[0].strip() for line in block.splitlines() if line.startswith("  ")}
        assert keys & added <= {"_target_"}

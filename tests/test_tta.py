"""Views at the test, and the auxiliary head in training."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segstudy.build import build_network
from segstudy.config.compose import compose_config
from segstudy.errors import ConfigError
from segstudy.inference.tta import TestTimeAugmentation

IMAGE = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


class Pixelwise(nn.Module):
    """Logits that depend on the pixel alone: every view agrees."""

    def forward(self, image: Tensor) -> Tensor:
        return 4 * image


class Leftmost(nn.Module):
    """Class 1 grows to the right: a mirrored view disagrees."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(-2, 2, image.shape[3]).expand(len(image), 1, image.shape[2], -1)
        return torch.cat([torch.zeros_like(ramp), ramp], 1)


def test_one_plain_view_is_the_prediction() -> None:
    views = TestTimeAugmentation(flip=False).mean_probability(Pixelwise(), IMAGE)
    torch.testing.assert_close(views, (4 * IMAGE).softmax(1))
    torch.testing.assert_close(TestTimeAugmentation(flip=True).mean_probability(Pixelwise(), IMAGE), views)


def test_a_mirrored_view_is_mirrored_back() -> None:
    views = TestTimeAugmentation(flip=True).mean_probability(Leftmost(), IMAGE)
    plain = Leftmost()(IMAGE).softmax(1)
    torch.testing.assert_close(views, (plain + plain.flip(3)) / 2)
    torch.testing.assert_close(views, views.flip(3))


@pytest.mark.parametrize("scales", [[0.5], [0.5, 1.0, 2.0]])
def test_scales_come_back_to_the_images_size(scales: Sequence[float]) -> None:
    sizes: list[tuple[int, ...]] = []

    class Watched(Pixelwise):
        def forward(self, image: Tensor) -> Tensor:
            sizes.append(tuple(image.shape[2:]))
            return super().forward(image)

    views = TestTimeAugmentation(False, tuple(scales)).mean_probability(Watched(), IMAGE)
    assert sizes == [(round(24 * s), round(32 * s)) for s in scales]
    expected = torch.zeros(())
    for s in scales:
        scaled = F.interpolate(IMAGE, size=(round(24 * s), round(32 * s)), mode="bilinear") if s != 1 else IMAGE
        expected = expected + F.interpolate(4 * scaled, size=(24, 32), mode="bilinear").softmax(1)
    torch.testing.assert_close(views, expected / len(scales))
    torch.testing.assert_close(views.sum(1), torch.ones(2, 24, 32))


def test_the_auxiliary_head_changes_only_training() -> None:
    thin = ["model=v1", "encoder.widths=[8,8,8,8,8]", "decoder.widths=[8,8,8,8]"]
    plain, _ = build_network(compose_config(thin), 5, load_weights=False)
    other, _ = build_network(compose_config([*thin, "network.auxiliary=0.4"]), 5, load_weights=False)
    assert set(other.state_dict()) - set(plain.state_dict()) == {
        k for k in other.state_dict() if k.startswith("auxiliary.")
    }
    image = torch.rand(2, 3, 33, 47)
    torch.testing.assert_close(plain.eval()(image), other.eval()(image))  # the same start, and nothing added
    logits, extra = other(image, auxiliary=True)
    assert logits.shape == extra.shape == (2, 5, 33, 47)


def test_the_auxiliary_loss_reaches_the_encoder_with_its_weight() -> None:
    from segstudy.build import build_data, build_module

    thin = ["model=v1", "encoder.widths=[8,8,8,8,8]", "decoder.widths=[8,8,8,8]", "data.train_images=9", "data.size=32"]
    cfg = compose_config([*thin, "network.auxiliary=0.4"])
    data = build_data(cfg)
    network, _ = build_network(cfg, len(data.classes), load_weights=False)
    module = build_module(cfg, network.eval(), data)
    module.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    batch = data.on_after_batch_transfer(data.roles["fit"].__getitems__(range(2)), 0)
    logits, extra = network(batch["image"], auxiliary=True)
    expected = module.loss(logits, batch["mask"]) + 0.4 * module.loss(extra, batch["mask"])
    torch.testing.assert_close(module._step(batch, "train")[0], expected)
    torch.testing.assert_close(module._step(batch, "val")[0], module.loss(logits, batch["mask"]))


def test_views_that_are_none_are_refused() -> None:
    for text in ("flop", "flip,0", "1,nan"):
        with pytest.raises(ConfigError, match=rf"--tta {text}: must be 'flip' and factors above 0"):
            TestTimeAugmentation.parse(text)

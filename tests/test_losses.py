"""Losses: each against an independent computation, and the promises that all of them keep."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from segstudy.class_weights import balanced_weights
from segstudy.config.paths import CONF
from segstudy.losses import (
    OHEM,
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    Jaccard,
    Lovasz,
    Tversky,
    WeightedSum,
    _lovasz_gradient,
)

Arrays = Callable[[np.ndarray, np.ndarray], float]


def sample(classes: int = 4, seed: int = 0, size: int = 9) -> tuple[Tensor, Tensor]:
    """Random logits and a mask with a fifth of the pixels ignored; class 3 is absent where there are more than 3."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, classes, size, size + 2, generator=generator)
    mask = torch.randint(0, min(classes, 3), (3, size, size + 2), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    return logits, mask


# The independent computations: NumPy in float64 on the counted pixels, one pixel or class at a time.


def probabilities(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def nlls(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([-math.log(probabilities(x)[i, c]) for i, c in enumerate(y)])


def cross_entropy(weights: list[float] | None = None) -> Arrays:
    def value(x: np.ndarray, y: np.ndarray) -> float:
        w = np.ones(len(y)) if weights is None else np.array([weights[c] for c in y])
        return float((w * nlls(x, y)).sum() / w.sum())

    return value


def smoothed(epsilon: float) -> Arrays:
    def value(x: np.ndarray, y: np.ndarray) -> float:
        target = np.eye(x.shape[1])[y] * (1 - epsilon) + epsilon / x.shape[1]
        return float(-(target * np.log(probabilities(x))).sum(1).mean())

    return value


def focal(gamma: float, weights: list[float] | None = None) -> Arrays:
    def value(x: np.ndarray, y: np.ndarray) -> float:
        true = probabilities(x)[np.arange(len(y)), y]
        w = np.ones(len(y)) if weights is None else np.array(weights)[y]
        return float((w * (1 - true) ** gamma * -np.log(true)).mean())

    return value


def overlap(alpha: float, beta: float, background: bool = True, smooth: float = 0.0) -> Arrays:
    def value(x: np.ndarray, y: np.ndarray) -> float:
        p, losses = probabilities(x), []
        for c in sorted(set(y.tolist())):
            if c == 0 and not background:
                continue
            tp, fp, fn = p[y == c, c].sum(), p[y != c, c].sum(), (1 - p[y == c, c]).sum()
            losses.append(1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth))
        return float(np.mean(losses))

    return value


def dice(smooth: float) -> Arrays:
    """Dice in its usual form: (2 Σ pt + s) / (Σ p + Σ t + s)."""

    def value(x: np.ndarray, y: np.ndarray) -> float:
        p, t = probabilities(x), np.eye(x.shape[1])[y]
        score = (2 * (p * t).sum(0) + smooth) / (p.sum(0) + t.sum(0) + smooth)
        return float((1 - score)[t.sum(0) > 0].mean())

    return value


def ohem(threshold: float, share: float) -> Arrays:
    def value(x: np.ndarray, y: np.ndarray) -> float:
        losses = sorted(nlls(x, y), reverse=True)
        hard = sum(math.exp(-v) < threshold for v in losses)
        return float(np.mean(losses[: max(hard, 1, int(share * len(y)))]))

    return value


def lovasz(background: bool = True) -> Arrays:
    """The Lovász extension by its definition: each error times the growth of the Jaccard loss of the set before it."""

    def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
        return len(wrong) / len(truth | wrong)

    def value(x: np.ndarray, y: np.ndarray) -> float:
        p, losses = probabilities(x), []
        for c in sorted(set(y.tolist())):
            if c == 0 and not background:
                continue
            truth, errors = {i for i in range(len(y)) if y[i] == c}, np.abs((y == c) - p[:, c])
            wrong: set[int] = set()
            loss = 0.0
            for i in np.argsort(-errors):
                loss += errors[i] * (jaccard_loss(wrong | {int(i)}, truth) - jaccard_loss(wrong, truth))
                wrong.add(int(i))
            losses.append(loss)
        return float(np.mean(losses))

    return value


def bce(pos_weight: float) -> Arrays:
    def value(x: np.ndarray, y: np.ndarray) -> float:
        p = 1 / (1 + np.exp(x[:, 0] - x[:, 1]))
        return float(-(pos_weight * y * np.log(p) + (1 - y) * np.log(1 - p)).mean())

    return value


def both(a: Arrays, b: Arrays, u: float, v: float) -> Arrays:
    return lambda x, y: u * a(x, y) + v * b(x, y)


WEIGHTS = [0.3, 1.0, 2.5, 0.7]
CASES: dict[str, tuple[nn.Module, Arrays, int]] = {
    "ce": (CrossEntropy(), cross_entropy(), 4),
    "ce list": (CrossEntropy(WEIGHTS), cross_entropy(WEIGHTS), 4),
    "ce background": (CrossEntropy(background_weight=0.1), cross_entropy([0.1, 1, 1, 1]), 4),
    "ce smoothed": (CrossEntropy(label_smoothing=0.2), smoothed(0.2), 4),
    "focal": (Focal(2.0), focal(2.0), 4),
    "focal 0.5": (Focal(0.5, WEIGHTS), focal(0.5, WEIGHTS), 4),
    "dice": (Dice(), overlap(0.5, 0.5), 4),
    "dice smooth": (Dice(smooth=3.0), dice(3.0), 4),
    "dice no background": (Dice(include_background=False), overlap(0.5, 0.5, False), 4),
    "jaccard": (Jaccard(smooth=2.0), overlap(1, 1, smooth=2.0), 4),
    "tversky": (Tversky(0.3, 0.7, smooth=1.0), overlap(0.3, 0.7, smooth=1.0), 4),
    "lovasz": (Lovasz(), lovasz(), 4),
    "lovasz no background": (Lovasz(include_background=False), lovasz(False), 4),
    "ohem threshold": (OHEM(0.7, 0.1), ohem(0.7, 0.1), 4),
    "ohem kept": (OHEM(0.01, 0.5), ohem(0.01, 0.5), 4),
    "bce": (BinaryCrossEntropy(), bce(1.0), 2),
    "bce pos_weight": (BinaryCrossEntropy(3.0), bce(3.0), 2),
    "sum": (
        WeightedSum({"a": Dice(), "b": Focal()}, {"a": 0.25, "b": 2.0}),
        both(dice(0.0), focal(2.0), 0.25, 2.0),
        4,
    ),
}
FILES = sorted((CONF / "loss").glob("*.yaml"))


def shipped(file: Path) -> nn.Module:
    return instantiate(OmegaConf.load(file), _convert_="all")


def counted(logits: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    x = logits.float().numpy().astype(np.float64).transpose(0, 2, 3, 1)[mask.numpy() != 255]
    return x, mask.numpy()[mask.numpy() != 255]


shipped_loss = pytest.mark.parametrize("loss", [shipped(f) for f in FILES], ids=[f.stem for f in FILES])
every_loss = pytest.mark.parametrize(
    "loss",
    [shipped(f) for f in FILES] + [case[0] for case in CASES.values()],
    ids=[f.stem for f in FILES] + list(CASES),
)


@pytest.mark.parametrize(("loss", "independent", "classes"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_an_independent_computation(loss: nn.Module, independent: Arrays, classes: int, seed: int) -> None:
    logits, mask = sample(classes, seed)
    value = loss(logits, mask)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(independent(*counted(logits, mask)), rel=2e-5)


@pytest.mark.parametrize(("loss", "independent", "classes"), CASES.values(), ids=CASES)
def test_equals_it_under_bf16_autocast(loss: nn.Module, independent: Arrays, classes: int) -> None:
    logits, mask = sample(classes)
    logits = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, mask)
    assert value.dtype == torch.float32
    # The logits are rounded before the loss, so that the computation on them is exact to float32, not only to bf16.
    assert value.item() == pytest.approx(independent(*counted(logits, mask)), rel=2e-5)


def test_every_config_file_is_tested() -> None:
    assert {type(shipped(f)) for f in FILES} == {type(case[0]) for case in CASES.values()}


@every_loss
def test_all_ignored_gives_zero_with_a_gradient(loss: nn.Module) -> None:
    logits = torch.randn(2, 2, 5, 5, requires_grad=True)
    value = loss(logits, torch.full((2, 5, 5), 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def two_class_weights(loss: nn.Module) -> nn.Module:
    return CrossEntropy([0.3, 1.0]) if getattr(loss, "class_weights", None) else loss


@every_loss
def test_pixels_under_255_change_neither_value_nor_gradient(loss: nn.Module) -> None:
    loss = two_class_weights(loss)
    logits, mask = sample(2)
    changed = torch.where((mask == 255)[:, None], torch.full_like(logits, 1e4), logits)
    changed[0, 0][mask[0] == 255] = math.nan
    values, gradients = [], []
    for x in (logits, changed):
        x = x.clone().requires_grad_()
        value = loss(x, mask)
        value.backward()
        values.append(value.item())
        gradients.append(x.grad)
    assert values[0] == values[1] > 0
    assert torch.equal(gradients[0], gradients[1])
    assert gradients[0].abs().sum() > 0
    assert not gradients[0].permute(0, 2, 3, 1)[mask == 255].any()


@every_loss
def test_gradient_is_the_slope_of_the_value(loss: nn.Module) -> None:
    loss = two_class_weights(loss)
    logits, mask = sample(2, size=4)
    logits.requires_grad_()
    loss(logits, mask).backward()
    assert logits.grad is not None
    step = 2e-3 * torch.sign(torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        slope = (loss(logits + step, mask) - loss(logits - step, mask)) / 2
    assert slope.item() == pytest.approx((logits.grad * step).sum().item(), rel=0.02, abs=4e-6)


@shipped_loss
def test_training_on_it_finds_the_mask(loss: nn.Module) -> None:
    loss = two_class_weights(loss)
    _, mask = sample(2)
    logits = torch.zeros(3, 2, 9, 11, requires_grad=True)
    for _ in range(20):
        (gradient,) = torch.autograd.grad(loss(logits, mask), logits)
        logits = (logits - 0.5 * gradient.sign()).detach().requires_grad_()
    # A Dice that leaves the background out still pushes down the foreground's false positives.
    assert torch.equal(logits.argmax(1)[mask != 255], mask[mask != 255])


@shipped_loss
def test_half_precision_sums_do_not_overflow(loss: nn.Module) -> None:
    loss = two_class_weights(loss)
    if hasattr(loss, "smooth"):
        loss.smooth = 0.0  # a constant beside the counts is felt more by few pixels
    logits = torch.zeros(1, 2, 512, 512, dtype=torch.float16, requires_grad=True)
    mask = torch.zeros(1, 512, 512, dtype=torch.int64)
    mask[:, 256:] = 1
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, mask)
    value.backward()
    # 512² pixels are no different from 2² pixels, since everything is an average or a ratio.
    small = torch.tensor([[0, 0], [1, 1]])[None]
    assert value.item() == pytest.approx(loss(torch.zeros(1, 2, 2, 2), small).item(), rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [Dice(), Jaccard(), Tversky(0.3, 0.7)], ids=lambda loss: type(loss).__name__)
def test_soft_counts_stay_exact_over_two_million_pixels(loss: nn.Module) -> None:
    # Added up one by one in float32, two million times 1/21 is off by more than a hundredth.
    logits = torch.tensor([math.log(1 / 21), math.log(20 / 21)]).view(1, 2, 1, 1).expand(2, 2, 1024, 1024)
    mask = torch.zeros(2, 1024, 1024, dtype=torch.int64)
    score = 1 - loss(logits[:1, :, :2, :2], mask[:1, :2, :2]).item()
    assert 1 - loss(logits, mask).item() == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize(("loss", "mode"), [(Dice(), smp.losses.DiceLoss), (Jaccard(), smp.losses.JaccardLoss)])
def test_equals_the_librarys_where_every_class_is_there(loss: nn.Module, mode: type[nn.Module]) -> None:
    logits, mask = sample(3, 4)
    mask = mask.where(mask != 255, 0)
    assert loss(logits, mask).item() == pytest.approx(mode("multiclass")(logits, mask).item(), rel=1e-5)


def test_dice_does_not_shrink_under_a_150_class_head() -> None:
    mask = torch.tensor([0, 1, 2]).repeat(4).view(1, 3, 4)
    few = torch.zeros(1, 3, 3, 4)
    many = torch.cat([few, torch.full((1, 147, 3, 4), -50.0)], 1)  # 147 classes that are neither there nor predicted
    assert Dice()(few, mask).item() == pytest.approx(2 / 3)  # p = 1/3: 2·4/3 / (4 + 4)
    assert Dice()(many, mask).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [Dice, Jaccard, Tversky, Lovasz])
def test_background_alone_and_left_out_gives_zero_with_a_gradient(kind: type[nn.Module]) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = kind(include_background=False)(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("kind", [CrossEntropy, Focal])
@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0] * 4])
def test_a_list_of_the_wrong_length_is_refused(kind: type[nn.Module], weights: list[float]) -> None:
    with pytest.raises(ValueError, match=rf"class_weights has {len(weights)} entries, the data has 3 classes"):
        kind(class_weights=weights)(*sample(3))


def test_only_classes_of_weight_zero_in_the_batch() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = CrossEntropy([0.0, 1.0, 1.0])(logits, torch.zeros(1, 2, 2, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_bce_refuses_three_classes() -> None:
    with pytest.raises(ValueError, match="needs two classes, the data has 3; use loss=ce"):
        BinaryCrossEntropy()(*sample(3))


def test_bce_of_two_logits_is_their_cross_entropy() -> None:
    logits, mask = sample(2)
    assert BinaryCrossEntropy()(logits, mask).item() == pytest.approx(CrossEntropy()(logits, mask).item(), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_a_certain_pixel_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[60.0, 0.0], [-60.0, 0.0]]).view(2, 2, 1, 1).requires_grad_()
    Focal(gamma)(logits, torch.zeros(2, 1, 1, dtype=torch.int64)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().sum() > 0


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, mask = sample()
    assert Focal(0.0)(logits, mask).item() == pytest.approx(CrossEntropy()(logits, mask).item(), rel=1e-6)


def test_ohem_by_hand() -> None:
    true = torch.tensor([0.9, 0.8, 0.6, 0.5, 0.2])  # probability of the true class, pixel by pixel
    logits = torch.stack([true.log(), (1 - true).log()])[None, :, None]
    mask = torch.zeros(1, 1, 5, dtype=torch.int64)
    below = -sum(math.log(p) for p in (0.6, 0.5, 0.2)) / 3
    assert OHEM(0.7, 0.1)(logits, mask).item() == pytest.approx(below, rel=1e-5)
    at_least = -sum(math.log(p) for p in (0.8, 0.6, 0.5, 0.2)) / 4
    assert OHEM(0.7, 0.8)(logits, mask).item() == pytest.approx(at_least, rel=1e-5)
    assert OHEM(0.1, 0.0)(logits, mask).item() == pytest.approx(-math.log(0.2), rel=1e-5)  # none is hard: the hardest


def test_weighted_sum_names_must_match() -> None:
    with pytest.raises(ValueError, match=r"loss.terms has \['ce'\], loss.weights has \['dice'\]"):
        WeightedSum({"ce": CrossEntropy()}, {"dice": 1.0})


def test_balanced_weights_by_hand() -> None:
    # 1/100, 1/50, –, 1/25: their mean is .07/3
    assert balanced_weights([100, 50, 0, 25]) == pytest.approx([3 / 7, 6 / 7, 0, 12 / 7])
    assert balanced_weights([0, 0]) == [0, 0]


def test_lovasz_gradient_is_exact_for_many_pixels() -> None:
    """Against Berman's algorithm 1 in float64: 2¹⁸ pixels, where float32 differences were off by a per cent."""
    generator = np.random.default_rng(0)
    labels = torch.from_numpy((generator.random(1 << 18) < 0.05).astype(np.int64))
    logits = torch.from_numpy(generator.normal(0, 2, (1 << 18, 2)).astype(np.float32)).requires_grad_()
    loss = Lovasz(include_background=False).compute(logits, labels)
    loss.backward()
    exact = logits.detach().double().requires_grad_()
    truth = labels.double()
    errors, order = (truth - exact.softmax(1)[:, 1]).abs().sort(descending=True)
    jaccard = 1 - (truth.sum() - truth[order].cumsum(0)) / (truth.sum() + (1 - truth[order]).cumsum(0))
    expected = errors @ torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad is not None
    assert exact.grad is not None
    assert (logits.grad - exact.grad).abs().sum() / exact.grad.abs().sum() < 1e-5
    assert (logits.grad == 0).float().mean() < 1e-3


def test_lovasz_gradient_by_hand() -> None:
    truth = torch.tensor([False, True, False, True, False])  # of two pixels of the class: I/U = 2/3, 1/3, 1/4, 0/4, 0/5
    steps = _lovasz_gradient(truth)
    torch.testing.assert_close(steps, torch.tensor([1 / 3, 1 / 3, 1 / 12, 1 / 4, 0.0]))
    many = _lovasz_gradient(torch.arange(1 << 20) % 7 == 0)
    assert many.double().sum().item() == pytest.approx(1, abs=1e-6)  # from the loss of no error to that of all

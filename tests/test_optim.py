"""Learning rates: parameter groups, schedules, and the frozen encoder."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader

from segstudy import optim
from segstudy.callbacks.freeze import FreezeEncoder
from segstudy.config.compose import apply_overrides, compose_config
from segstudy.errors import ConfigError
from segstudy.losses import CrossEntropy
from segstudy.module import SegmentationModule
from segstudy.networks.encoders import LibraryEncoder
from segstudy.networks.smp import SMPNetwork
from segstudy.optim import parameter_groups


class Tiny(nn.Module):
    """An encoder with batch statistics, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(image))


NETWORKS: list[Callable[[], nn.Module]] = [
    Tiny,
    lambda: SMPNetwork(2, LibraryEncoder("resnet18", weights=None)),
    lambda: nn.Conv2d(3, 2, 1),
]


@pytest.mark.parametrize("build", NETWORKS, ids=["sockets", "smp", "without encoder"])
def test_groups_hold_every_parameter_once(build: Callable[[], nn.Module]) -> None:
    network = build()
    groups = parameter_groups(network, 0.1, 0.01)
    held = [id(p) for g in groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in network.parameters()}
    AdamW(groups)


def test_the_encoder_has_a_rate_of_its_own() -> None:
    network = Tiny()
    encoder, rest = parameter_groups(network, 0.1, 0.01)
    assert (encoder["name"], encoder["lr"], rest["name"], rest["lr"]) == ("encoder", 0.01, "rest", 0.1)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in network.encoder.parameters()}
    assert [g["lr"] for g in parameter_groups(network, 0.1, None)] == [0.1, 0.1]
    assert parameter_groups(network, 0.1, 0.0)[0]["lr"] == 0  # zero is a rate, not "none given"


@pytest.mark.parametrize("decay_norms", [False, True])
@pytest.mark.parametrize("build", NETWORKS, ids=["sockets", "smp", "without encoder"])
def test_weight_decay_is_on_weights_alone(build: Callable[[], nn.Module], decay_norms: bool) -> None:
    network = build()
    rule = partial(AdamW, weight_decay=0.5)
    module = SegmentationModule(
        network, CrossEntropy(), ["a", "b"], rule, optim.constant, 0.1, encoder_lr=0.01, decay_norms=decay_norms
    )
    module._trainer = SimpleNamespace(gradient_clip_val=None)  # type: ignore[assignment]
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)  # only the decay moves: times 1 − lr · decay
    planned = module.configure_optimizers()  # the schedule refers to the optimizer weakly
    planned["optimizer"].step()
    small = {
        f"{name}.{n}".lstrip(".")
        for name, part in network.named_modules()
        for n, _ in part.named_parameters(recurse=False)
        if isinstance(part, nn.BatchNorm2d) or n == "bias"
    }
    assert small
    for name, parameter in network.named_parameters():
        rate = 0.01 if "encoder" in name else 0.1
        factor = 1 - rate * 0.5 if decay_norms or name not in small else 1
        torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-6, atol=0)


def test_without_weight_decay_the_groups_are_two() -> None:
    module = SegmentationModule(Tiny(), CrossEntropy(), ["a", "b"], partial(Adam, weight_decay=0.0), optim.constant)
    module._trainer = SimpleNamespace(gradient_clip_val=None)  # type: ignore[assignment]
    names = [group["name"] for group in module.configure_optimizers()["optimizer"].param_groups]
    assert names == ["encoder", "rest"]


def test_as_published_decays_what_its_author_decayed() -> None:
    for reproduce in ([], ["reproduce=as_published"]):
        given = ["experiment=resnet_unet", "data.root=x", *reproduce]
        cfg = compose_config(given)
        apply_overrides(cfg, given)
        assert (cfg.optim.decay_norms, cfg.optim.optimizer.weight_decay) == (bool(reproduce), 1e-5)


def rates(schedule: Callable[..., dict[str, Any]], points: Sequence[float], **options: Any) -> list[float]:
    """The learning rates of two groups (1.0 and 0.1) at points of progress; checks that their ratio is kept."""
    spent = [0.0]
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = SGD(groups)
    plan = schedule(optimizer, lambda: spent[0], **options)
    assert plan["interval"] == "step"
    found = []
    for point in points:
        spent[0] = point
        optimizer.step()
        plan["scheduler"].step()
        first, second = (g["lr"] for g in optimizer.param_groups)
        assert second == pytest.approx(first / 10)
        found.append(first)
    return found


def test_cosine_by_hand() -> None:
    points = [0.05, 0.1, 0.1 + 0.9 / 3, 0.55, 1.0, 1.2]
    assert rates(optim.cosine, points, warmup=0.1) == pytest.approx([0.5, 1, 0.75, 0.5, 0, 0], abs=1e-9)


def test_cosine_without_warm_up_and_its_first_step() -> None:
    assert rates(optim.cosine, [0, 0.5, 1], warmup=0.0) == pytest.approx([1, 0.5, 0], abs=1e-9)
    assert rates(optim.cosine, [0], warmup=0.1) == [0.01]  # else the first step would learn nothing


def test_poly_by_hand() -> None:
    assert rates(optim.poly, [0, 0.5, 1, 1.1]) == pytest.approx([1, 0.5**0.9, 0, 0])
    assert rates(optim.poly, [0.75], power=2.0) == pytest.approx([1 / 16])


def test_constant() -> None:
    assert rates(optim.constant, [0, 0.5, 1]) == [1, 1, 1]


def test_step_by_hand() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    plan = optim.step(optimizer, lambda: 0.0, every=2, gamma=0.1)
    found = []
    for _ in range(5):
        optimizer.step()
        plan["scheduler"].step()
        found.append(optimizer.param_groups[0]["lr"])
    assert plan["interval"] == "epoch"
    assert found == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(("monitor", "sign"), [("val/loss", 1), ("val/miou", -1)])
def test_plateau_by_hand(monitor: str, sign: int) -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    plan = optim.plateau(optimizer, lambda: 0.0, monitor=monitor, factor=0.5, patience=1)
    found = []
    for value in (3.0, 2.0, 2.0, 2.5, 1.0):  # better, better, stalled once, stalled twice, better
        plan["scheduler"].step(value**sign)
        found.append(optimizer.param_groups[0]["lr"])
    assert (plan["monitor"], plan["interval"]) == (monitor, "epoch")
    assert found == [1, 1, 1, 0.5, 0.5]


class Watch(L.Callback):
    """Keeps the encoder's convolution, running mean and mode at the end of each training epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, bool]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        convolution, norm = pl_module.network.encoder
        self.seen.append((convolution.weight.detach().clone(), norm.running_mean.clone(), norm.training))


def fit(folder: Path, freeze: FreezeEncoder, schedule: Callable = optim.constant, epochs: int = 4) -> tuple:
    """A real fit of four epochs of two batches, with validation; the start, then each epoch's end."""
    torch.manual_seed(0)
    network = Tiny()
    module = SegmentationModule(network, CrossEntropy(), ["a", "b"], AdamW, schedule, lr=0.1)
    item = {"image": torch.rand(3, 6, 6) + 1, "mask": torch.randint(0, 2, (6, 6)), "index": 0}
    loader = DataLoader([item] * 4, batch_size=2)
    watch = Watch()
    start = (network.encoder[0].weight.detach().clone(), network.encoder[1].running_mean.clone(), True)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, default_root_dir=folder, callbacks=[freeze, watch], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return module, [start, *watch.seen]


def moved(seen: list[tuple[Tensor, Tensor, bool]], part: int) -> list[bool]:
    return [not torch.equal(a[part], b[part]) for a, b in itertools.pairwise(seen)]


def test_freeze_holds_and_releases_weights_and_statistics(tmp_path: Path) -> None:
    _, seen = fit(tmp_path, FreezeEncoder(epochs=2, batch_norm_epochs=1))
    assert moved(seen, 0) == [False, False, True, True]
    assert moved(seen, 1) == [False, True, True, True]
    assert [mode for *_, mode in seen[1:]] == [False, True, True, True]


def test_statistics_can_stay_frozen_throughout(tmp_path: Path) -> None:
    module, seen = fit(tmp_path, FreezeEncoder(epochs=1, batch_norm_epochs=-1), epochs=3)
    assert moved(seen, 0) == [False, True, True]
    assert moved(seen, 1) == [False, False, False]
    assert not torch.equal(module.network.head.weight, torch.zeros(2, 4, 1, 1))


def test_the_rest_learns_while_the_encoder_is_frozen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = Tiny().head.weight.detach()
    module, seen = fit(tmp_path, FreezeEncoder(epochs=-1), epochs=1)
    assert moved(seen, 0) == [False]
    assert not torch.equal(module.network.head.weight, before)


def test_a_schedule_ends_with_the_budget_in_a_real_fit(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, FreezeEncoder(epochs=0, batch_norm_epochs=0), optim.cosine, epochs=2)
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_clips_gradients(tmp_path: Path, precision: str) -> None:
    """Under bf16 no scaler stands in the way. A step of plain gradient descent shows the norm that was left."""
    network = Tiny()
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    rule = partial(SGD, fused=True)
    module = SegmentationModule(network, CrossEntropy(), ["a", "b"], rule, optim.constant, lr=1.0)
    trainer = L.Trainer(
        accelerator="cpu", precision=precision, max_steps=1, gradient_clip_val=0.01, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        default_root_dir=tmp_path,
    )  # fmt: skip
    image, mask = torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 8, 8))
    batches = DataLoader([{"image": i, "mask": m} for i, m in zip(image, mask, strict=True)], batch_size=2)
    trainer.fit(module, batches, batches)
    after = nn.utils.parameters_to_vector(network.parameters()).detach()
    assert (after - before).norm() == pytest.approx(0.01, rel=1e-3)


def test_where_gradients_are_scaled_clipping_goes_without_fusing() -> None:
    module = SegmentationModule(Tiny(), CrossEntropy(), ["a", "b"], partial(AdamW, fused=True), optim.constant)
    for clip, precision, fused in ((1.0, "16-mixed", False), (None, "16-mixed", True), (1.0, "bf16-mixed", True)):
        module._trainer = SimpleNamespace(gradient_clip_val=clip, precision=precision)  # type: ignore[assignment]
        optimizer = module.configure_optimizers()["optimizer"]
        assert {group["fused"] for group in optimizer.param_groups} == {fused}


def test_a_plateau_needs_a_metric_that_is_logged() -> None:
    module = SegmentationModule(Tiny(), CrossEntropy(), ["a", "b"])
    plan = SimpleNamespace(reduce_on_plateau=True, frequency=1, monitor="val/mio", scheduler=SimpleNamespace(step=None))
    logged = {"val/miou": torch.tensor(0.5), "val/loss": torch.tensor(1.0)}
    module._trainer = SimpleNamespace(lr_scheduler_configs=[plan], callback_metrics=logged, current_epoch=0)  # type: ignore[assignment]
    with pytest.raises(
        ConfigError, match=r"schedule\.monitor=val/mio: no such metric is logged; did you mean val/miou"
    ):
        module.on_train_epoch_end()

"""The LightningModule: one network, one loss, one shared step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer

from segstudy.errors import ConfigError, did_you_mean
from segstudy.metrics import Confusion, Hallucinated, MeanLoss, class_iou, failure_modes, summary
from segstudy.optim import parameter_groups


class SegmentationModule(L.LightningModule):
    """Trains `network` (image → logits) with `loss` (logits, mask → scalar) and measures it.

    background: the class that is no object, if there is one; failures are told apart by it.
    A network with one output channel for two classes gives the logit of class 1 against class 0.
    decay_norms: weight decay also on normalisation and biases.
    optimizer and schedule are callables: groups → optimizer; (optimizer, progress) → Lightning's scheduler dictionary.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., dict[str, Any]],
        lr: float = 1e-3,
        encoder_lr: float | None = None,
        background: int | None = None,
        decay_norms: bool = False,
    ):
        super().__init__()
        self.network, self.loss = network, loss
        self.classes = list(classes)
        self.optimizer, self.schedule = optimizer, schedule
        self.lr, self.encoder_lr, self.decay_norms = lr, encoder_lr, decay_norms
        self.val_counts, self.test_counts = Confusion(len(self.classes)), Confusion(len(self.classes))
        self.background, self.val_hallucinated = background, Hallucinated(background)
        self.losses = nn.ModuleDict({"val": MeanLoss(), "test": MeanLoss()})

    def forward(self, image: Tensor) -> Tensor:
        return two_channels(self.network(image))

    def _step(self, batch: dict[str, Tensor], stage: str) -> tuple[Tensor, Tensor]:
        weight = getattr(self.network, "auxiliary_weight", 0.0) if stage == "train" else 0.0
        if weight:
            logits, other = map(two_channels, self.network(batch["image"], auxiliary=True))
            loss = self.loss(logits, batch["mask"]) + weight * self.loss(other, batch["mask"])
        else:
            logits = self(batch["image"])
            loss = self.loss(logits, batch["mask"])
        mean: Any = loss
        if stage != "train":
            mean = self.losses[stage]
            mean.update(loss, _images(batch))
            labels = logits.argmax(1)
            self._counts(stage).update(labels, batch["mask"])
            if stage == "val":
                self.val_hallucinated.update(labels, batch["mask"])
        self.log(
            f"{stage}/loss", mean, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(logits), sync_dist=True
        )
        return loss, logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train")[0]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "val")[1]

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "test")[1]

    def on_validation_epoch_end(self) -> None:
        failures = failure_modes(self.val_counts.compute(), self.val_hallucinated.compute(), self.background)
        self.val_hallucinated.reset()
        self._log_same({f"val/{name}": share for name, share in failures.items()})
        self._log_counts("val")

    def on_test_epoch_end(self) -> None:
        self._log_counts("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint of weights alone holds the averaged ones, as validated: Lightning asks callbacks only for whole
        checkpoints."""
        if "callbacks" in checkpoint:
            return
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_save_checkpoint(self.trainer, self, checkpoint)
                for training in ("current_model_state", "averaging_state"):
                    checkpoint.pop(training, None)

    def on_train_epoch_end(self) -> None:
        """Steps a plateau's schedule before the epoch's checkpoint is written, which then holds the new rate.

        Lightning steps it after, and a run continued from the checkpoint would lack that step.
        """
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and (self.current_epoch + 1) % config.frequency == 0:
                config.scheduler.step(self._monitored(str(config.monitor)))  # type: ignore[arg-type]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if metric is None:  # a plateau's was stepped in on_train_epoch_end
            scheduler.step()

    def _monitored(self, name: str) -> Tensor:
        metrics = self.trainer.callback_metrics
        if name not in metrics:
            found = did_you_mean(name, sorted(metrics)) or f" ({', '.join(sorted(metrics))})"
            raise ConfigError(f"schedule.monitor={name}: no such figure is logged{found}")
        return metrics[name]

    def _counts(self, stage: str) -> Confusion:
        return self.val_counts if stage == "val" else self.test_counts

    def _log_counts(self, stage: str) -> None:
        counts = self._counts(stage).compute()
        self._counts(stage).reset()
        named = summary(counts)
        self._log_same({f"{stage}/{name}": value for name, value in named.items()})
        iou = class_iou(counts)
        there = {f"{stage}_iou/{name}": iou[c] for c, name in enumerate(self.classes) if counts[c].sum() > 0}
        self._log_same(there)

    def _log_same(self, figures: Mapping[str, float | Tensor]) -> None:
        """Log what is the same on every process: the largest is each. A mean could round it."""
        self.log_dict(figures, reduce_fx="max", sync_dist=True)

    def configure_optimizers(self) -> Any:
        def build(decay_norms: bool = self.decay_norms, **options: Any) -> Optimizer:
            return self.optimizer(parameter_groups(self.network, self.lr, self.encoder_lr, decay_norms), **options)

        optimizer = build()
        if not optimizer.defaults.get("weight_decay"):
            optimizer = build(decay_norms=True)  # without weight decay there is nothing to part the groups for
        if self.trainer.gradient_clip_val and self.trainer.precision == "16-mixed" and optimizer.defaults.get("fused"):
            optimizer = build(fused=False)  # a fused step unscales the gradients, too late to clip
        schedule = self.schedule(optimizer, progress=self.progress)
        if str(schedule.get("monitor")).startswith("val"):  # judged anew where it is measured anew
            schedule = {"frequency": self.trainer.check_val_every_n_epoch or 1} | schedule
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Like Lightning's, which refuses a fused optimizer under bf16 too, without a scaler (its issue 21435)."""
        precision = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(precision, MixedPrecision) and precision.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def progress(self) -> float:
        """The share of the budget spent, 0…1: of the steps, or of `trainer.max_time` where that ends sooner."""
        steps = self.trainer.estimated_stepping_batches
        spent = self.global_step / steps if steps not in (0, float("inf")) else 0.0
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
                elapsed = callback.time_elapsed()
                spent = max(spent, elapsed / max(elapsed + left, 1e-9))
        return spent


def _images(batch: Mapping[str, Tensor]) -> Tensor | int:
    """How many images a batch has, without those of index −1."""
    return (batch["index"] >= 0).sum() if "index" in batch else len(batch["image"])


def two_channels(logits: Tensor) -> Tensor:
    """One channel (the logit of class 1 against class 0) as two; other logits as they are."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits

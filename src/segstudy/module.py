"""The LightningModule: one network, one loss, one shared step."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from segstudy.data.datamodule import known_data
from segstudy.errors import ConfigError, DataError, did_you_mean
from segstudy.labels import IGNORE
from segstudy.metrics import Confusion, Hallucinated, MeanLoss, class_iou, failure_modes, summary
from segstudy.optim import cosine, parameter_groups
from segstudy.tiles import logits_in_tiles


class SegmentationModule(L.LightningModule):
    """Trains `network` (image → logits) with `loss` (logits, mask → scalar), and evaluates it.

    The network gets images in 0…1. With two classes, a single output channel is the logit of class 1 against class 0.
    Data: a data module of segstudy, or loaders whose batches are (image, mask) or dictionaries with `image` and `mask`:
    image (B,3,H,W), uint8 or float in 0…1; mask (B,H,W) of integers, 255 ignored.

    classes: their names. background: index of the class that is no object, or None; failure modes depend on it.
    lr, encoder_lr: the learning rate, and that of `network.encoder` (None: the same).
    decay_norms: apply weight decay also to normalisation layers and biases.
    optimizer, schedule: functions groups → optimizer, and (optimizer, progress) → Lightning's scheduler dictionary.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[..., Optimizer] = Adam,
        schedule: Callable[..., dict[str, Any]] = cosine,
        lr: float = 1e-3,
        encoder_lr: float | None = None,
        background: int | None = None,
        decay_norms: bool = False,
    ):
        super().__init__()
        for what, part in (("network", network), ("loss", loss)):
            if isinstance(part, type):
                raise ConfigError(f"the {what} is a class: pass an instance, such as {part.__name__}()")
        self.network, self.loss = network, loss
        self.classes = class_names(classes)
        self.optimizer, self.schedule = optimizer, schedule
        self.lr, self.encoder_lr, self.decay_norms = lr, encoder_lr, decay_norms
        self.val_counts, self.test_counts = Confusion(len(self.classes)), Confusion(len(self.classes))
        self.background, self.val_hallucinated = background, Hallucinated(background)
        self.losses = nn.ModuleDict({"val": MeanLoss(), "test": MeanLoss()})

    def forward(self, image: Tensor) -> Tensor:
        """The logits of images; outside training, of large ones (`data.tiles_for`) from overlapping tiles."""
        data = None if self.training or self._trainer is None else known_data(self._trainer)
        tiles = data.tiles_for(image.shape[2:]) if data else None

        def logits(part: Tensor) -> Tensor:
            return self._as_logits(self.network(part))

        return logits(image) if tiles is None else logits_in_tiles(logits, image, tiles)

    def _as_logits(self, output: Any) -> Tensor:
        """The network's output with a channel per class. Raises ConfigError if it has another number of channels."""
        if not isinstance(output, Tensor):
            raise ConfigError(f"the network must give logits (batch,classes,height,width), not {type(output).__name__}")
        channels, number = output.shape[1], len(self.classes)
        if channels != number and (channels, number) != (1, 2):
            raise ConfigError(
                f"the network gives {channels} channel{'s' * (channels != 1)}, there are {number} classes\n"
                f"  → give its last layer {number} output channels, or name all classes"
            )
        return two_channels(output)

    def setup(self, stage: str) -> None:
        self.unchecked = True
        # Set on the instance: Lightning warns of a method of the class whenever a data module is passed.
        vars(self).pop("transfer_batch_to_device", None)
        if known_data(self.trainer) is None:
            self.transfer_batch_to_device = self._transfer_checked  # type: ignore[method-assign]

    def _transfer_checked(self, batch: Any, device: torch.device, dataloader_idx: int) -> dict[str, Tensor]:
        """Check a batch of the user's own loaders, move it to the device, and convert it: float image, int64 mask."""
        batch = checked_batch(batch, len(self.classes))
        if self.unchecked:
            check_range(batch["image"])
            self.unchecked = False
        batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        image = batch["image"]
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        return batch | {"image": image, "mask": batch["mask"].long()}

    def on_test_start(self) -> None:
        self.tested = 0

    def _step(self, batch: dict[str, Tensor], stage: str) -> tuple[Tensor, Tensor]:
        weight = getattr(self.network, "auxiliary_weight", 0.0) if stage == "train" else 0.0
        if weight:
            logits, other = map(self._as_logits, self.network(batch["image"], auxiliary=True))
            loss = self.loss(logits, batch["mask"]) + weight * self.loss(other, batch["mask"])
        else:
            logits = self(batch["image"])
            loss = self.loss(logits, batch["mask"])
        mean: Any = loss
        if stage != "train":
            mean = self.losses[stage]
            mean.update(loss, (batch["index"] >= 0).sum() if "index" in batch else len(logits))  # without padding
            labels = batch["labels"] = logits.max(1).indices  # equal to argmax, and three times faster on a CPU
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
        if "index" not in batch:  # callbacks store results by it
            batch["index"] = torch.arange(self.tested, self.tested + len(batch["image"]))
            self.tested += len(batch["image"])
        return self._step(batch, "test")[1]

    def on_validation_epoch_end(self) -> None:
        failures = failure_modes(self.val_counts.compute(), self.val_hallucinated.compute(), self.background)
        self.val_hallucinated.reset()
        self._log_same({f"val/{name}": share for name, share in failures.items()})
        self._log_counts("val")

    def on_test_epoch_end(self) -> None:
        self._log_counts("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the averaged weights, which were validated, in a weights-only checkpoint too.

        Lightning calls the callbacks for full checkpoints only.
        """
        if "callbacks" in checkpoint:
            return
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_save_checkpoint(self.trainer, self, checkpoint)
                for training in ("current_model_state", "averaging_state"):
                    checkpoint.pop(training, None)

    def on_train_epoch_end(self) -> None:
        """Step a plateau schedule before the epoch's checkpoint is written, so that it holds the new learning rate.

        Lightning steps it after that, and a run continued from the checkpoint would miss the step.
        """
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and (self.current_epoch + 1) % config.frequency == 0:
                config.scheduler.step(self._monitored(str(config.monitor)))  # type: ignore[arg-type]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if metric is None:  # a plateau schedule is stepped in on_train_epoch_end
            scheduler.step()

    def _monitored(self, name: str) -> Tensor:
        metrics = self.trainer.callback_metrics
        if name not in metrics:
            hint = did_you_mean(name, sorted(metrics)) or f" (logged: {', '.join(sorted(metrics))})"
            raise ConfigError(f"schedule.monitor={name}: no such metric is logged{hint}")
        return metrics[name]

    def _counts(self, stage: str) -> Confusion:
        return self.val_counts if stage == "val" else self.test_counts

    def _log_counts(self, stage: str) -> None:
        counts = self._counts(stage).compute()
        self._counts(stage).reset()
        self._log_same({f"{stage}/{name}": value for name, value in summary(counts).items()})
        iou = class_iou(counts)
        present = {f"{stage}_iou/{name}": iou[c] for c, name in enumerate(self.classes) if counts[c].sum() > 0}
        self._log_same(present)

    def _log_same(self, values: Mapping[str, float | Tensor]) -> None:
        """Log values that are equal on all processes; reduced by the maximum, since a mean could round them."""
        self.log_dict(values, reduce_fx="max", sync_dist=True)

    def configure_optimizers(self) -> Any:
        def build(decay_norms: bool = self.decay_norms, **options: Any) -> Optimizer:
            return self.optimizer(parameter_groups(self.network, self.lr, self.encoder_lr, decay_norms), **options)

        optimizer = build()
        if not optimizer.defaults.get("weight_decay"):
            optimizer = build(decay_norms=True)  # without weight decay, no need to split the groups
        if self.trainer.gradient_clip_val and self.trainer.precision == "16-mixed" and optimizer.defaults.get("fused"):
            optimizer = build(fused=False)  # a fused step itself unscales the gradients: too late to clip
        schedule = self.schedule(optimizer, progress=self.progress)
        if str(schedule.get("monitor")).startswith("val"):  # step only after a validation
            schedule = {"frequency": self.trainer.check_val_every_n_epoch or 1} | schedule
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does, but also for a fused optimizer under bf16, which has no scaler (its issue 21435)."""
        precision = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(precision, MixedPrecision) and precision.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def progress(self) -> float:
        """Used share of the budget, 0…1: of the steps, or of `trainer.max_time` if that ends first."""
        steps = self.trainer.estimated_stepping_batches
        spent = self.global_step / steps if steps not in (0, float("inf")) else 0.0
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
                elapsed = callback.time_elapsed()
                spent = max(spent, elapsed / max(elapsed + left, 1e-9))
        return spent


def checked_batch(batch: Any, num_classes: int) -> dict[str, Tensor]:
    """A batch (image, mask), or a dictionary with both, as a dictionary. Called on the CPU, before the transfer.

    Raises DataError for any other batch, shapes that do not match, and labels that are neither a class nor 255.
    """
    if isinstance(batch, Sequence) and len(batch) == 2:
        batch = dict(zip(("image", "mask"), batch, strict=True))
    if not isinstance(batch, Mapping) or not {"image", "mask"} <= batch.keys():
        raise DataError(f"a batch must be (image, mask) or a dictionary with both, not {type(batch).__name__}")
    image, mask = batch["image"], batch["mask"]
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if image.ndim != 4 or mask.shape != (len(image), *image.shape[2:]):
        raise DataError(
            f"the shapes of image {tuple(image.shape)} and mask {tuple(mask.shape)} do not match\n"
            "  expected: (batch,3,height,width) and (batch,height,width)"
        )
    if mask.is_floating_point():
        raise DataError(
            f"masks must hold class numbers as integers, not {mask.dtype}: torchvision's ToTensor() divides by 255\n"
            "  → use PILToTensor(), or v2.ToDtype(torch.int64, scale=False)"
        )
    wrong = (mask >= num_classes) & (mask != IGNORE) | (mask < 0)
    if wrong.any():
        raise DataError(
            f"labels {', '.join(map(str, mask[wrong].unique().tolist()[:8]))} are neither one of the {num_classes} "
            f"classes nor {IGNORE} (ignored)\n  → name all classes, or set ignored pixels to {IGNORE}"
        )
    return {**batch, "mask": mask}


def check_range(image: Tensor) -> None:
    """Raise DataError for images that are neither uint8 nor floats in 0…1.

    Floats with negative values pass: they may be normalised already, for a network that does not do so.
    """
    if image.dtype == torch.uint8:
        return
    low, high = image.min().item(), image.max().item()
    if not image.is_floating_point() or (low >= 0 and high > 2):
        raise DataError(
            f"images must be uint8 or floats in 0…1, not {image.dtype} with values from {low:g} to {high:g}\n"
            "  → leave them uint8, or divide by 255"
        )


def class_names(classes: Sequence[str]) -> list[str]:
    """The names as a list. Raises ConfigError for anything else, such as their number."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ConfigError(f"classes={classes!r}: give the names of the classes, such as ['background', 'cat']")
    return list(classes)


def two_channels(logits: Tensor) -> Tensor:
    """Two channels from a single one (the logit of class 1 against class 0); other logits unchanged."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits

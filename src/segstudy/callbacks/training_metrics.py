"""mIoU and accuracy on training images, measured as in validation: in evaluation mode, without augmentation."""

import lightning as L
import torch

from segstudy.data.datamodule import data_of
from segstudy.data.sampler import batches_of_same_shape
from segstudy.metrics import Confusion, summary
from segstudy.ranges import Count, checked
from segstudy.seeds import derive, permutation


@checked
class TrainingMetrics(L.Callback):
    """Logs train/miou and train/pixel_accuracy of `images` training images (the same ones each time) after each epoch.

    The training loss is not comparable with validation: it averages over an epoch in which the weights change, on
    augmented images, with dropout and batch statistics.
    """

    def __init__(self, images: Count = 200):
        self.images = images

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        figures = metrics_on_training_images(trainer, module, self.images)
        chosen_figures = {f"train/{k}": torch.tensor(figures[k]) for k in ("miou", "pixel_accuracy")}
        module.log_dict(chosen_figures, reduce_fx="max", sync_dist=True)  # the same on every process


def metrics_on_training_images(trainer: L.Trainer, module: L.LightningModule, images: int) -> dict[str, float]:
    """The metrics on `images` training images without augmentation, the same ones each time.

    Call it in validation or test, where Lightning has set evaluation mode and switched gradients off.
    """
    data = data_of(trainer)
    fit = data.roles["fit"]
    chosen = permutation(len(fit), derive(data.seed, "training metrics"), 0)[:images].tolist()
    mine = chosen[trainer.global_rank :: trainer.world_size]
    counts = Confusion(len(data.classes)).to(module.device)
    for members in batches_of_same_shape(fit.shapes[mine], data.batch_size, data.pixels_per_batch):
        batch = fit.__getitems__([mine[i] for i in members])
        batch = data.on_after_batch_transfer({k: v.to(module.device) for k, v in batch.items()}, 0)
        with trainer.precision_plugin.forward_context():
            labels = module(batch["image"]).max(1).indices
        counts.update(labels, batch["mask"])
    return summary(counts.compute())

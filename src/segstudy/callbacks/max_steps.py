"""`trainer.max_steps`: training that ends at a number of optimizer steps, also in the middle of an epoch."""

import math
from typing import Any

import lightning as L


class ValidateLastStep(L.Callback):
    """Validates after the last step of `trainer.max_steps`, and continues after the last whole epoch.

    Lightning alone validates only at the end of an epoch, and with `max_steps` would end the saved epoch once more.
    """

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


def planned_epochs(trainer: L.Trainer) -> int | None:
    """The number of epochs, the last of which may be cut by `trainer.max_steps`; None if nothing limits it."""
    steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    if float("inf") in (steps, batches):
        return None
    return math.ceil(steps / math.ceil(batches / trainer.accumulate_grad_batches))

# ruff: noqa: PT028 (`test` is no test of pytest's)
"""Test a module in Python: the counts and errors of each image, in memory."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from segstudy.callbacks.per_image_confusion import PerImageConfusion, test_record
from segstudy.callbacks.per_image_errors import PerImageErrors
from segstudy.errors import TrainingError
from segstudy.module import SegmentationModule
from segstudy.precision import choose_device
from segstudy.study.results import TestResult, read_run


def test(
    module: SegmentationModule,
    data: L.LightningDataModule | DataLoader,
    *,
    name: str = "",
    device: str = "auto",
    precision: str = "32-true",
) -> TestResult:
    """Test a module on the reported split of a data module, or on a loader of (image, mask), in order.

    name: what a comparison calls it (else the network's class). device: auto, cpu, cuda or mps. The result's
    `record["metrics"]` holds the figures, `counts` and `sums` those of each image. Raises TrainingError if the images
    could not be measured.
    """
    counts = PerImageConfusion()
    errors = PerImageErrors(counts)
    accelerator = choose_device(device, precision)[0]
    where: dict[str, Any] = {"datamodule": data} if isinstance(data, L.LightningDataModule) else {"dataloaders": data}
    with TemporaryDirectory() as folder:
        L.Trainer(
            accelerator=accelerator, devices=1, precision=precision, default_root_dir=folder, logger=False,  # type: ignore[arg-type]
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[counts, errors],
        ).test(module, **where, verbose=False)  # fmt: skip
        if errors.not_measured.get("measures"):
            raise TrainingError(f"the images could not be measured: {errors.not_measured['measures']}")
        record = test_record([counts, errors], module.classes) | {
            "class_names": module.classes, "data": {"background": getattr(data, "background", module.background)},
        }  # fmt: skip
        return replace(read_run(Path(folder), record, name or type(module.network).__name__), folder=None)


test.__test__ = False  # type: ignore[attr-defined]  # nor does pytest take it for one

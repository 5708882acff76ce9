# ruff: noqa: PT028 (`test` is not a pytest test)
"""Test a module from Python; returns the counts and errors of each image."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from segstudy.callbacks.per_image_confusion import PerImageConfusion, test_record
from segstudy.callbacks.per_image_errors import PerImageErrors
from segstudy.data.datamodule import SegmentationData
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
    """Test a module on the reported split of a data module, or on a loader of (image, mask), in its order.

    name: the variant's name in a comparison; default: the network's class. device: auto, cpu, cuda or mps. The result's
    `record["metrics"]` holds the metrics, `counts` and `sums` the values of each image. Raises TrainingError if the
    images could not be measured.
    """
    counts, errors = PerImageConfusion(), PerImageErrors()
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
        about = {"background": getattr(data, "background", module.background)}
        if isinstance(data, SegmentationData):
            about = data.describe()
        record = test_record([counts, errors], module.classes) | {"class_names": module.classes, "data": about}
        return replace(read_run(Path(folder), record, name or type(module.network).__name__), folder=None)


test.__test__ = False  # type: ignore[attr-defined]  # for pytest

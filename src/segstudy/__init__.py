"""segstudy compares segmentation networks under equal conditions: which is better, by how much, and how certain."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segstudy.build import build_model
    from segstudy.data.datasets.ade20k import ADE20K
    from segstudy.data.datasets.pet import Pet
    from segstudy.data.datasets.sbd import VOCSBD
    from segstudy.data.datasets.scenes import Scenes
    from segstudy.data.datasets.voc import VOC
    from segstudy.data.folder.datamodule import Folder
    from segstudy.inference.model import load
    from segstudy.inference.test import test
    from segstudy.module import SegmentationModule
    from segstudy.networks.normalize import Normalize
    from segstudy.study.compare import compare
    from segstudy.study.results import TestResult

__version__ = "0.1.0"

__all__ = [
    "ADE20K", "VOC", "VOCSBD", "Folder", "Normalize", "Pet", "Scenes", "SegmentationModule", "TestResult",
    "build_model", "compare", "load", "test",
]  # fmt: skip

HOMES = {
    "ADE20K": "data.datasets.ade20k", "Folder": "data.folder.datamodule", "Normalize": "networks.normalize",
    "Pet": "data.datasets.pet", "Scenes": "data.datasets.scenes", "SegmentationModule": "module",
    "TestResult": "study.results", "VOC": "data.datasets.voc", "VOCSBD": "data.datasets.sbd", "build_model": "build",
    "compare": "study.compare", "load": "inference.model", "test": "inference.test",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name, or the module `losses` or `metrics`, on first use: importing PyTorch takes seconds."""
    if name in HOMES:
        return getattr(import_module(f"segstudy.{HOMES[name]}"), name)
    if name in ("losses", "metrics"):
        return import_module(f"segstudy.{name}")
    raise AttributeError(f"module 'segstudy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

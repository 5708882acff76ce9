"""segstudy: which loss, context module, encoder or upsampling really helps, on your images, and how surely."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

# On a CPU, PyTorch asks Linux for large pages if this is set before its first tensor. A training step at 256² takes and
# returns some GiB of maps; with small pages the kernel spends a tenth of the step on zeroing them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from segstudy.inference.model import Model

__version__ = "0.1.0"


def load(run: str | Path, device: str = "auto") -> "Model":
    """A trained run, ready for photos: `segstudy.load("runs/study/v4").predict("photo.jpg")`, labels uint8 (H,W).

    device: auto, cpu, cuda or mps. Nothing in the folder is executed. Raises ConfigError if it is no finished run.
    """
    from segstudy.inference.model import load  # PyTorch takes seconds to import: not for `segstudy --help`

    return load(run, device)

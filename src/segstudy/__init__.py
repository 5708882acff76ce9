"""segstudy: which loss, context module, encoder or upsampling really helps, on your images, and how surely."""

import os

# On a CPU, PyTorch asks Linux for large pages if this is set before its first tensor. A training step at 256² takes and
# returns some GiB of maps; with small pages the kernel spends a tenth of the step on zeroing them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"

"""Entry points of the commands. They handle Ctrl-C before anything slow is imported."""

import time

from segstudy.allocator import use_fast_memory
from segstudy.interruption import interruptible

BEGAN = time.monotonic()
"""When this command began."""


def train() -> None:
    """`python train.py …`; also `python -m segstudy.entry …`, the command of Lightning's further processes."""
    use_fast_memory()
    with interruptible():
        from segstudy.train import main

        main()


def command() -> None:
    """`segstudy …`."""
    use_fast_memory()
    with interruptible():
        from segstudy.cli.main import main

        main()


if __name__ == "__main__":
    train()

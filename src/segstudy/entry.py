"""Entry points of the commands. Only the standard library is imported before they are ready for Ctrl-C."""

from segstudy.allocator import use_fast_memory
from segstudy.interruption import interruptible


def train() -> None:
    """`python train.py …`, and `python -m segstudy.entry …`, as which Lightning starts further processes."""
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

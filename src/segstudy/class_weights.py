"""Class weights from the data (`class_weights: balanced`)."""

from collections.abc import Sequence


def balanced_weights(pixels: Sequence[int]) -> list[float]:
    """Class weights from pixels per class: inverse frequency, mean 1 over the classes that occur, 0 for the others."""
    inverse = [1 / n if n else 0.0 for n in pixels]
    mean = sum(inverse) / max(1, sum(w > 0 for w in inverse))
    return [w / mean if w else 0.0 for w in inverse]

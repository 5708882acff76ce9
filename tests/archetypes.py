"""Nine hand-made ways to predict, each a story of failure; every figure must move most in its own."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from segstudy.labels import IGNORE

BACKGROUND = 0


def scene(seed: int, size: int = 128, classes: int = 6) -> np.ndarray:
    """A truth, uint8 (size,size): two discs of different classes on background, each with a ring of 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    truth = np.zeros((size, size), np.uint8)
    for side, label in enumerate(rng.choice(np.arange(1, classes), 2, replace=False)):
        row, column = rng.uniform(0.35, 0.65) * size, (0.26 + 0.48 * side) * size
        radius = rng.uniform(0.13, 0.2) * size
        distance = np.hypot(y - row, x - column)
        truth[distance < radius + 1] = IGNORE
        truth[distance < radius - 1] = label
    return truth


def predictors(truth: np.ndarray, classes: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Each story's labels for a truth of objects on background, uint8 (H,W)."""
    whole = _grown(truth)
    return {name: story(whole, classes, np.random.default_rng(seed)) for name, story in STORIES.items()}


def _grown(truth: np.ndarray) -> np.ndarray:
    """The truth without 255: each such pixel takes the nearest label."""
    _, nearest = ndimage.distance_transform_edt(truth == IGNORE, return_indices=True)
    return truth[tuple(nearest)]


def _absent(truth: np.ndarray, classes: int) -> list[int]:
    return [c for c in range(1, classes) if not (truth == c).any()]


def _perfect(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    return truth.copy()


def _speckled(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Other textures inside the body: half of each object in patches of absent classes."""
    coarse = rng.choice([0, *_absent(truth, classes)], [s // 7 + 1 for s in truth.shape], p=_half(truth, classes))
    patches = coarse.repeat(7, 0).repeat(7, 1)[: truth.shape[0], : truth.shape[1]]
    return np.where((truth != BACKGROUND) & (patches > 0), patches, truth).astype(np.uint8)


def _half(truth: np.ndarray, classes: int) -> list[float]:
    absent = len(_absent(truth, classes))
    return [0.5, *[0.5 / absent] * absent]


def _core(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Timid: only the inner part of each object."""
    inside = ndimage.distance_transform_edt(truth != BACKGROUND)
    return np.where(inside > 0.3 * inside.max(), truth, BACKGROUND).astype(np.uint8)


def _wrong_label(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Right shape, one wrong label."""
    return np.where(truth != BACKGROUND, _absent(truth, classes)[0], BACKGROUND).astype(np.uint8)


def _dilated(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Each object with a rim of background."""
    distance, nearest = ndimage.distance_transform_edt(truth == BACKGROUND, return_indices=True)
    return np.where(distance <= 0.05 * len(truth), truth[tuple(nearest)], BACKGROUND).astype(np.uint8)


def _ghost(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """All objects right, and one more of an absent class in a corner."""
    labels = truth.copy()
    side = len(truth) // 5
    corner = labels[:side, :side]
    corner[corner == BACKGROUND] = _absent(truth, classes)[0]
    return labels


def _striped(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Each object in pieces: two rows of nine are background."""
    rows = np.arange(len(truth)) % 9 < 2
    return np.where(rows[:, None], BACKGROUND, truth).astype(np.uint8)


def _holed(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Each object with round holes, in one piece."""
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
    holes = np.hypot(y % 12 - 6, x % 12 - 6) < 3
    return np.where(holes, BACKGROUND, truth).astype(np.uint8)


def _nothing(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    return np.full_like(truth, BACKGROUND)


STORIES: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "perfect": _perfect,
    "speckled": _speckled,
    "core only": _core,
    "wrong label": _wrong_label,
    "dilated": _dilated,
    "ghost": _ghost,
    "striped": _striped,
    "holed": _holed,
    "all background": _nothing,
}

"""Time to accuracy: epochs and seconds to 90 % of the study's best final validation mIoU."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from segstudy.study.statistics.interval import Estimate

SHARE = 0.9

KEY = "val/miou"

History = Sequence[Mapping[str, float]]


def target_miou(histories: Iterable[History]) -> float:
    """90 % of the best final validation mIoU; NaN if none is above 0. All must be measured on the same images."""
    known = [value for rows in histories if (value := final_miou(rows)) > 0]
    return SHARE * max(known, default=math.nan)


def final_miou(rows: History) -> float:
    """val/miou of the last epoch that has one; NaN if none has."""
    return next((row[KEY] for row in reversed(rows) if KEY in row), math.nan)


def time_to_target(rows: History, target: float) -> tuple[float, float]:
    """The first epoch with val/miou at or above the target, and the seconds of training up to its end.

    Both NaN: never reached. The seconds are also NaN if an older version wrote the history without them.
    """
    for row in rows:
        if row.get(KEY, -math.inf) >= target:
            return row["epoch"], row.get("seconds", math.nan)
    return math.nan, math.nan


def times_to_accuracy(histories: Sequence[History], target: float) -> dict[str, Estimate]:
    """epochs_to_90 and seconds_to_90, means over the trainings; NaN if one never reached the target."""
    if math.isnan(target) or not histories:
        return {}
    epochs, seconds = zip(*(time_to_target(rows, target) for rows in histories), strict=True)
    return {
        name: Estimate(float(np.mean(values)), math.nan, math.nan, len(values))
        for name, values in (("epochs_to_90", epochs), ("seconds_to_90", seconds))
    }

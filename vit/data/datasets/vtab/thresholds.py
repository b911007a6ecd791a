"""Labels that are the bin of a distance, by VTAB's rule (google-research/task_adaptation: data/clevr.py, kitti.py)."""

from collections.abc import Sequence

import numpy as np


def bin_of(value: float, thresholds: Sequence[float]) -> int:
    """The largest i with thresholds[i] < value, so that bin i is (thresholds[i], thresholds[i + 1]].

    Compared in float32, as TFDS stores the values. Raises ValueError if the value is not above the first threshold.
    """
    label = int(np.searchsorted(np.asarray(thresholds, np.float32), np.float32(value), side="left")) - 1
    if label < 0 or not np.isfinite(value):
        raise ValueError(f"the distance {value} is not above {thresholds[0]}, so it has no class")
    return label

"""The threshold of a similarity, from the user's own images: edited copies as positives, other images as negatives.

The wanted rate of false pairs is far below what can be counted (one in 10^9 pairs, of which a calibration sees 10^5):
above the highest percentile the tail of the negatives is taken to fall off exponentially, as it does for most
distributions (peaks over threshold: Pickands, Annals of Statistics 3, 1975). No threshold is set below the
largest negative that was seen.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit.data import pictures
from vit.dedup import edits
from vit.typing import Floats

TAIL = 0.01  # share of the negatives that the tail is fitted to
POINTS = 101  # of the curve
Similarity = Callable[[Sequence[bytes], Sequence[bytes]], Floats]  # encoded images N, M -> [N, M], larger is more alike


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """A threshold and the curve that it was read from."""

    threshold: float
    false_rate: float  # wanted, per pair of different images
    recall: float  # of all edited copies at the threshold
    by_edit: dict[str, float]
    positives: int
    negatives: int
    curve: list[dict[str, float]]  # threshold, recall, false_rate (counted; 0 where none was seen)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the report."""
        return dataclasses.asdict(self)


def calibrate(similarity: Similarity, images: Sequence[bytes], *, false_rate: float, seed: int) -> Calibration:
    """Edit every image in 29 ways and find the threshold; images must show different things (a random sample does).

    Raises ValueError if there are too few images to see a tail, or one that cannot be decoded.
    """
    if len(images) < 10 or not 0 < false_rate < 1:
        raise ValueError(
            f"calibration needs at least 10 images and a false rate in 0 … 1, not {len(images)}, {false_rate}"
        )
    draw = np.random.Generator(np.random.PCG64(seed))
    decoded = [pictures.decode(data) for data in images]
    own, others = np.eye(len(images), dtype=bool), list[Floats]()
    found: dict[str, Floats] = {}
    for edit in edits.EDITS:
        scores = similarity(images, [edits.apply(edit, image, draw) for image in decoded])
        found[edit.name] = scores[own]
        others.append(scores[~own])
    return fit(found, np.concatenate(others), false_rate=false_rate)


def fit(positives: dict[str, Floats], negatives: Floats, *, false_rate: float) -> Calibration:
    """The threshold from scores of copies by edit, and of pairs of different images."""
    threshold, every = _threshold(negatives, false_rate), np.concatenate(list(positives.values()))
    places = np.linspace(min(float(negatives.min()), float(every.min())), float(every.max()), POINTS)
    return Calibration(
        threshold=threshold,
        false_rate=false_rate,
        recall=float((every >= threshold).mean()),
        by_edit={name: float((scores >= threshold).mean()) for name, scores in positives.items()},
        positives=len(every),
        negatives=len(negatives),
        curve=[
            {
                "threshold": float(place),
                "recall": float((every >= place).mean()),
                "false_rate": float((negatives >= place).mean()),
            }
            for place in places
        ],
    )


def _threshold(negatives: Floats, false_rate: float) -> float:
    if false_rate >= TAIL:
        return float(np.quantile(negatives, 1 - false_rate))
    start = float(np.quantile(negatives, 1 - TAIL))
    excess = float((negatives[negatives > start] - start).mean()) if (negatives > start).any() else 0.0
    beyond = start + excess * math.log(TAIL / false_rate)
    return max(beyond, float(np.nextafter(negatives.max(), np.inf)))

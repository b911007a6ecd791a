"""How good a frozen network's features are on a task: few-shot, linear and nearest-neighbour (paper §4.1, Fig. 4).

The network sees each image once; all probes share its features. Everything that is chosen is chosen on the 1,000
training examples.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vit.evaluation.probes import Standard, few_shot, logistic, nearest
from vit.evaluation.probes import support as drawn

Features: TypeAlias = tuple[Tensor, Tensor]  # of each image, float32 [N, D], and labels int64 [N]
LINEAR_PENALTY = 1.0  # on standardised features: scikit-learn's default


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probes on frozen features; they change no weight."""

    shots: Sequence[int]  # images of each class; the paper's figures have 1, 5, 10 and 25
    supports: int  # random supports for each number of shots: scores are their mean and standard deviation

    def __post_init__(self) -> None:
        if self.supports < 1 or any(shots < 1 for shots in self.shots) or len(set(self.shots)) < len(self.shots):
            raise ValueError(
                f"probes: shots are {list(self.shots)} and supports {self.supports}; "
                "shots must be positive and different, and there must be a support"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probed:
    """Top-1 on the test split of one task."""

    few_shot: dict[int, tuple[float, float]]  # shots: mean and standard deviation over supports
    linear: float  # logistic regression on all training examples
    nearest: float  # 20 nearest of all training examples, in cosine


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """Top-1 from a few images of each class, on all that are tested on."""

    few_shot: dict[int, tuple[float, float]]  # shots: mean and standard deviation over supports
    num_test: int


def probe(config: ProbeConfig, support: Features, tests: Features, *, num_classes: int, seed: int) -> Probed:
    """Score a network's features (vit.evaluation.features) on a task whose images have one label each."""
    few = few_shots(config, support, tests, num_classes=num_classes, seed=seed)
    standard = Standard.of(support[0])
    weights = logistic(*support, num_classes, penalty=LINEAR_PENALTY)
    linear = (standard(tests[0]) @ weights).argmax(dim=1)
    near = nearest(*support, tests[0], num_classes)
    right = [float((found == tests[1]).to(torch.float64).mean()) for found in (linear, near)]
    return Probed(few_shot=few, linear=right[0], nearest=right[1])


def few_shots(
    config: ProbeConfig, support: Features, tests: Features, *, num_classes: int, seed: int
) -> dict[int, tuple[float, float]]:
    """For each number of shots the mean and the standard deviation of top-1 over random supports."""
    few: dict[int, tuple[float, float]] = {}
    for shots in config.shots:
        scores = few_shot(support, tests, num_classes, shots, seeds=range(seed, seed + config.supports))
        few[shots] = float(np.mean(scores)), float(np.std(scores))
    return few


def pool(config: ProbeConfig, labels: Tensor, seed: int) -> Tensor:
    """Places of the images that supports are drawn from, where a data set has too many for all to be looked at.

    As many of each class as all supports together could need: 75 for 25 shots three times; big_vision's pool has the
    first 65,000 images of ImageNet.
    """
    return drawn(labels, max(config.shots, default=0) * config.supports, seed)

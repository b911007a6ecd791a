"""How good a frozen network's features are on a task: few-shot, linear and nearest-neighbour (paper §4.1, Fig. 4).

The network sees each image once; all probes share its features. Everything that is chosen is chosen on the 1,000
training examples.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vit.data.shards import Shards
from vit.data.views import View
from vit.evaluation.features import features
from vit.evaluation.probes import Standard, few_shot, logistic, nearest
from vit.evaluation.vtab import TRAIN_SPLITS
from vit.models.build import Model

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


def probe(model: Model, task: Path, config: ProbeConfig, *, resolution: int, view: View, seed: int) -> Probed:
    """Score a model's features on a task whose images have one label each."""
    examples, tests = Shards(task, splits=TRAIN_SPLITS), Shards(task, splits=("test",))
    num_classes = len(examples.class_names)
    train, test = (features(model, shards, resolution=resolution, view=view) for shards in (examples, tests))
    few: dict[int, tuple[float, float]] = {}
    for shots in config.shots:
        scores = few_shot(train, test, num_classes, shots, seeds=range(seed, seed + config.supports))
        few[shots] = float(np.mean(scores)), float(np.std(scores))
    standard = Standard.of(train[0])
    weights = logistic(*train, num_classes, penalty=LINEAR_PENALTY)
    linear = (standard(test[0]) @ weights).argmax(dim=1)
    near = nearest(*train, test[0], num_classes)
    right = [float((found == test[1]).to(torch.float64).mean()) for found in (linear, near)]
    return Probed(few_shot=few, linear=right[0], nearest=right[1])

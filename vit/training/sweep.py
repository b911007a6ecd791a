"""Choosing learning rate and number of steps on a dev split, then retraining on all of train (paper §3.2, App. B.1.1).

Every point of the grid is trained on train without its dev part and scored there; the test split is never looked at.
Hopeless points are given up early by successive halving (Jamieson & Talwalkar, arXiv 1502.07943): at each rung the
points that are left train for that fraction of their steps, schedule and warm-up shortened alike, and the better half
(rounded up) goes on. Of equal scores the one earlier in the grid wins, so that nothing depends on who was faster.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from vit.training.config import TrainConfig

Subject = TypeVar("Subject", bound=Hashable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The grid and the repetitions; what is empty is the one value of `train`."""

    learning_rates: Sequence[float]  # Table 4 has four for each data set
    steps: Sequence[int]  # updates
    seeds: Sequence[int]  # of the runs on all of train; their scores are given as mean and standard deviation
    rungs: Sequence[float]  # fractions of the steps after which the worse half of the points is given up

    def __post_init__(self) -> None:
        for name in ("learning_rates", "steps", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or any(value < 0 for value in values):
                raise ValueError(f"{name} {list(values)} must be different and not negative")
        if list(self.rungs) != sorted(set(self.rungs)) or not all(0 < rung < 1 for rung in self.rungs):
            raise ValueError(f"rungs {list(self.rungs)} must rise and lie between 0 and 1, such as [0.25]")

    @property
    def is_any(self) -> bool:
        """Whether there is more than the one run of `train`."""
        return bool(self.learning_rates or self.steps or self.seeds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the grid, scored on the dev split."""

    learning_rate: float
    steps: int  # in full
    fraction: float  # of them that were done
    top1: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The best point, and what it was chosen from; no trials if there was but one."""

    train: TrainConfig
    trials: tuple[Trial, ...]


@dataclasses.dataclass(frozen=True)
class Wanted(Generic[Subject]):
    """A training whose dev score is asked for."""

    subject: Subject
    point: TrainConfig  # in full
    fraction: float

    @property
    def train(self) -> TrainConfig:
        """What is to be done."""
        return shortened(self.point, self.fraction)

    @property
    def name(self) -> str:
        """Unlike that of any other of the subject."""
        part = "" if self.fraction == 1 else f"-part-{self.fraction:g}"
        return f"dev-lr-{self.point.learning_rate:g}-steps-{self.point.steps}{part}"


def grid(config: SweepConfig, train: TrainConfig) -> list[TrainConfig]:
    """All combinations, learning rates within numbers of steps."""
    pairs = itertools.product(config.steps or (train.steps,), config.learning_rates or (train.learning_rate,))
    return [dataclasses.replace(train, steps=steps, learning_rate=rate) for steps, rate in pairs]


def repeated(config: SweepConfig, train: TrainConfig) -> list[TrainConfig]:
    """The runs on all of train: one for each seed."""
    return [dataclasses.replace(train, seed=seed) for seed in config.seeds or (train.seed,)]


def shortened(train: TrainConfig, fraction: float) -> TrainConfig:
    """A part of the steps under the whole schedule."""
    steps = max(1, round(train.steps * fraction))
    warmup, cooldown = (int(part * fraction) for part in (train.warmup_steps, train.cooldown_steps))
    return dataclasses.replace(train, steps=steps, warmup_steps=min(warmup, steps - 1), cooldown_steps=cooldown)


def choose(
    points: Mapping[Subject, Sequence[TrainConfig]],
    rungs: Sequence[float],
    score: Callable[[Sequence[Wanted[Subject]]], Sequence[float]],
) -> dict[Subject, Choice]:
    """The best of each subject's points by its dev scores; those of a rung are scored in one call of `score`."""
    left = {subject: list(own) for subject, own in points.items()}
    trials: dict[Subject, list[Trial]] = {subject: [] for subject in points}
    open_ones = [subject for subject, own in points.items() if len(own) > 1]
    for fraction in (*rungs, 1.0) if open_ones else ():
        wanted = [Wanted(subject, point, fraction) for subject in open_ones for point in left[subject]]
        found = dict(zip(((one.subject, one.name) for one in wanted), score(wanted), strict=True))
        for subject in open_ones:
            own = [found[subject, Wanted(subject, point, fraction).name] for point in left[subject]]
            trials[subject] += [
                Trial(learning_rate=point.learning_rate, steps=point.steps, fraction=fraction, top1=top1)
                for point, top1 in zip(left[subject], own, strict=True)
            ]
            best = np.argsort(-np.array(own), kind="stable")[: 1 if fraction == 1 else (len(own) + 1) // 2]
            left[subject] = [left[subject][place] for place in sorted(best.tolist())]
    return {subject: Choice(train=left[subject][0], trials=tuple(trials[subject])) for subject in points}


def spread(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of these, not estimated for more) over the seeds."""
    return float(np.mean(scores)), float(np.std(scores))

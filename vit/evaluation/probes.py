"""Classifiers on frozen features: few-shot ridge regression (paper §4.1), logistic regression, nearest neighbours.

The ridge follows the authors' later public code (google-research/big_vision, evaluators/fewshot_lsr.py): features are
standardised by the support set, a constant feature of 100 is an intercept that the penalty hardly touches, targets are
-1 and 1, one against all. Everything is float64: features of one model serve every probe, so the cost is elsewhere.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5  # added to a feature's standard deviation
CONSTANT = 100.0  # value of the feature that all images share
FIXED = 2.0**10  # penalty of big_vision's evaluator
PENALTIES = tuple(2.0**power for power in range(-10, 20))  # those of the paper's time


@dataclasses.dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of the support's features, [D] each."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Standard":
        """Of features [N, D]."""
        features = features.double()
        return cls(features.mean(dim=0), features.std(dim=0, correction=0) + EPSILON)

    def __call__(self, features: Tensor) -> Tensor:
        """Standardised features float64 [N, D + 1]; the last is CONSTANT."""
        return F.pad((features.double() - self.mean) / self.deviation, (0, 1), value=CONSTANT)


class Ridge:
    """Least squares to -1 and 1 with a penalty on all weights, in closed form; one factorisation for all penalties."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        """Support features [N, D] and labels int64 [N] below `num_classes`; classes may be missing."""
        self._standard = Standard.of(features)
        x = self._standard(features)
        targets = 2.0 * F.one_hot(labels, num_classes).double() - 1.0
        self._is_dual = len(x) < x.shape[1]
        values, self._vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(x @ x.T if self._is_dual else x.T @ x))
        self._values = values.clamp(min=0.0)  # rounding makes zeros negative
        self._rotated = self._vectors.T @ (targets if self._is_dual else x.T @ targets)
        self._support = x

    def weights(self, penalty: float) -> Tensor:
        """[D + 1, C]; the last row is the intercept's, over CONSTANT. Raises ValueError unless penalty > 0."""
        if not penalty > 0:
            raise ValueError(f"the penalty is {penalty}, but must be positive: without it the weights are not defined")
        solved: Tensor = self._vectors @ (self._rotated / (self._values + penalty)[:, None])
        return self._support.T @ solved if self._is_dual else solved

    def predict(self, features: Tensor, penalty: float) -> Tensor:
        """The class of each image, int64 [N]."""
        return (self._standard(features) @ self.weights(penalty)).argmax(dim=1)


def choose_penalty(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """The penalty whose fit to every other image of each class is best on the rest; the test split is never looked at.

    Of equally good ones the largest; FIXED where no class has two images.
    """
    place = _place_in_class(labels)
    fitted, held = place % 2 == 0, place % 2 == 1
    if not held.any():
        return FIXED
    ridge = Ridge(features[fitted], labels[fitted], num_classes)
    hits = [int((ridge.predict(features[held], penalty) == labels[held]).sum()) for penalty in PENALTIES]
    return max(zip(hits, PENALTIES, strict=True))[1]


def support(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Places of `shots` images of each class drawn at random, int64, in order; all of a class that has fewer."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return order[_place_in_class(labels[order]) < shots].sort().values


def logistic(features: Tensor, labels: Tensor, num_classes: int, *, penalty: float, steps: int = 200) -> Tensor:
    """Multinomial logistic regression by L-BFGS, weights float64 [D + 1, C] for standardised features (Standard).

    Minimises the sum of cross-entropies and penalty / 2 times the squared weights, the intercept's left out, as
    scikit-learn does with C = 1 / penalty.
    """
    x = Standard.of(features)(features)
    x[:, -1] = 1.0
    weights = torch.zeros(x.shape[1], num_classes, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [weights], max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        search.zero_grad()
        value = F.cross_entropy(x @ weights, labels) + penalty / 2 * weights[:-1].square().sum() / len(x)
        value.backward()  # pyright: ignore[reportUnknownMemberType]
        return float(value.detach())

    search.step(loss)
    found = weights.detach()
    found[-1] /= CONSTANT
    return found


def nearest(
    support: Tensor, labels: Tensor, features: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classes int64 [M] by the votes of the k nearest of the support in cosine, weighted by exp(cosine / temperature).

    As in DINO (facebookresearch/dino, eval_knn.py), after Wu et al., arXiv 1805.01978 §3.4.
    """
    ours, theirs = F.normalize(support.double(), dim=1), F.normalize(features.double(), dim=1)
    classes: list[Tensor] = []
    for start in range(0, len(theirs), 1024):
        cosine, row = cast(
            tuple[Tensor, Tensor], (theirs[start : start + 1024] @ ours.T).topk(min(k, len(ours)), dim=1)
        )
        votes = torch.zeros(len(row), num_classes, dtype=torch.float64)
        votes.scatter_add_(1, labels[row], (cosine / temperature).exp())
        classes.append(votes.argmax(dim=1))
    return torch.cat(classes) if classes else torch.zeros(0, dtype=torch.int64)


def few_shot(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int, shots: int, *, seeds: Sequence[int]
) -> list[float]:
    """Top-1 on the test features for a support of each seed, the penalty chosen within the support."""
    scores: list[float] = []
    for seed in seeds:
        chosen = support(train[1], shots, seed)
        features, labels = train[0][chosen], train[1][chosen]
        penalty = choose_penalty(features, labels, num_classes)
        found = Ridge(features, labels, num_classes).predict(test[0], penalty)
        scores.append(float((found == test[1]).double().mean()))
    return scores


def _place_in_class(labels: Tensor) -> Tensor:
    """For each image how many of its class come before it."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    first = torch.searchsorted(ordered, ordered)
    place = torch.empty_like(labels)
    place[order] = torch.arange(len(labels)) - first
    return place

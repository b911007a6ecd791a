"""Probes on frozen features against direct solutions and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from vit.evaluation.probes import (
    CONSTANT,
    EPSILON,
    FIXED,
    PENALTIES,
    Ridge,
    Standard,
    choose_penalty,
    few_shot,
    logistic,
    nearest,
    support,
)


def problem(number: int, width: int, *, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features that say something about their labels, of unequal scales."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, number)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    features = (centres[labels] + 1.5 * random.normal(size=(number, width))) * random.uniform(0.1, 10, width) + 3
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def solved_directly(features: Tensor, labels: Tensor, classes: int, penalty: float) -> np.ndarray:
    """The normal equations in NumPy, float64."""
    x = features.numpy().astype(np.float64)
    x = (x - x.mean(0)) / (x.std(0) + EPSILON)
    x = np.concatenate([x, np.full((len(x), 1), CONSTANT)], axis=1)
    y = np.where(labels.numpy()[:, None] == np.arange(classes), 1.0, -1.0)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


@pytest.mark.parametrize(("number", "width"), [(30, 70), (70, 30), (31, 30), (5, 40)])
@pytest.mark.parametrize("penalty", [2.0**-3, 1.0, FIXED])
def test_ridge_is_the_solution_of_the_normal_equations(number: int, width: int, penalty: float) -> None:
    features, labels = problem(number, width)
    found = Ridge(features, labels, 5).weights(penalty).numpy()
    np.testing.assert_allclose(found, solved_directly(features, labels, 5, penalty), atol=1e-6)


def test_ridge_with_a_missing_class_and_constant_features() -> None:
    features, labels = problem(50, 12)
    features[:, 3], features[:, 7] = 0.0, 1234.5
    labels[labels == 2] = 0
    ridge = Ridge(features, labels, 5)
    weights = ridge.weights(1.0).numpy()
    np.testing.assert_allclose(weights, solved_directly(features, labels, 5, 1.0), atol=1e-6)
    assert np.abs(weights[[3, 7]]).max() < 1e-9
    assert not (ridge.predict(features, 1.0) == 2).any()


def test_ridge_equals_scikit_learn() -> None:
    features, labels = problem(80, 20)
    x = Standard.of(features)(features).numpy()
    y = np.where(labels.numpy()[:, None] == np.arange(5), 1.0, -1.0)
    theirs = SklearnRidge(alpha=4.0, fit_intercept=False).fit(x, y).coef_.T
    np.testing.assert_allclose(Ridge(features, labels, 5).weights(4.0).numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_a_penalty_must_be_positive(penalty: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Ridge(*problem(20, 4), 5).weights(penalty)


def test_the_penalty_is_chosen_within_the_support() -> None:
    features, labels = problem(60, 200)
    assert choose_penalty(features, labels, 5) in PENALTIES
    assert choose_penalty(features[:5], torch.arange(5), 5) == FIXED
    noise = torch.randn(60, 200, generator=torch.Generator().manual_seed(0))
    assert choose_penalty(noise, labels, 5) >= choose_penalty(features, labels, 5)


def test_poisoned_test_labels_change_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = problem(100, 30), problem(200, 30, seed=1)
    chosen: list[float] = []

    def noted(features: Tensor, labels: Tensor, num_classes: int) -> float:
        chosen.append(choose_penalty(features, labels, num_classes))
        return chosen[-1]

    monkeypatch.setattr("vit.evaluation.probes.choose_penalty", noted)
    good = few_shot(train, test, 5, 5, seeds=(0, 1))
    bad = few_shot(train, (test[0], (test[1] + 1) % 5), 5, 5, seeds=(0, 1))
    assert chosen[:2] == chosen[2:]
    assert min(good) > 0.5 > max(bad)


def test_support_has_so_many_of_each_class_and_all_of_small_ones() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 10)[torch.randperm(23)]
    chosen = support(labels, 5, seed=3)
    assert labels[chosen].bincount().tolist() == [5, 3, 5]
    assert chosen.tolist() == sorted(set(chosen.tolist())) == support(labels, 5, seed=3).tolist()
    assert chosen.tolist() != support(labels, 5, seed=4).tolist()


def test_logistic_equals_scikit_learn() -> None:
    features, labels = problem(120, 8)
    x = Standard.of(features)(features).numpy()
    theirs = LogisticRegression(C=1 / 0.5, tol=1e-9, max_iter=5000).fit(x[:, :-1], labels.numpy())
    found = logistic(features, labels, 5, penalty=0.5).numpy()
    np.testing.assert_allclose(found[:-1], theirs.coef_.T, atol=2e-4)
    ours = x @ found
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), _centred(theirs, x), atol=2e-3)


def _centred(model: LogisticRegression, x: np.ndarray) -> np.ndarray:
    scores = x[:, :-1] @ model.coef_.T + model.intercept_
    return scores - scores.mean(1, keepdims=True)


def test_nearest_votes_by_hand() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 2])
    asked = torch.tensor([[2.0, 0.1], [0.0, 3.0], [-1.0, -0.1]])
    assert nearest(known, labels, asked, 3, k=3).tolist() == [0, 1, 2]
    assert nearest(known, labels, asked[:0], 3).tolist() == []

"""Choosing on the dev split: the grid, what is given up when, ties, and what the retraining gets."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from tests.recipes import training
from vit.training.sweep import SweepConfig, Wanted, choose, grid, repeated, shortened, spread

TRAIN = training(steps=400, warmup_steps=100, cooldown_steps=0, learning_rate=0.1, seed=7)
RATES = (0.001, 0.003, 0.01, 0.03)


def sweep(**changes: Sequence[float]) -> SweepConfig:
    empty: dict[str, Sequence[float]] = {"learning_rates": (), "steps": (), "seeds": (), "rungs": ()}
    return SweepConfig(**{**empty, **changes})  # pyright: ignore[reportArgumentType]


class Dev:
    """Scores points by a function of (learning rate, steps done), and remembers what was asked for at once."""

    def __init__(self, top1: Callable[[float, int], float]) -> None:
        self.top1 = top1
        self.asked: list[list[tuple[str, float, int]]] = []

    def __call__(self, wanted: Sequence[Wanted[str]]) -> list[float]:
        self.asked.append([(one.subject, one.train.learning_rate, one.train.steps) for one in wanted])
        return [self.top1(one.train.learning_rate, one.train.steps) for one in wanted]


def test_the_grid_is_all_combinations_and_empty_is_the_one_setting() -> None:
    points = grid(sweep(learning_rates=RATES, steps=(200, 400)), TRAIN)
    assert [(point.steps, point.learning_rate) for point in points] == [(s, r) for s in (200, 400) for r in RATES]
    assert all(dataclasses.replace(p, steps=TRAIN.steps, learning_rate=TRAIN.learning_rate) == TRAIN for p in points)
    assert grid(sweep(), TRAIN) == [TRAIN] == repeated(sweep(), TRAIN)
    assert [run.seed for run in repeated(sweep(seeds=(3, 1)), TRAIN)] == [3, 1]


def test_one_point_needs_no_dev_split() -> None:
    dev = Dev(lambda rate, steps: 0.5)
    found = choose({"cup": [TRAIN]}, [0.25], dev)
    assert not dev.asked and found["cup"].train is TRAIN and not found["cup"].trials


def test_the_best_on_dev_is_chosen_for_each_subject_by_itself() -> None:
    best = {"cup": 0.003, "tree": 0.03}
    points = grid(sweep(learning_rates=RATES), TRAIN)

    def score(wanted: Sequence[Wanted[str]]) -> list[float]:
        return [float(one.train.learning_rate == best[one.subject]) for one in wanted]

    found = choose(dict.fromkeys(best, points), [], score)
    assert {subject: choice.train.learning_rate for subject, choice in found.items()} == best
    assert [trial.top1 for trial in found["cup"].trials] == [0.0, 1.0, 0.0, 0.0]


def test_the_worse_half_is_given_up_at_each_rung() -> None:
    dev = Dev(lambda rate, steps: -rate if steps < 400 else rate)
    points = grid(sweep(learning_rates=(*RATES, 0.06)), TRAIN)
    found = choose({"cup": points}, [0.1, 0.5], dev)["cup"]
    steps = [(40, [*RATES, 0.06]), (200, [0.001, 0.003, 0.01]), (400, [0.001, 0.003])]
    assert dev.asked == [[("cup", rate, count) for rate in rates] for count, rates in steps]
    assert found.train == dataclasses.replace(TRAIN, learning_rate=0.003), "the best in full, among those left"
    assert [trial.fraction for trial in found.trials] == [0.1] * 5 + [0.5] * 3 + [1.0] * 2


def test_of_equal_scores_the_earlier_point_wins() -> None:
    found = choose({"cup": grid(sweep(learning_rates=RATES), TRAIN)}, [0.5], Dev(lambda rate, steps: 0.5))
    assert found["cup"].train.learning_rate == RATES[0]
    assert [trial.learning_rate for trial in found["cup"].trials[4:]] == list(RATES[:2])


def test_a_part_has_the_whole_schedule() -> None:
    part = shortened(TRAIN, 0.25)
    assert (part.steps, part.warmup_steps, part.learning_rate) == (100, 25, TRAIN.learning_rate)
    assert shortened(TRAIN, 1.0) == TRAIN
    assert (shortened(TRAIN, 0.001).steps, shortened(TRAIN, 0.001).warmup_steps) == (1, 0)


def test_names_tell_all_trainings_of_a_subject_apart() -> None:
    points = grid(sweep(learning_rates=RATES, steps=(200, 400)), TRAIN)
    names = {Wanted("cup", point, fraction).name for point in points for fraction in (0.25, 0.5, 1.0)}
    assert len(names) == 24


def test_mean_and_standard_deviation() -> None:
    assert spread([0.5, 0.7, 0.9]) == (pytest.approx(0.7), pytest.approx((0.08 / 3) ** 0.5))
    assert spread([0.5]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rates": (0.1, 0.1)}, "learning_rates .* must be different"),
        ({"seeds": (-1,)}, "seeds .* not negative"),
        ({"rungs": (0.5, 0.25)}, "rungs .* must rise"),
        ({"rungs": (1.0,)}, "rungs .* between 0 and 1"),
    ],
)
def test_senseless_sweeps_are_refused(changes: dict[str, Sequence[float]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sweep(**changes)

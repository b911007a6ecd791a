"""Accuracy from answers: what counting by hand gives, without leaked images too, and a defined result at both ends."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vit.data.shards import Shards, png_example, write
from vit.evaluation.answers import answers, clean_top1, top1
from vit.training.scoring import score

# Ten images of one class, of which the network takes numbers 0 to 6 for it: 7 of 10.
RIGHT, ALL = 7, 10
ANSWERS = np.array([1] * RIGHT + [0] * (ALL - RIGHT))


class UpTo(nn.Module):
    """Answers class 1 for images whose gray, their number, is below RIGHT; else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        numbers = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        return torch.stack([torch.zeros(len(images)), (numbers < RIGHT).float() - 0.5], dim=1)


@pytest.fixture
def tests(tmp_path: Path) -> Shards:
    examples = [png_example(f"test-{n}", "test", 1, np.full((6, 6, 3), n, np.uint8)) for n in range(ALL)]
    write(tmp_path, examples, name="task", class_names=["no", "yes"])
    return Shards(tmp_path, splits=("test",))


def test_answers_are_those_that_validation_counts(tests: Shards) -> None:
    found = answers(UpTo(), tests, resolution=6, view="square")
    assert found.tolist() == ANSWERS.tolist()
    assert top1(found, tests) == score(UpTo(), tests, resolution=6, view="square")["top1"] == RIGHT / ALL


@pytest.mark.parametrize(
    ("leaked", "right", "clean"),
    [
        ({0, 1, 2}, 4, 7),  # the network had them all right: clean is lower than full
        ({7, 8}, 7, 8),  # had them wrong: clean is higher
        ({2, 9}, 6, 8),
        ({0, 1, 2, 3, 4, 5, 6}, 0, 3),
        ({7, 8, 9}, 7, 7),
    ],
)
def test_leaked_images_are_left_out_of_both_numbers(tests: Shards, leaked: set[int], right: int, clean: int) -> None:
    assert clean_top1(ANSWERS, tests, {f"test-{n}" for n in leaked}) == (right / clean, clean)


@pytest.mark.parametrize("leaked", [frozenset[str](), frozenset({"test-77", "an image of another task"})])
def test_without_leaks_both_numbers_are_the_full_ones(tests: Shards, leaked: frozenset[str]) -> None:
    assert clean_top1(ANSWERS, tests, leaked) == (RIGHT / ALL, ALL)


def test_if_all_are_leaked_there_is_no_clean_accuracy(tests: Shards) -> None:
    assert clean_top1(ANSWERS, tests, {f"test-{n}" for n in range(ALL)}) == (None, 0)


def test_any_of_several_labels_is_right_and_unlabelled_images_do_not_count(tmp_path: Path) -> None:
    """The rule of ImageNet-ReaL."""
    sets: list[tuple[int, ...]] = [(0,), (1, 2), (0, 1, 2), (), (2,), ()]
    plain = png_example("x", "test", 0, np.zeros((2, 2, 3), np.uint8))
    examples = [dataclasses.replace(plain, key=f"{n}", labels=labels) for n, labels in enumerate(sets)]
    write(tmp_path, examples, name="real", class_names=["a", "b", "c"])
    tests = Shards(tmp_path)
    tests.multi_label = True
    found = np.array([1, 2, 0, 0, 0, 1])
    assert top1(found, tests) == 2 / 4
    assert clean_top1(found, tests, {"0", "3"}) == (2 / 3, 3)
    assert clean_top1(found, tests, {"0", "1", "2", "4"}) == (None, 0)
    with pytest.raises(ValueError, match="has a label"):
        top1(found[3:4], rows(tests, [3]))


def rows(shards: Shards, chosen: list[int]) -> Shards:
    """These of the images."""
    keep = copy.copy(shards)
    keep.labels = shards.labels[chosen]
    return keep

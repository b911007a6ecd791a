"""Scores while training on two ranks of which one has more batches of validation images than the other."""

from collections.abc import Callable

import pytest

from tests.vit.training.conftest import ALONE, TORCHRUN, Sitting

pytestmark = pytest.mark.slow
Make = Callable[[str], Sitting]
# Of 9 images in batches of 4 rank 0 has 5 in two batches, rank 1 has 4 in one. Of a single one, rank 1 has none.
SETTINGS = {"steps": 8, "save_every": 8, "validate_every": 2, "score_batch": 4}


@pytest.mark.parametrize(
    ("shard", "number", "objective"),
    [("0", 9, "labels"), ("1", 9, "labels"), ("1", 9, "patches"), ("1", 1, "labels"), ("1", 1, "patches")],
)
def test_every_rank_ends_with_the_score_of_all_images(shard: str, number: int, objective: str, sitting: Make) -> None:
    scores: list[float] = []
    for name, command, switch in (("alone", ALONE, "0"), ("two", TORCHRUN, shard)):
        found = sitting(name)
        found.write("val", number)
        found.run(command, env={"VITFLOW_SHARD": switch}, timeout=90, objective=objective, **SETTINGS)
        scores.append(found.best())
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)
    assert objective == "patches" or scores[0] * number == pytest.approx(round(scores[0] * number))

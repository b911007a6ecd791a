"""The rows of the fault list that CI has time for, a few times each; `make faults` tries all of them."""

from collections.abc import Iterator

import pytest

from tests.faults import runner
from tests.faults.bed import Bed, bed
from tests.faults.row import Row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def where() -> Iterator[Bed]:
    with bed() as made:
        yield made


@pytest.mark.parametrize("row", [row for row in runner.ROWS if row.brief], ids=lambda row: f"row {row.number}")
def test_what_must_hold_does(row: Row, where: Bed) -> None:
    result = runner.attempt(row, where, numbers=range(row.brief), seed=1)
    assert not result.failures, result.failures
    assert result.survived == row.brief or result.not_run

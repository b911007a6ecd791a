"""Whether the protections that can be taken out are where the table says."""

import ast

import pytest

from tests.checkout import ROOT
from tests.faults.mutations import MUTATIONS, Mutation
from tests.faults.runner import ROWS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.row}-{one.without.replace(' ', '-')}")
def test_a_protection_is_there(mutation: Mutation) -> None:
    text = (ROOT / mutation.path).read_text()
    changed = mutation.applied(text)
    assert changed != text
    ast.parse(changed)
    (row,) = [one for one in ROWS if one.number == mutation.row]
    assert mutation.trial < row.times


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match=r"occurs 2 times in x\.py, but must occur once"):
        Mutation(1, "x", "x.py", "a", "b").applied("a a")

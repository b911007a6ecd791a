"""A change of numerics is a decision: `python -m tests.vit.training.golden` writes the file again."""

import json
from pathlib import Path

import pytest

from tests.vit.training.golden import FILE, losses


def test_first_losses_of_mini(tmp_path: Path) -> None:
    expected = json.loads(FILE.read_text())
    assert len(expected) == 30 and expected[0] == pytest.approx(4.15888, abs=1e-4)  # ln 64: zero head, 64 classes
    assert losses(tmp_path) == pytest.approx(expected, abs=1e-4)

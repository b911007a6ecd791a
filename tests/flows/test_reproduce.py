"""`vitflow models reproduce`: a registered version made again from its commit, in a clone with state of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.checkout import make_checkout, run, vitflow

pytestmark = pytest.mark.slow


def test_the_same_bits_from_a_clean_clone(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    override = ("--set", "finetune.train.betas=[0.9, 0.99]")  # with a space in it
    done = vitflow(checkout, "run", "smoke", *override, "--json")
    assert done.returncode == 0, done.stderr
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    (checkout / "README.md").write_text("changed since\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    assert run(checkout, *git, "commit", "-qam", "later").returncode == 0
    again = vitflow(checkout, "models", "reproduce", "vit-smoke", "--into", str(tmp_path / "again"), "--json")
    assert again.returncode == 0, again.stderr
    outcome = json.loads(again.stdout)
    assert outcome["is_same"], outcome
    assert outcome["max_difference"] == 0
    assert outcome["scores"] == {}
    assert outcome["software"] == {}
    found = run(tmp_path / "again", "git", "rev-parse", "HEAD").stdout
    assert found == head
    assert json.loads(vitflow(checkout, "models", "--json").stdout)[0]["version"] == "1"  # nothing registered here

"""Retraining: nothing new costs seconds, new images run all that depends on them, any version can be made again."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.checkout import make_checkout, run, vitflow

pytestmark = [pytest.mark.slow, pytest.mark.long]
GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
STAGES = ["prepare", "deduplicate", "pretrain", "finetune", "evaluate", "register"]


def draw(folder: Path, first: int, last: int) -> None:
    """Pictures of two classes that differ in brightness, one each for every number."""
    for number in range(first, last):
        for label, brightness in (("dark", 0), ("light", 128)):
            pixels = np.random.default_rng([number, brightness]).integers(0, 128, (32, 32, 3), dtype=np.uint8)
            (folder / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels + np.uint8(brightness)).save(folder / label / f"{number}.png")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose pipeline reads a folder beside it; run once."""
    home = tmp_path_factory.mktemp("retraining")
    draw(home / "photos", 0, 100)
    checkout = make_checkout(home / "checkout")
    file = checkout / "pipelines.yaml"
    pipelines = yaml.safe_load(file.read_text())
    pipelines["pipelines"]["smoke"]["prepare"] |= {"source": "folder", "location": str(home / "photos")}
    file.write_text(yaml.safe_dump(pipelines, sort_keys=False))
    assert run(checkout, *GIT, "commit", "-qam", "a folder").returncode == 0
    done = vitflow(checkout, "run", "smoke", "--set", "finetune.train.betas=[0.9, 0.99]", "--json")  # with a space
    assert done.returncode == 0, done.stderr
    return checkout


def test_a_version_is_made_again_bit_by_bit(checkout: Path, tmp_path: Path) -> None:
    head = run(checkout, "git", "rev-parse", "HEAD").stdout
    (checkout / "README.md").write_text("changed since\n")
    assert run(checkout, *GIT, "commit", "-qam", "later").returncode == 0
    done = vitflow(checkout, "models", "reproduce", "vit-smoke/1", "--into", str(tmp_path / "again"), "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["is_same"], outcome
    assert (outcome["max_difference"], outcome["scores"], outcome["software"]) == (0, {}, {})
    assert run(tmp_path / "again", "git", "rev-parse", "HEAD").stdout == head
    assert len(json.loads(vitflow(checkout, "models", "--json").stdout)) == 1  # nothing was registered here


def test_new_images_run_what_depends_on_them(checkout: Path) -> None:
    first = vitflow(checkout, "run", "smoke", "--json")  # without the override: shares prepare and deduplicate with it
    assert first.returncode == 0, first.stderr
    start = time.monotonic()
    plan = json.loads(vitflow(checkout, "run", "smoke", "--dry-run", "--json").stdout)
    assert all(not reasons for reasons in _reasons(plan).values()), plan
    idle = vitflow(checkout, "run", "smoke")
    assert idle.returncode == 0
    assert idle.stdout.count("up to date") == len(STAGES)
    assert time.monotonic() - start < 60  # twice a second process of imports, on machines that others use

    draw(checkout.parent / "photos", 100, 105)
    plan = _reasons(json.loads(vitflow(checkout, "run", "smoke", "--dry-run", "--json").stdout))
    assert "210 files" in plan["prepare"][0]
    assert all(plan[stage] for stage in STAGES)
    again = vitflow(checkout, "run", "smoke", "--json")
    assert again.returncode == 0, again.stderr
    versions = json.loads(vitflow(checkout, "models", "--json").stdout)
    assert [one["version"] for one in versions] == ["3", "2", "1"]
    data = json.loads(vitflow(checkout, "models", "diff", "vit-smoke/2", "vit-smoke/3", "--json").stdout)["data"]
    assert data["dedup/images_in"] == [200.0, 210.0]
    assert {"dvc.prepare", "dvc.deduplicate"} <= set(data)


def _reasons(plan: dict) -> dict[str, list[str]]:
    """Stage to the reasons why it would run."""
    return {stage: one["because"] for stage, one in plan["stages"].items()}

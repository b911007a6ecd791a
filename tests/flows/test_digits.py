"""The pipeline `digits` as its user runs it: pre-training is worth its computation, and the report shows it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import make_checkout, run, vitflow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After a run on two workers."""
    place = make_checkout(tmp_path_factory.mktemp("digits"), "digits")
    done = vitflow(place, "run", "digits", VITFLOW_WORKERS="2", RAY_worker_niceness="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from random weights on the same budget" in done.stdout
    return place


@pytest.fixture(scope="module")
def report(checkout: Path) -> dict[str, Any]:
    return json.loads(vitflow(checkout, "report", "digits", "--json").stdout)


def test_fine_tuned_beats_random_weights_on_no_smaller_a_budget(report: dict[str, Any]) -> None:
    before, tuned = report["pretrain"], report["finetune"]
    budget = before["train/flops"] + tuned["train/flops"]
    assert budget <= tuned["train/flops_random_init"] < 1.01 * budget
    assert tuned["num_val"] == 797 and tuned["num_train"] == tuned["num_train_random_init"] == 1000
    assert tuned["val/top1"] > tuned["val/top1_random_init"] + 0.015 and tuned["val/top1"] > 0.92
    assert tuned["val/top1_random_init"] > 0.8, "no straw man"


def test_the_report_shows_it(checkout: Path, report: dict[str, Any]) -> None:
    *_, both, random = report["same_budget"]
    assert both["top1"] == report["finetune"]["val/top1"] > random["top1"]
    for option in ("--html", "--markdown"):
        place = checkout / "report"
        done = vitflow(checkout, "report", "digits", option, str(place))
        assert done.returncode == 0, done.stdout + done.stderr
        text = place.read_text()
        assert "Pre-training beside random weights on the same budget" in text and "pre-training gains" in text
        for one in (both, random):
            assert f"{100 * one['top1']:.1f}" in text and f"{one['flops']:.3g}" in text


def test_the_other_door_has_nothing_to_do_and_mlflow_has_both_scores(checkout: Path, report: dict[str, Any]) -> None:
    repro = run(checkout, "dvc", "repro", "register@digits")
    assert repro.stdout.count("didn't change, skipping") == 6, repro.stdout
    assert report["register"]["metrics"]["finetune/val/top1_random_init"] == report["finetune"]["val/top1_random_init"]
    (version,) = json.loads(vitflow(checkout, "models", "vit-digits", "--json").stdout)
    assert version["version"] == "1"

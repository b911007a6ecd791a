"""The report of a run that trained random weights, too: both accuracies and both budgets, for who was not there."""

import dataclasses
import re
from typing import Any

import pytest

from flows import forecast, report_budget
from flows.report_page import page
from flows.report_sections import markdown
from flows.show import sentence
from flows.stages.config import Pipeline, load
from flows.stages.progress import Progress
from flows.stages.random_init import RandomInitConfig
from tests.checkout import ROOT

NUMBERS: dict[str, Any] = {
    "pretrain": {"val/top1": 0.91, "train/steps": 400, "train/flops": 3.85e11},
    "finetune": {
        **{"val/top1": 0.9586, "train/steps": 100, "train/flops": 2.27e11, "num_val": 797},
        **{"val/top1_random_init": 0.9209, "train/steps_random_init": 269, "train/flops_random_init": 6.13e11},
        "learning_rate_random_init": 0.004,
    },
}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setenv("VITFLOW_ROOT", str(ROOT))
    mini = load("mini")
    asked = RandomInitConfig(learning_rates=(0.002, 0.004))
    return dataclasses.replace(mini, finetune=dataclasses.replace(mini.finetune, random_init=asked))


def test_both_accuracies_and_budgets_are_on_the_page(config: Pipeline) -> None:
    told = report_budget.section(NUMBERS, config)
    for text in (page("digits", [told]), markdown("digits", [told])):
        assert "Pre-trained at 32 px and fine-tuned at 48 px, the network answers 95.9 %" in text
        assert "92.1 %: pre-training gains 3.8 points." in text
    rows = [re.sub(r" +\| +", "|", row) for row in markdown("digits", [told]).splitlines() if row.startswith("| ")]
    assert rows[1:] == [
        "| pre-training|32 px|400|3.85e+11|– |",
        "| fine-tuning|48 px|100|2.27e+11|– |",
        "| pre-trained, then fine-tuned|32 px, 48 px|500|6.12e+11|95.9 |",
        "| from random weights|48 px|269|6.13e+11|92.1 |",
    ]
    assert "of 797 images" in told.note and "peak learning rate of 0.004" in told.note


def test_a_loss_is_called_so(config: Pipeline) -> None:
    lost = NUMBERS | {"finetune": NUMBERS["finetune"] | {"val/top1": 0.9}}
    assert "pre-training loses 2.1 points." in report_budget.section(lost, config).sentences[0]


def test_of_several_seeds_the_means_are_compared(config: Pipeline) -> None:
    means = {"val/top1_mean": 0.95, "val/top1_mean_random_init": 0.92}
    *_, both, random = report_budget.same_budget(NUMBERS | {"finetune": NUMBERS["finetune"] | means}, config)
    assert (both.top1, random.top1) == (0.95, 0.92)


def test_without_the_control_nothing_is_said(config: Pipeline) -> None:
    plain = {name: one for name, one in NUMBERS["finetune"].items() if not name.endswith("_random_init")}
    assert report_budget.section(NUMBERS | {"finetune": plain}, config).lines == ()


def test_a_forecast_counts_it(config: Pipeline) -> None:
    """Two points of its grid, and the one that is kept: each on the budget of both trainings."""
    plain = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, random_init=None))
    before, tuned = (forecast.work(plain, stage, tasks=10) for stage in ("pretrain", "finetune"))
    found = forecast.work(config, "finetune", tasks=10)
    assert (tuned["trainings"], found["trainings"]) == (1, 4)
    both = before["exaflops"] + tuned["exaflops"]
    assert found["exaflops"] - tuned["exaflops"] == pytest.approx(3 * both, rel=0.01)


def test_progress_says_whose_numbers_they_are() -> None:
    event = Progress(stage="finetune", step=5, total=10, metrics={"train/loss_random_init": 1.5})
    assert sentence(event) == "from random weights, step 5 of 10, loss 1.5"

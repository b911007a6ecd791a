"""A person with a browser, after the demo: starts it again with an override through Prefect's form, watches the run,
follows it to the registered model in MLflow.

Only what the override touches runs, elsewhere. Screenshots go to test-results/ui/, to be looked at.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.checkout import ROOT, run
from tests.ui import browser
from tests.ui.served import Served, served, still_running

PIPELINE = "mini"
OVERRIDES = ("finetune.train.learning_rate=0.02", "evaluate.train.steps=40")  # the second only to save minutes
FRESH, TOUCHED = ("prepare", "deduplicate", "pretrain"), ("finetune", "evaluate", "register")
STAGES = (*FRESH, *TOUCHED)
LOOKS = ("evaluate-filters", "evaluate-positions", "evaluate-attention-distance", "evaluate-rollout")
PICTURES = ("prepare-corpus", "deduplicate-pairs", "pretrain-curves", "finetune-curves", "evaluate-scores", *LOOKS)
RUN_SECONDS = 1200.0
SHOTS = ROOT / "test-results" / "ui"

pytestmark = [pytest.mark.slow, browser.needs_chromium]


@pytest.fixture
def stack(demo: Path) -> Iterator[Served]:
    with served(demo) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Page]:
    browser.empty("ui")
    with browser.opened_page() as opened:
        yield opened


def test_from_the_form_to_the_registered_model(stack: Served, page: Page) -> None:
    run = fill_in_the_form(page, stack)
    watch_the_run(page, stack, run)
    check_logs(page, stack)
    check_task_runs(page)
    artifacts = list_artifacts(page)
    look_at_pictures(page, artifacts)
    version = read_the_summary(page, artifacts)
    assert version.startswith(f"{stack.mlflow}/#/models/vit-{PIPELINE}/versions/")
    check_model_version(page, version, stack.commit())
    check_training_run(page, artifacts["finetune-mlflow"])
    check_that_nothing_tracked_changed(stack)
    started = stack.processes()
    assert len(started) >= 3, "two servers and a runner"
    assert stack.interrupt() in (0, 130)
    assert still_running([*started, *stack.processes()]) == []


def fill_in_the_form(page: Page, stack: Served) -> str:
    """Run, Custom run, the overrides, Submit; the address of the run."""
    page.goto(f"{stack.prefect}/deployments")
    deployment = page.get_by_role("link", name=PIPELINE, exact=True).first
    deployment.wait_for()
    shoot(page, "prefect-deployments")
    deployment.click()
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.get_by_text("Custom run").first.click()
    fields = page.locator(".schema-form-property")
    pipeline, overrides = (fields.filter(has_text=name).first for name in ("pipeline (Optional)", "overrides"))
    expect(pipeline).to_contain_text("Which pipeline of pipelines.yaml to run.")
    expect(overrides).to_contain_text("Only the stages they touch run again")
    pipeline.get_by_role("button", name=PIPELINE, exact=True).press("ArrowDown")  # opens the list
    shoot(page, "prefect-form-choice")
    page.locator(".p-select-option").filter(has_text=PIPELINE).click()
    for place, override in enumerate(OVERRIDES):
        overrides.get_by_role("button", name="Add item").click()
        overrides.locator("textarea").nth(place).fill(override)
    shoot(page, "prefect-form")
    page.get_by_role("button", name="Submit").click()
    address = page.locator("a[href*='/runs/flow-run/']").first.get_attribute("href")
    assert address is not None
    return f"{stack.prefect}{address}"


def watch_the_run(page: Page, stack: Served, run: str) -> None:
    """A look at it while it trains, and again when it is complete; an open page would cost a core in between."""
    page.goto("about:blank")
    deadline = time.monotonic() + RUN_SECONDS
    seen_running = False
    while (state := stack.run_state(run.rpartition("/")[2])) != "Completed":
        assert state not in ("Failed", "Crashed", "Cancelled"), f"the run {state.lower()}:\n{stack.log('runner')}"
        assert time.monotonic() < deadline, f"{state} after {RUN_SECONDS:.0f} s:\n{stack.log('runner')}"
        if not seen_running and "finetune: step" in stack.log("runner"):
            seen_running = True
            page.goto(run)
            page.get_by_text("finetune: running").wait_for()
            shoot(page, "prefect-run-running")
            page.goto("about:blank")
        time.sleep(1)
    page.goto(run)
    expect(page.locator(".state-badge").first).to_have_text("Completed")
    expect(page.get_by_text("6 Task runs").first).to_be_visible()


def check_logs(page: Page, stack: Served) -> None:
    """Each stage says that it is done, or was; no library says anything else."""
    shoot(page, "prefect-run")
    for stage in STAGES:
        end = r"done in \d+ s" if stage in TOUCHED else "up to date"
        page.get_by_text(re.compile(rf"^{stage}: {end}")).first.scroll_into_view_if_needed()
    shoot(page, "prefect-run-logs")
    noise = [line for line in stack.log("runner").splitlines() if re.search(r"WARN|ERROR|Traceback|Warning", line)]
    assert noise == []


def check_task_runs(page: Page) -> None:
    page.get_by_text("Task Runs", exact=True).click()
    links = page.locator("a[href*='/runs/task-run/']")
    expect(links).to_have_count(len(STAGES))
    assert sorted(links.all_inner_texts()) == sorted(STAGES)
    shoot(page, "prefect-run-tasks")


def list_artifacts(page: Page) -> dict[str, str]:
    """Addresses of the run's artifacts by key."""
    page.get_by_text("Artifacts", exact=True).click()
    progress, links = [f"{stage}-progress" for stage in TOUCHED], [f"{stage}-mlflow" for stage in STAGES]
    expected = {*progress, *links, *PICTURES, "summary", "report", "model-version"}
    cards = page.locator("a[href*='/artifacts/artifact/']")
    expect(cards).to_have_count(len(expected))
    shoot(page, "prefect-run-artifacts")
    found: dict[str, str] = {}
    for card in cards.all():
        _, key, *rest = (line for line in card.inner_text().splitlines() if line)
        found[key] = str(card.evaluate("card => card.href"))
        assert "No description" not in rest, key
        assert not key.endswith("-progress") or re.search(r"done in \d+ s", rest[-1]), rest
    assert set(found) == expected
    return found


def look_at_pictures(page: Page, artifacts: dict[str, str]) -> None:
    for key in PICTURES:
        page.goto(artifacts[key])
        picture = page.locator("img[src^='data:image/png']")
        picture.wait_for()
        assert picture.evaluate("picture => picture.naturalWidth") > 300, key
        shoot(page, f"prefect-{key}")


def read_the_summary(page: Page, artifacts: dict[str, str]) -> str:
    """The table of results; the address of the model version that it links to."""
    page.goto(artifacts["summary"])
    table = page.locator("table").first
    for row in ("images in", "planted found", "fine-tuning, top-1", "mini-VTAB, mean of 10 tasks", "model version"):
        expect(table).to_contain_text(row)
    expect(page.locator("code").filter(has_text=" ".join(OVERRIDES))).to_be_visible()
    shoot(page, "prefect-summary")
    link = page.get_by_role("link", name=f"models:/vit-{PIPELINE}/2 in MLflow")
    return str(link.get_attribute("href"))


def check_that_nothing_tracked_changed(stack: Served) -> None:
    """The run with an override wrote beside what DVC tracks."""
    runs = stack.checkout / "runs" / PIPELINE
    assert sorted(path.name.partition("@")[0] for path in runs.glob("*@*")) == sorted(TOUCHED)
    status = run(stack.checkout, "dvc", "status")
    assert "Data and pipelines are up to date." in status.stdout, status.stdout + status.stderr


def check_model_version(page: Page, address: str, commit: str) -> None:
    """Version, alias, lineage, and the run that registered it with its metrics."""
    page.goto(address)
    expect(page.get_by_role("heading", name="Version 2")).to_be_visible()
    expect(page.get_by_text(re.compile("champion|challenger")).first).to_be_visible()
    expect(page.get_by_text("git.commit").first).to_be_visible()
    expect(page.get_by_text(commit).first).to_be_visible()
    shoot(page, "mlflow-model-version")
    page.get_by_text("git.commit").last.scroll_into_view_if_needed()
    shoot(page, "mlflow-model-version-tags")
    page.get_by_role("link", name=f"{PIPELINE}/register").first.click()
    expect(page.get_by_text("vtab/mean_of_tasks").first).to_be_attached()
    shoot(page, "mlflow-run-register")


def check_training_run(page: Page, link: str) -> None:
    """From Prefect's link: the override arrived, curves were drawn, and the other stages are beside it."""
    page.goto(link)
    address = str(page.get_by_role("link", name="finetune in MLflow").get_attribute("href"))
    page.goto(address)
    parameter = page.get_by_role("row").filter(has_text="train.learning_rate")
    expect(parameter).to_contain_text("0.02")
    shoot(page, "mlflow-run-finetune")
    page.get_by_text("Model metrics", exact=True).click()
    expect(page.get_by_text("train/loss").first).to_be_visible()
    shoot(page, "mlflow-run-finetune-charts")
    page.goto(re.sub(r"/runs/\w+$", "/runs", address))
    for stage in STAGES:
        expect(page.get_by_text(f"{PIPELINE}/{stage}").first).to_be_visible()
    shoot(page, "mlflow-runs")


def shoot(page: Page, name: str) -> None:
    browser.shoot(page, SHOTS / f"{name}.png")

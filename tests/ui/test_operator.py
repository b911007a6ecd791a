"""An operator with only a browser, from nothing: `vitflow up` in a fresh checkout; deployments and what they are for; a
schedule that fires; a run that is cancelled, and one with an override that goes through to its report and its model.

On PostgreSQL where there is one. Screenshots go to test-results/operator/, to be looked at.
"""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.checkout import make_checkout
from tests.ui import browser
from tests.ui.served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.long, browser.needs_chromium]
EACH_MINUTE = {"cron": "* * * * *", "timezone": "Europe/Berlin", "jitter_seconds": 0}
RUN_SECONDS = 900.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def stack(open_place: Path) -> Iterator[Served]:
    """`smoke` as it is, `hourly` for whom the clock runs it, `long` that trains for an hour."""
    checkout = make_checkout(open_place / "checkout")
    file = checkout / "pipelines.yaml"
    smoke = yaml.safe_load(file.read_text())["pipelines"]["smoke"]
    pipelines = {name: json.loads(json.dumps(smoke)) for name in ("smoke", "hourly", "long")}
    pipelines["hourly"]["deploy"] |= {"schedule": EACH_MINUTE, "description": "What the clock runs"}
    pipelines["long"]["deploy"] |= {"env": {"VITFLOW_WORKERS": "2"}, "description": "Trains for an hour"}
    pipelines["long"]["pretrain"]["train"] |= {"steps": 100_000, "save_every": 100}
    file.write_text(yaml.safe_dump({"pipelines": pipelines}, sort_keys=False))
    (checkout / ".vitflow").mkdir()
    with served(checkout) as running:
        yield running


@pytest.fixture(scope="module")
def shots() -> Path:
    return browser.empty("operator")


@pytest.fixture
def page() -> Iterator[Page]:
    with browser.opened_page() as opened:
        yield opened


def ask(stack: Served, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{stack.prefect}/api{path}", data=data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def runs_of(stack: Served, name: str) -> list[dict[str, Any]]:
    deployment = ask(stack, f"/deployments/name/vit-pipeline/{name}")
    return ask(stack, "/flow_runs/filter", {"deployments": {"id": {"any_": [deployment["id"]]}}})


def start(page: Page, stack: Served, name: str, *overrides: str) -> str:
    """Run, Custom run, the overrides, Submit; the id of the run."""
    page.goto(f"{stack.prefect}/deployments")
    page.get_by_role("link", name=name, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.get_by_text("Custom run").first.click()
    field = page.locator(".schema-form-property").filter(has_text="overrides (Optional)").first
    for place, override in enumerate(overrides):
        field.get_by_role("button", name="Add item").click()
        field.locator("textarea").nth(place).fill(override)
    page.get_by_role("button", name="Submit").click()
    address = page.locator("a[href*='/runs/flow-run/']").first.get_attribute("href")
    assert address is not None
    return address.rpartition("/")[2]


def wait_for(stack: Served, run: str, *states: str) -> str:
    page_limit = time.monotonic() + RUN_SECONDS
    while (state := ask(stack, f"/flow_runs/{run}")["state_type"]) not in states:
        assert state not in ENDED, f"the run {state.lower()}:\n{stack.log('runner')}"
        assert time.monotonic() < page_limit, f"{state} after {RUN_SECONDS:.0f} s:\n{stack.log('runner')}"
        time.sleep(1)
    return state


def test_the_deployments_say_what_they_are_for(stack: Served, page: Page, shots: Path) -> None:
    for width, view in (("desktop", browser.DESKTOP), ("phone", browser.PHONE)):
        page.set_viewport_size(view)
        page.goto(f"{stack.prefect}/deployments")
        for name in ("smoke", "hourly", "long"):
            expect(page.get_by_role("link", name=name, exact=True).first).to_be_visible()
        browser.shoot(page, shots / f"deployments-{width}.png")
        page.get_by_role("link", name="hourly", exact=True).first.click()
        expect(page.get_by_text("Every minute every day").first).to_be_visible()
        if width == "desktop":  # a list to choose from where there is no room for tabs
            page.get_by_text("Description", exact=True).click()
            expect(page.get_by_text("What the clock runs").first).to_be_visible()
        browser.shoot(page, shots / f"deployment-{width}.png")


def test_the_clock_starts_a_run(stack: Served, page: Page, shots: Path) -> None:
    """Within two minutes one goes on that nobody asked for; its page says that a schedule made it."""
    deadline = time.monotonic() + 180
    started: list[dict[str, Any]] = []
    while not started:
        started = [one for one in runs_of(stack, "hourly") if one["auto_scheduled"] and one["start_time"]]
        assert time.monotonic() < deadline, stack.log("runner")
        time.sleep(1)
    page.goto(f"{stack.prefect}/runs/flow-run/{started[0]['id']}")
    expect(page.get_by_text("hourly").first).to_be_visible()
    browser.shoot(page, shots / "scheduled-run.png")
    deployment = ask(stack, "/deployments/name/vit-pipeline/hourly")
    page.goto(f"{stack.prefect}/deployments/deployment/{deployment['id']}")
    page.get_by_role("switch").or_(page.locator(".p-toggle")).first.click()  # the schedule pauses
    browser.shoot(page, shots / "schedule-paused.png")
    deadline = time.monotonic() + 60
    while ask(stack, "/deployments/name/vit-pipeline/hourly")["schedules"][0]["active"]:
        assert time.monotonic() < deadline
        time.sleep(1)


def test_a_run_is_cancelled(stack: Served, page: Page, shots: Path) -> None:
    """In the middle of its training on two Ray workers: within half a minute it is over, and no worker is left."""
    run = start(page, stack, "long")
    wait_for(stack, run, "RUNNING")
    deadline = time.monotonic() + 600
    while not list(stack.checkout.glob("runs/long/.scratch/pretrain-*/checkpoints/step-*")):
        assert time.monotonic() < deadline, stack.log("runner")
        time.sleep(1)
    page.goto(f"{stack.prefect}/runs/flow-run/{run}")
    browser.shoot(page, shots / "to-be-cancelled.png")
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    browser.shoot(page, shots / "cancel.png")
    page.get_by_role("button", name="Confirm", exact=True).click()
    asked = time.monotonic()
    wait_for(stack, run, "CANCELLED")
    took = time.monotonic() - asked
    assert took < 35, f"cancelled after {took:.0f} s"
    page.goto(f"{stack.prefect}/runs/flow-run/{run}")
    expect(page.locator(".state-badge").first).to_have_text("Cancelled")
    browser.shoot(page, shots / "cancelled.png")
    workers = [one for one in stack.processes() if "RayTrainWorker" in " ".join(_words(one))]
    assert not workers, "no worker goes on"


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_run_with_an_override_to_its_report_and_its_model(stack: Served, page: Page, shots: Path) -> None:
    run = start(page, stack, "smoke", "finetune.train.learning_rate=0.02")
    page.goto(f"{stack.prefect}/runs/flow-run/{run}")
    page.get_by_text(re.compile(r"^prepare: done in \d+ s")).first.wait_for(timeout=300_000)
    browser.shoot(page, shots / "running.png")
    page.goto("about:blank")
    wait_for(stack, run, "COMPLETED")
    page.set_viewport_size(browser.PHONE)
    page.goto(f"{stack.prefect}/runs/flow-run/{run}")
    expect(page.locator(".state-badge").first).to_have_text("Completed")
    browser.shoot(page, shots / "completed-phone.png")
    page.set_viewport_size(browser.DESKTOP)
    page.goto(f"{stack.prefect}/runs/flow-run/{run}")
    page.get_by_text("Artifacts", exact=True).click()
    page.locator("a[href*='/artifacts/artifact/']").first.wait_for()
    browser.shoot(page, shots / "artifacts.png")
    cards = page.locator("a[href*='/artifacts/artifact/']")
    found = {card.inner_text().splitlines()[1]: str(card.evaluate("card => card.href")) for card in cards.all()}
    page.goto(found["report"])
    page.goto(str(page.get_by_role("link", name="The run in full").get_attribute("href")))
    page.frame_locator("iframe").get_by_role("heading", name=re.compile("smoke")).first.wait_for()
    browser.shoot(page, shots / "report.png")
    page.goto(found["summary"])
    version = str(page.locator("a[href*='/models/vit-smoke/versions/']").first.get_attribute("href"))
    page.goto(version)
    number = version.rpartition("/")[2]  # the run that the clock has started may have made the first
    expect(page.get_by_role("heading", name=re.compile(rf"Version {number}\b"))).to_be_visible()
    browser.shoot(page, shots / "model.png")

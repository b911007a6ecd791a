"""`vitflow deploy` against a Prefect server: what differs is put right, and only that; a pool's worker can run it."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import servers
from tests.checkout import environment, make_checkout, vitflow

pytestmark = pytest.mark.slow
SCHEDULE = {"cron": "0 3 * * 1", "timezone": "Europe/Berlin", "jitter_seconds": 60}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("deploy"))


@pytest.fixture(scope="module")
def api(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of its own."""
    with servers.prefect(checkout, tmp_path_factory.mktemp("prefect")) as address:
        yield address


def write(checkout: Path, **deploy: Any) -> None:
    """The pipelines `smoke` and, unless `deploy` says `other=False`, `other`, with these settings for smoke."""
    both = deploy.pop("other", True)
    file = checkout / "pipelines.yaml"
    smoke = yaml.safe_load(file.read_text())["pipelines"]["smoke"]
    smoke["deploy"] |= deploy
    file.write_text(yaml.safe_dump({"pipelines": {"smoke": smoke} | ({"other": smoke} if both else {})}))


def deployed(api: str) -> dict[str, Any]:
    return {one["name"]: one for one in ask(f"{api}/deployments/filter", {})}


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_the_server_is_made_to_hold_what_the_file_says(checkout: Path, api: str) -> None:
    def deploy(*arguments: str) -> subprocess.CompletedProcess[str]:
        return vitflow(checkout, "deploy", *arguments, PREFECT_API_URL=api)

    write(checkout, schedule=SCHEDULE, work_pool="local", collision="cancel_new")
    check = deploy("--check")
    assert (check.returncode, check.stdout.count("missing")) == (1, 2), check.stdout + check.stderr
    assert deployed(api) == {}  # a check changes nothing
    done = deploy()
    assert done.returncode == 0, done.stderr
    found = deployed(api)
    assert set(found) == {"smoke", "other"}
    assert found["smoke"]["work_pool_name"] == "local"
    (schedule,) = found["smoke"]["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * 1", "Europe/Berlin")
    assert found["smoke"]["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deploy("--check").returncode == 0
    again = deploy()
    assert "2 of 2" in again.stdout
    assert deployed(api) == found  # not even a time of change

    write(checkout, schedule=None, description="another text")
    drift = deploy("--check", "smoke")
    assert drift.returncode == 1
    assert re.search(r"smoke.*changed.*description, schedules", drift.stdout), drift.stdout
    assert deploy("smoke").returncode == 0
    assert deployed(api)["smoke"]["schedules"] == []
    assert deployed(api)["other"] == found["other"]

    write(checkout, other=False)
    asked = deploy()
    assert "remove its deployment?" in asked.stdout
    assert "other" in deployed(api)  # nobody said yes
    assert deploy("--yes").returncode == 0
    assert set(deployed(api)) == {"smoke"}


def test_the_clock_makes_runs(checkout: Path, api: str) -> None:
    """Prefect's scheduler has stopped at a new SQLAlchemy without a word but in the server's log."""
    write(checkout, schedule=SCHEDULE, other=False)
    assert vitflow(checkout, "deploy", "--yes", PREFECT_API_URL=api).returncode == 0
    scheduled = {"flow_runs": {"deployment_id": {"any_": [deployed(api)["smoke"]["id"]]}}}
    deadline = time.monotonic() + 120
    while not (runs := ask(f"{api}/flow_runs/filter", scheduled)):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert all(run["auto_scheduled"] and run["state_type"] == "SCHEDULED" for run in runs)


def test_a_worker_of_the_pool_runs_our_flow(checkout: Path, api: str) -> None:
    write(checkout, work_pool="local", schedule=None, other=False)
    assert vitflow(checkout, "deploy", PREFECT_API_URL=api).returncode == 0
    parameters = {"pipeline": "smoke", "overrides": ["pretrain.train.stepps=1"]}
    run = ask(f"{api}/deployments/{deployed(api)['smoke']['id']}/create_flow_run", {"parameters": parameters})
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--run-once"]
    variables = environment(checkout, PREFECT_API_URL=api)
    done = subprocess.run(command, cwd=checkout.parent, env=variables, capture_output=True, text=True, timeout=300)
    with urllib.request.urlopen(f"{api}/flow_runs/{run['id']}", timeout=30) as answer:
        state = json.load(answer)["state"]
    assert state["type"] == "FAILED", done.stdout + done.stderr
    assert "did you mean 'steps'?" in state["message"]


def test_without_a_server_the_way_there_is_said(checkout: Path) -> None:
    done = vitflow(checkout, "deploy")
    assert done.returncode == 2
    assert "PREFECT_API_URL" in done.stderr
    down = vitflow(checkout, "deploy", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert down.returncode == 3
    assert "does not answer" in down.stderr

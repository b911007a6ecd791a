"""Ten runs of one deployment started at once: one goes on at a time, all end in a state that says why, one version."""

import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from json import load
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkout import make_checkout
from tests.flows.test_deploy_server import ask
from tests.ui.served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.long]
COUNT = 10
FINAL = {"COMPLETED", "CANCELLED", "FAILED", "CRASHED"}
SECONDS = 1800  # a turn comes every half a minute, and the machine may be busy


@pytest.fixture(scope="module")
def checkout(open_place: Path) -> Path:
    """Two pipelines that differ in what becomes of a second run."""
    checkout = make_checkout(open_place / "checkout")
    file = checkout / "pipelines.yaml"
    smoke = yaml.safe_load(file.read_text())["pipelines"]["smoke"]
    other = smoke | {
        "deploy": smoke["deploy"] | {"collision": "cancel_new"},
        "register": smoke["register"] | {"model_name": "vit-other"},
    }
    file.write_text(yaml.safe_dump({"pipelines": {"smoke": smoke, "other": other}}, sort_keys=False))
    return checkout


@pytest.fixture(scope="module")
def stack(checkout: Path) -> Iterator[Served]:
    """On PostgreSQL. SQLite, which lets one write at a time, makes Prefect answer 503 to some of the starts."""
    with served(checkout) as stack:
        yield stack


def start(stack: Served, name: str, key: str | None = None) -> str:
    """As the button of the page does, or a program that may ask twice; the id of the run."""
    (deployment,) = ask(f"{stack.prefect}/api/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    parameters = {"parameters": {"pipeline": name, "overrides": []}, "idempotency_key": key}
    return ask(f"{stack.prefect}/api/deployments/{deployment['id']}/create_flow_run", parameters)["id"]


def runs(stack: Served, name: str) -> list[dict[str, Any]]:
    return ask(f"{stack.prefect}/api/flow_runs/filter", {"deployments": {"name": {"any_": [name]}}})


def test_ten_at_once(stack: Served) -> None:
    names = ("smoke", "other")
    with ThreadPoolExecutor(2 * COUNT) as pool:
        list(pool.map(lambda name: start(stack, name), names * COUNT))
    most, deadline = dict.fromkeys(names, 0), time.monotonic() + SECONDS
    while True:
        now = {name: runs(stack, name) for name in names}
        for name, found in now.items():
            most[name] = max(most[name], sum(one["state_type"] == "RUNNING" for one in found))
        if all(one["state_type"] in FINAL for found in now.values() for one in found):
            break
        told = {name: sorted(one["state_name"] for one in found) for name, found in now.items()}
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    assert most == {"smoke": 1, "other": 1}, "one of each pipeline at a time"
    assert [one["state_type"] for one in now["smoke"]] == ["COMPLETED"] * COUNT, "enqueue"
    others = sorted(one["state_type"] for one in now["other"])
    assert set(others) == {"CANCELLED", "COMPLETED"} and len(others) == COUNT, "cancel_new"
    for one in now["other"]:
        assert one["state_type"] == "COMPLETED" or "concurrency limit" in one["state"]["message"], one["state"]
    for name in ("vit-smoke", "vit-other"):
        assert len(versions(stack, name)) == 1
    for server in ("prefect", "mlflow", "runner", "postgres"):
        assert not re.search("database is locked|deadlock", stack.log(server), re.IGNORECASE), server


def test_one_key_is_one_run(stack: Served) -> None:
    """A program that asks ten times because an answer got lost starts one run."""
    before = len(runs(stack, "smoke"))
    with ThreadPoolExecutor(COUNT) as pool:
        assert len(set(pool.map(lambda _: start(stack, "smoke", key="the order of today"), range(COUNT)))) == 1
    assert len(runs(stack, "smoke")) == before + 1


def versions(stack: Served, name: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"filter": f"name='{name}'"})
    with urllib.request.urlopen(f"{stack.mlflow}/api/2.0/mlflow/model-versions/search?{query}", timeout=30) as answer:
        return load(answer)["model_versions"]

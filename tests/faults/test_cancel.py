"""Cancelled in Prefect at random moments: the run ends soon, saves, leaves nothing behind, and a retry goes on."""

import contextlib
import json
import random
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from flows.adapters import mlflow_store
from tests.checkout import make_checkout, run
from tests.flows.test_deploy_server import ask
from tests.ui.served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.long]
TIMES = 2
END_SECONDS = 35  # from the request to a final state (ecosystem.md, row 22)
EVERY = 50  # steps between two checkpoints
LONG = ["pretrain.train.steps=6000", f"pretrain.train.save_every={EVERY}", "pretrain.train.log_every=7"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`vitflow up` in a checkout that is prepared and de-duplicated."""
    checkout = make_checkout(tmp_path_factory.mktemp("cancel"))
    done = run(checkout, "dvc", "repro", "deduplicate@smoke")
    assert done.returncode == 0, done.stderr
    with served(checkout) as stack:
        yield stack


def start(stack: Served, *overrides: str) -> str:
    """A run of the deployment, as the form starts it; its id."""
    (deployment,) = ask(f"{stack.prefect}/api/deployments/filter", {})
    parameters = {"pipeline": "smoke", "overrides": [*LONG, *overrides]}
    return ask(f"{stack.prefect}/api/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]


def set_state(stack: Served, flow_run: str, kind: str, name: str) -> str:
    """As the buttons of the UI do."""
    answer = ask(f"{stack.prefect}/api/flow_runs/{flow_run}/set_state", {"state": {"type": kind, "name": name}})
    assert answer["status"] == "ACCEPT", answer
    return answer["state"]["type"]


def wait(condition: Callable[[], bool], seconds: float, why: Callable[[], object] = lambda: "") -> float:
    """Seconds until it holds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, why()
        time.sleep(0.1)
    return time.monotonic() - begun


def state(stack: Served, flow_run: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{stack.prefect}/api/flow_runs/{flow_run}", timeout=30) as answer:
        return json.load(answer)["state"]


def state_types(stack: Served, flow_run: str) -> list[str]:
    """The kinds of states that it has had."""
    with urllib.request.urlopen(f"{stack.prefect}/api/flow_run_states/?flow_run_id={flow_run}", timeout=30) as answer:
        return [one["type"] for one in json.load(answer)]


def steps(stack: Served) -> list[int]:
    """Of the checkpoints that are there."""
    found = (stack.checkout / "runs/smoke/.scratch").glob("pretrain-*/checkpoints/step-*/manifest.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def strangers(stack: Served, servers: set[int]) -> list[str]:
    """Command lines of processes that are no servers of the stack; a zombie has ended."""
    found: list[str] = []
    for one in stack.processes():
        with contextlib.suppress(psutil.Error):
            if one.pid not in servers:
                found.append(" ".join(one.cmdline())[:150])
    return found


@pytest.mark.parametrize("workers", ["0", "2"])
def test_cancelled_at_random_moments(stack: Served, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow)
    moments, servers = random.Random(int(workers)), {one.pid for one in stack.processes()}
    flow_run = start(stack, f"pretrain.train.seed={workers}", f"deploy.env.VITFLOW_WORKERS='{workers}'")
    reached: list[int] = []
    for number in range(TIMES):
        wait(lambda: state(stack, flow_run)["type"] == "RUNNING", 120, lambda: state(stack, flow_run))
        if number % 2 == 0:  # in training, between two checkpoints; else at any moment, the start of Ray included
            before = steps(stack)
            wait(lambda: steps(stack)[-1:] > before[-1:], 240, lambda: stack.log("runner"))  # noqa: B023
        time.sleep(moments.uniform(0, 20 if number % 2 else 1))
        before = steps(stack)
        set_state(stack, flow_run, "CANCELLING", "Cancelling")
        took = wait(lambda: state(stack, flow_run)["type"] == "CANCELLED", END_SECONDS, lambda: state(stack, flow_run))
        gone = wait(lambda: not strangers(stack, servers), 10, lambda: strangers(stack, servers))
        print(
            f"{workers} workers: Cancelled after {took:.1f} s, no process {gone:.1f} s later, {before} {steps(stack)}"
        )
        assert "CRASHED" not in state_types(stack, flow_run), "Prefect took it for a crash"
        reached += steps(stack)[-1:]
        assert reached == sorted(reached)
        assert number % 2 or reached[-1] % EVERY, f"nothing was saved but every {EVERY}th step: {reached}"
        assert not list((stack.checkout / "runs/smoke").glob(".*writing*")), "half an output"
        assert statuses() <= {"KILLED", "FINISHED"}
        set_state(stack, flow_run, "SCHEDULED", "AwaitingRetry")
    wait(lambda: steps(stack)[-1:] > reached[-1:], 240, lambda: stack.log("runner"))
    set_state(stack, flow_run, "CANCELLING", "Cancelling")
    wait(lambda: not strangers(stack, servers), END_SECONDS)
    (history,) = (stack.checkout / "runs/smoke/.scratch").glob("pretrain-*/checkpoints/history.jsonl")
    done = [json.loads(line)["step"] for line in history.read_text().splitlines()]
    assert done == sorted(done), f"steps were done again: {done}"
    shutil.rmtree(history.parents[2])


def statuses() -> set[str]:
    """Of the MLflow runs of pre-training."""
    api = mlflow_store.client()
    experiment = api.get_experiment_by_name("smoke")
    assert experiment is not None
    runs = api.search_runs([experiment.experiment_id], "tags.`vitflow.stage` = 'pretrain'")
    return {one.info.status for one in runs}

"""The automation of docs/operations.md on a real Prefect server: a receiver on this machine gets the calls."""

import http.server
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.checkout import ROOT, make_checkout, run, vitflow
from tests.flows.test_deploy_server import ask

pytestmark = [pytest.mark.slow, pytest.mark.long]
# As the form's run: the config is checked inside the flow.
FLOW = "import sys; from flows.pipeline import vit_pipeline; vit_pipeline('smoke', sys.argv[1:])"
CALL_SECONDS = 60


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Keep)

    def wait(self, event: str, words: str) -> None:
        """Until an event came whose sentence has these words."""
        deadline = time.monotonic() + CALL_SECONDS
        while not any(call["event"] == event and words in call["text"] for call in self.calls):
            assert time.monotonic() < deadline, self.calls
            time.sleep(0.2)


class Keep(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def api(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.prefect(checkout, tmp_path_factory.mktemp("prefect")) as address:
        yield address


@pytest.fixture(scope="module")
def receiver(checkout: Path, api: str) -> Iterator[Receiver]:
    """Called by the automation that the page shows."""
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        here = shown.replace("https://chat.example.org/hooks/vitflow", f"http://127.0.0.1:{receiver.server_port}/")
        done = run(checkout, sys.executable, "-c", here, PREFECT_API_URL=api)
        assert done.returncode == 0, done.stderr
        yield receiver
        receiver.shutdown()


def flow(checkout: Path, api: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run(checkout, sys.executable, "-c", FLOW, *overrides, PREFECT_API_URL=api)


def kept_events(api: str, prefix: str, seconds: float = 30) -> dict[str, dict[str, Any]]:
    """By name, once there are two: the server calls automations before it keeps what they are about."""
    filter = {"filter": {"event": {"prefix": [prefix]}, "occurred": {"since": "2020-01-01T00:00:00Z"}}}
    end = time.monotonic() + seconds
    while True:
        found = {event["event"]: event for event in ask(f"{api}/events/filter", filter)["events"]}
        if len(found) >= 2 or time.monotonic() > end:
            return found
        time.sleep(0.2)


def test_a_run_that_fails_calls(checkout: Path, api: str, receiver: Receiver) -> None:
    assert flow(checkout, api, "pretrain.train.stepps=1").returncode == 1
    receiver.wait("vitflow.run.failed", "did you mean 'steps'?")


def test_a_run_that_stalls_calls_and_ends(checkout: Path, api: str, receiver: Receiver) -> None:
    done = vitflow(checkout, "run", "smoke", "--set", "deploy.stall_after=0.3", PREFECT_API_URL=api)
    assert done.returncode == 1
    assert re.search(r"made no progress for 0.3 s .* run again to go on", done.stderr), done.stderr
    receiver.wait("vitflow.run.stalled", "made no progress for 0.3 s")
    receiver.wait("vitflow.run.failed", "made no progress for 0.3 s")


def test_a_model_that_the_gate_rejects_calls(checkout: Path, api: str, receiver: Receiver) -> None:
    assert vitflow(checkout, "run", "smoke", PREFECT_API_URL=api).returncode == 0
    worse = ["finetune.train.seed=1", "register.min_improvement=1.0"]
    words = [word for override in worse for word in ("--set", override)]
    assert vitflow(checkout, "run", "smoke", *words, PREFECT_API_URL=api).returncode == 0
    receiver.wait("vitflow.model.rejected", "smoke: version 2 is a challenger")
    found = kept_events(api, "vitflow.model.")
    assert set(found) == {"vitflow.model.promoted", "vitflow.model.rejected"}
    promoted = found["vitflow.model.promoted"]
    assert promoted["resource"]["prefect.resource.id"] == "vitflow.pipeline.smoke"
    assert promoted["payload"]["model"] == "models:/vit-smoke/1"
    related = {one["prefect.resource.role"]: one["prefect.resource.id"] for one in promoted["related"]}
    assert (
        related["flow-run"].startswith("prefect.flow-run.") and related["model-version"] == "vitflow.model.vit-smoke.1"
    )

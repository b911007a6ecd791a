"""Prefect and MLflow on PostgreSQL with a runner of deployments, each a process that a fault may take and give back."""

import contextlib
import json
import shutil
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.adapters import postgres
from flows.environment import defaults
from flows.stack import mlflow_command, prefect_command
from tests.servers import Server, answers
from tests.ui.served import free_port

FINAL = ("COMPLETED", "CANCELLED", "FAILED", "CRASHED")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The servers, and a checkout whose runner offers the pipeline `smoke`."""

    checkout: Path
    environment: Mapping[str, str]  # of clients
    prefect: Server
    mlflow: Server
    runner: Server

    def start(self, *overrides: str) -> str:
        """A run of the deployment, as the form starts it; its id."""
        parameters = {"pipeline": "smoke", "overrides": list(overrides)}
        body = {"parameters": parameters}
        return str(self.ask(f"deployments/{self.deployment()}/create_flow_run", body)["id"])

    @contextlib.contextmanager
    def flow(self, *overrides: str) -> Iterator[str]:
        """The same until the end of the block; what it leaves behind unfinished is removed."""
        flow_run = self.start(*overrides)
        try:
            yield flow_run
        finally:
            for server in (self.prefect, self.mlflow):
                if not server.family():
                    server.start()
            if self.state(flow_run)["type"] not in FINAL:
                self.cancel(flow_run)
            shutil.rmtree(self.checkout / "runs/smoke/.scratch", ignore_errors=True)

    def cancel(self, flow_run: str, patience: float = 120.0) -> float:
        """As the UI does; seconds until it was over, with no process left ten seconds later."""
        self.set_state(flow_run, "CANCELLING", "Cancelling")
        seconds = wait(
            lambda: self.state(flow_run)["type"] == "CANCELLED", lambda: self.state(flow_run), seconds=patience
        )
        wait(lambda: not self.strangers(), self.strangers, seconds=10)
        return seconds

    def deployment(self) -> str:
        """Its id; empty as long as there is none."""
        found = self.ask("deployments/filter", {})
        return str(found[0]["id"]) if found else ""

    def set_state(self, flow_run: str, kind: str, name: str) -> None:
        """As the buttons of the UI do."""
        answer = self.ask(f"flow_runs/{flow_run}/set_state", {"state": {"type": kind, "name": name}})
        assert answer["status"] == "ACCEPT", answer

    def state(self, flow_run: str) -> dict[str, Any]:
        """As Prefect has it: `type`, `name`, `message`."""
        return self.ask(f"flow_runs/{flow_run}")["state"]

    def states(self, flow_run: str) -> list[str]:
        """The types of states that it has had."""
        return [one["type"] for one in self.ask(f"flow_run_states/?flow_run_id={flow_run}")]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Prefect's API."""
        return _ask(f"{self.environment['PREFECT_API_URL']}/{path}", body)

    def tracked(self, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """MLflow's API."""
        address = f"{self.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}"
        return _ask(f"{address}?{urllib.parse.urlencode(query)}" if query else address, body)

    def strangers(self) -> list[str]:
        """Command lines of the processes in the checkout that are none of the servers; a zombie has ended."""
        own = {one.pid for server in (self.prefect, self.mlflow) for one in server.family()}
        own |= {one.pid for one in self.runner.family()[:1]}
        found: list[str] = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.pid not in own and Path(one.cwd()).is_relative_to(self.checkout):
                    found.append(" ".join(one.cmdline())[:150])
        return found


def wait(condition: Callable[[], object], why: Callable[[], object], seconds: float = 900.0) -> float:
    """Seconds until it holds; AssertionError with the reason if that takes too long."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, why()
        time.sleep(0.2)
    return time.monotonic() - begun


@contextlib.contextmanager
def running(checkout: Path, home: Path, *, artifacts: str | None = None, **environment: str) -> Iterator[Stack]:
    """In a checkout, with state and logs in `home`; SQLite where there is no PostgreSQL. Nothing is left of it.

    `artifacts` is where MLflow keeps files; `environment` is that of all servers, and of the flows.
    """
    home.mkdir()
    ports = {"prefect": free_port(), "mlflow": free_port()}
    prefect, mlflow = (f"http://127.0.0.1:{port}" for port in ports.values())
    clients = {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow}
    with contextlib.ExitStack() as stack:
        for_prefect, for_mlflow = stack.enter_context(_databases(home, environment))
        commands = (
            prefect_command(ports["prefect"]),
            mlflow_command(ports["mlflow"], artifacts or (home / "artifacts").as_uri()),
        )
        made = Stack(
            checkout=checkout,
            environment=clients,
            prefect=Server(
                commands[0], lambda: answers(f"{prefect}/api/health"), checkout, home / "prefect.log", **for_prefect
            ),
            mlflow=Server(
                commands[1], lambda: answers(f"{mlflow}/health"), checkout, home / "mlflow.log", **for_mlflow
            ),
            runner=Server(
                [sys.executable, "-m", "flows.deploy"],
                lambda: bool(made.deployment()),
                checkout,
                home / "runner.log",
                PREFECT_HOME=str(home / "prefect-of-runner"),
                RAY_worker_niceness="0",  # other tests run beside it
                **clients | environment,
            ),
        )
        for server in (made.prefect, made.mlflow, made.runner):
            stack.callback(server.kill)
            server.start()
        yield made


@contextlib.contextmanager
def _databases(home: Path, environment: Mapping[str, str]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The variables of both servers."""
    shared = dict(environment) | {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    shared["PREFECT_HOME"] = str(home / "prefect")
    leases = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
    shared[leases] = defaults(home)[leases]
    if postgres.missing(home):
        yield shared, shared | {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home / 'mlflow.db'}"}
        return
    with postgres.running(home / "postgres", home / "postgres.log") as cluster:
        for name in ("prefect", "mlflow"):
            cluster.create(name)
        shared |= cluster.environment
        yield (
            shared | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": cluster.address("prefect", "asyncpg")},
            shared | {"MLFLOW_BACKEND_STORE_URI": cluster.address("mlflow", "psycopg")},
        )


def _ask(address: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())

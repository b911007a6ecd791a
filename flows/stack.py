"""`vitflow up`: Prefect server, MLflow server and a runner with one deployment per pipeline, in the foreground, on
PostgreSQL where there is one.

All state stays in the checkout. While it runs, .vitflow/up.json tells other commands in this checkout where it is. The
same commands as in infra/compose.yaml.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.adapters.child_process import ends_with_parent
from flows.environment import UP_FILE, Database
from flows.stack_databases import databases
from flows.stages.config import names, root
from flows.terminal import console

HOST = "127.0.0.1"
START_SECONDS = 120.0


def up(*, prefect_port: int, mlflow_port: int, database: Database) -> None:
    """Run until Ctrl-C or SIGTERM.

    `database` AUTO is PostgreSQL if there is one and this checkout has nothing in SQLite yet. Raises
    ValueError if a port is taken or the database cannot be had, RuntimeError if a server ends.
    """
    for name, port in (("prefect", prefect_port), ("mlflow", mlflow_port)):
        if _is_taken(port):
            raise ValueError(f"port {port} is in use; stop what listens there, or choose another with --{name}-port")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prefect, mlflow = f"http://{HOST}:{prefect_port}", f"http://{HOST}:{mlflow_port}"
    environment = {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow}
    # The UI asks the API at 4200 unless told otherwise.
    ui = {"PREFECT_SERVER_UI_API_URL": f"{prefect}/api", "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false"}
    no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven processes for features that nobody here uses
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(databases(database, _logs()))
        console.print(f"starting the Prefect and MLflow servers on {held.sentence} …", highlight=False)
        for_prefect, for_mlflow = ui | held.prefect, no_jobs | held.mlflow
        served_mlflow = mlflow_command(mlflow_port, (root() / "mlartifacts").as_uri())
        servers = {
            "Prefect server": stack.enter_context(_running(prefect_command(prefect_port), "prefect", for_prefect)),
            "MLflow server": stack.enter_context(_running(served_mlflow, "mlflow", for_mlflow)),
        }
        _wait(servers["Prefect server"], "Prefect server", f"{prefect}/api/health")
        _wait(servers["MLflow server"], "MLflow server", f"{mlflow}/health")
        _close_orphans(f"{prefect}/api")
        servers["runner"] = stack.enter_context(_running([sys.executable, "-m", "flows.deploy"], "runner", environment))
        _wait_for_deployments(servers["runner"], f"{prefect}/api")
        stack.enter_context(_announced(environment))
        console.print(f"Prefect  {prefect}/deployments   start a pipeline here: Run, Custom run")
        console.print(f"MLflow   {mlflow}/#/models   registered models; runs are under Experiments")
        console.print(f"logs     {_logs()}/   Ctrl-C stops all of it", highlight=False)
        with contextlib.suppress(KeyboardInterrupt):
            _watch(servers)


def prefect_command(port: int) -> list[str]:
    """Of the Prefect server."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]


def mlflow_command(port: int, artifacts: str) -> list[str]:
    """Of the MLflow server, which hands out and takes in the artifacts itself, kept at that address."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--serve-artifacts", "--artifacts-destination", artifacts),
    ]


@contextlib.contextmanager
def _running(command: list[str], name: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child in its own session, so that Ctrl-C reaches only us and we stop it, children included."""
    with (_logs() / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=root(),
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ends_with_parent(),
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _announced(environment: dict[str, str]) -> Iterator[None]:
    file = root() / UP_FILE
    file.write_text(json.dumps({"pid": os.getpid(), "environment": environment}) + "\n")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], name: str, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        _check_alive(process, name)
        if time.monotonic() > deadline:
            raise RuntimeError(f"the {name} does not answer at {url} after {START_SECONDS:.0f} s; see {_logs()}")
        time.sleep(0.5)


def _wait_for_deployments(process: subprocess.Popen[bytes], api: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while _count_deployments(api) < len(names()):
        _check_alive(process, "runner")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the runner has not offered its deployments after {START_SECONDS:.0f} s; see {_logs()}")
        time.sleep(0.5)


def _count_deployments(api: str) -> int:
    return int(_post(f"{api}/deployments/count", {}))


def _close_orphans(api: str) -> None:
    """End the runs that were going on when the stack was last stopped: they would hold their deployment's only slot."""
    lost = {"deployment_id": {"is_null_": False}, "state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
    message = "vitflow up was stopped while this ran; Retry goes on from the last checkpoint"
    state = {"type": "CRASHED", "name": "Crashed", "message": message}
    for run in _post(f"{api}/flow_runs/filter", {"flow_runs": lost}):
        _post(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})


def _post(url: str, body: dict[str, Any]) -> Any:
    """What the Prefect server answers, from JSON."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def _watch(servers: dict[str, subprocess.Popen[bytes]]) -> None:
    while True:
        time.sleep(1)
        for name, process in servers.items():
            _check_alive(process, name)


def _check_alive(process: subprocess.Popen[bytes], name: str) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"the {name} ended with exit code {process.returncode}; see {_logs()}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _logs() -> Path:
    directory = root() / ".vitflow" / "logs"
    directory.mkdir(parents=True, exist_ok=True)
    return directory

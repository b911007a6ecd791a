"""infra/compose.yaml without Docker: every command line of ours runs as a process, with its own environment, and a
pipeline goes through all of them.

PostgreSQL and the S3 server are real ones of this machine instead of images. Names of services become the loopback with
ports of their own; nothing else is changed.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.adapters import postgres
from flows.adapters.child_process import ends_with_parent
from tests.checkout import ROOT, environment, make_checkout
from tests.s3 import swift
from tests.ui.served import free_port

pytestmark = [pytest.mark.slow, pytest.mark.long]
COMPOSE = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
WAIT_SECONDS = 240
PORTS = {"postgres:5432", "s3:7070", "prefect:4200", "mlflow:5000", "ray-head:6379"}


@dataclass
class Team:
    """The stack as processes."""

    checkout: Path
    logs: Path
    settings: dict[str, str]  # what .env would hold
    ports: dict[str, int]  # service:port to where it listens here
    password_file: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def localised(self, text: str) -> str:
        """Interpolated as compose does it, then services' names turned into addresses of this machine."""
        text = re.sub(
            r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: self.settings.get(found[1]) or found[2] or "", text
        )
        for name, port in self.ports.items():
            service, _, inside = name.partition(":")
            text = re.sub(rf"\b({service}|localhost|127\.0\.0\.1):{inside}\b", f"127.0.0.1:{port}", text)
        return re.sub(r"/opt/vitflow\b|(?<!\w)/checkout\b", str(self.checkout), text)

    def command(self, service: str) -> list[str]:
        words = [self.localised(word) for word in COMPOSE["services"][service]["command"]]
        for option, inside in itertools.pairwise(words.copy()):
            if option == "--port":  # its own, by the number that it has inside
                words[words.index(option) + 1] = str(self.ports[f"{service}:{inside}"])
        return ["127.0.0.1" if word == "0.0.0.0" else word for word in words]

    def environment(self, service: str) -> dict[str, str]:
        own = {name: self.localised(str(value)) for name, value in COMPOSE["services"][service]["environment"].items()}
        own.setdefault("VITFLOW_WORKERS", "2")
        own["RAY_TMPDIR"] = str(
            self.logs.parent / "ray"
        )  # else every Ray of this machine takes this cluster for its own
        return environment(self.checkout, **own, PREFECT_HOME=str(self.logs / f"home-{service}"), HOME=str(self.logs))

    def once(self, service: str) -> None:
        done = subprocess.run(
            self.command(service),
            cwd=self.checkout,
            env=self.environment(service),
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS,
        )
        assert done.returncode == 0, f"{service}: {done.stdout}{done.stderr}"

    def start(self, service: str) -> None:
        with (self.logs / f"{service}.log").open("wb") as log:
            self.running[service] = subprocess.Popen(
                self.command(service),
                cwd=self.checkout,
                env=self.environment(service),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ends_with_parent(),
            )

    def healthy(self, service: str) -> None:
        """Until its health check passes, as compose runs it."""
        test = [self.localised(word) for word in COMPOSE["services"][service]["healthcheck"]["test"][1:]]
        deadline = time.monotonic() + WAIT_SECONDS
        while subprocess.run(test, env=self.environment(service), capture_output=True, check=False).returncode:
            assert self.running[service].poll() is None and time.monotonic() < deadline, self.log(service)
            time.sleep(1)

    def log(self, service: str) -> str:
        return (self.logs / f"{service}.log").read_text()

    def vitflow(self, *words: str) -> subprocess.CompletedProcess[str]:
        """In the worker's environment."""
        command = [sys.executable, "-m", "flows.cli", *words]
        return subprocess.run(
            command, cwd=self.checkout, env=self.environment("worker"), capture_output=True, text=True, check=False
        )

    def ask(self, path: str, body: dict[str, Any] | None = None, *, authorised: bool = True) -> Any:
        """Prefect's API."""
        headers = {"Content-Type": "application/json"}
        if authorised:
            headers["Authorization"] = (
                "Basic " + base64.b64encode(self.localised("vitflow:${PREFECT_PASSWORD}").encode()).decode()
            )
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['prefect:4200']}/api{path}", data=data, headers=headers
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def team(open_place: Path) -> Iterator[Team]:
    """Everything up, in compose's order; nothing left of it afterwards."""
    checkout = make_checkout(open_place / "checkout")
    logs = open_place / "logs"
    logs.mkdir()
    needed = re.findall(r"\$\{(\w+):\?\}", (ROOT / "infra" / "compose.yaml").read_text())
    settings = {name: secrets.token_hex(12) for name in needed}
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres.running(open_place / "postgres", logs / "postgres.log"))
        for statement in (ROOT / "infra" / "postgres" / "databases.sql").read_text().splitlines():
            database.query(statement, "postgres")
        store = stack.enter_context(swift.running(open_place / "s3"))
        settings |= {
            "POSTGRES_PASSWORD": database.password_file.read_text().strip().rpartition(":")[2],
            "S3_ACCESS_KEY": store.access_key,
            "S3_SECRET_KEY": store.secret_key,
            "RAY_WORKER_CPUS": "2",
        }
        ports = {name: free_port() for name in PORTS} | {"postgres:5432": database.port, "s3:7070": store.port}
        made = Team(checkout=checkout, logs=logs, settings=settings, ports=ports, password_file=database.password_file)
        ini = checkout / "infra" / "mlflow" / "auth.ini"
        ini.write_text(made.localised(ini.read_text()))
        stack.callback(stop, made)
        made.once("bucket")
        made.once("migrate")
        made.once("migrate")  # a second time changes nothing
        for service in ("prefect", "mlflow", "ray-head"):
            made.start(service)
        for service in ("prefect", "mlflow", "ray-head"):
            made.healthy(service)
        made.start("ray-worker")
        made.once("deploy")
        made.start("worker")
        yield made


def stop(team: Team) -> None:
    processes = [psutil.Process(one.pid) for one in team.running.values() if one.poll() is None]
    family = [child for one in processes for child in one.children(recursive=True)]
    for one in [*processes, *family]:
        with contextlib.suppress(psutil.Error):
            one.terminate()
    _, alive = psutil.wait_procs([*processes, *family], timeout=20)
    for one in [*alive, *(one for one in psutil.process_iter() if _belongs(one, team))]:
        with contextlib.suppress(psutil.Error):
            one.kill()


def _belongs(process: psutil.Process, team: Team) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.pid != os.getpid() and process.environ().get("VITFLOW_ROOT") == str(team.checkout)
    return False


def test_from_a_deployment_to_a_model_on_s3(team: Team) -> None:
    """A run started at the API is taken by the worker, trains on Ray's nodes, and its model is read back from S3."""
    deployment = team.ask("/deployments/name/vit-pipeline/smoke")
    run = team.ask(f"/deployments/{deployment['id']}/create_flow_run", {})
    deadline = time.monotonic() + 900
    while (state := team.ask(f"/flow_runs/{run['id']}")["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline and team.running["worker"].poll() is None, team.log("worker")
        time.sleep(2)
    assert state["type"] == "COMPLETED", f"{state['message']}\n{team.log('worker')}"
    listed = team.vitflow("models", "show", "vit-smoke", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "champion" in listed.stdout
    assert team.localised("${RAY_TOKEN}") not in listed.stdout
    picture = make_picture(team.logs / "one.png")
    predicted = team.vitflow("predict", str(picture), "--model", "models:/vit-smoke@champion", "--json")
    assert predicted.returncode == 0, predicted.stderr


def make_picture(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (40, 40), (200, 30, 30)).save(path)
    return path


def test_nobody_comes_in_without_a_password(team: Team) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        team.ask("/flow_runs/count", {}, authorised=False)
    address = f"http://127.0.0.1:{team.ports['mlflow:5000']}/api/2.0/mlflow/experiments/search?max_results=1"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address, timeout=60)
    friend = team.environment("worker")
    stranger = friend | {"RAY_AUTH_TOKEN": "0" * 24}
    look = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "status",
        "--address",
        f"127.0.0.1:{team.ports['ray-head:6379']}",
    ]
    codes = [
        subprocess.run(look, env=variables, capture_output=True, check=False, timeout=120).returncode
        for variables in (friend, stranger)
    ]
    assert codes[0] == 0 and codes[1] != 0


def test_no_secret_is_in_a_log(team: Team) -> None:
    for file in team.logs.glob("*.log"):
        for name, value in team.settings.items():
            if name.endswith(("PASSWORD", "KEY", "TOKEN")) and name != "S3_ACCESS_KEY":
                assert value not in file.read_text(errors="replace"), f"{name} is in {file.name}"

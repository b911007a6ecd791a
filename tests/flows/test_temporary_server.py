"""A run whose own Prefect server dies gets another one, in the same place."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.server.api.server import SubprocessASGIServer

from flows import temporary_server
from tests.checkout import ROOT, environment

SERVERS = "_instances"  # of Prefect's class, by port


def ending(code: int) -> "subprocess.Popen[bytes]":
    """A server that has ended with this exit code."""
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    process.wait()
    return process


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary_server, "LOOK_EVERY", 0.01)


def test_one_that_died_is_started_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start() -> "subprocess.Popen[bytes]":
        started.append(1)
        return ending(1)

    server = SimpleNamespace(server_process=ending(-9), _run_uvicorn_command=start)
    monkeypatch.setattr(SubprocessASGIServer, SERVERS, {8000: server})
    with temporary_server.kept():
        assert until(lambda: len(started) == temporary_server.RESTARTS)
        time.sleep(0.2)
    assert len(started) == temporary_server.RESTARTS


def test_one_that_lives_or_looks_for_a_port_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started: list[int] = []
    servers = [
        SimpleNamespace(server_process=one, _run_uvicorn_command=lambda: started.append(1))
        for one in (None, living, ending(temporary_server.PORT_TAKEN))
    ]
    monkeypatch.setattr(SubprocessASGIServer, SERVERS, dict(enumerate(servers)))
    try:
        with temporary_server.kept():
            time.sleep(0.3)
        assert not started
    finally:
        living.kill()
        living.communicate()


FLOW = """
from flows import environment, temporary_server

environment.apply_defaults()
import prefect, psutil

@prefect.task
def step(number):
    return number

@prefect.flow
def steps():
    step(1)
    (server,) = [one for one in psutil.Process().children() if "create_app" in " ".join(one.cmdline())]
    server.kill()
    return step(2)

with temporary_server.kept():
    state = steps(return_state=True)
print("ended", state.type.value, state.result())
"""


@pytest.mark.slow
def test_a_flow_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLOW],
        cwd=ROOT,
        env=environment(ROOT, PREFECT_HOME=str(tmp_path / "prefect")),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "ended COMPLETED 2" in done.stdout, done.stdout + done.stderr

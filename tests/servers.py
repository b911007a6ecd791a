"""Servers as processes of a test: started, waited for, stopped with all their children."""

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.checkout import environment
from tests.ui.served import free_port

START_SECONDS = 180.0


@contextlib.contextmanager
def running(command: Sequence[str], health: str, checkout: Path, log: Path, **extra: str) -> Iterator[None]:
    """A server in a checkout, until the block ends; it is there once `health` answers."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment(checkout, **extra), stdout=file, stderr=file, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    try:
        while not answers(health):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


@contextlib.contextmanager
def prefect(checkout: Path, home: Path, **extra: str) -> Iterator[str]:
    """A Prefect server whose state is in `home`; the address of its API."""
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}/api"
    variables = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | extra
    with running(command, f"{address}/health", checkout, home / "log", **variables):
        yield address


def answers(url: str) -> bool:
    """Whether something good comes back."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False

"""Servers as processes of a test: started, waited for, stopped with all their children."""

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from flows.adapters.child_process import ends_with_parent
from tests.checkout import environment
from tests.ui.served import free_port

START_SECONDS = 180.0


class Server:
    """A server of a checkout, at an address that stays when it is lost and started again."""

    def __init__(
        self, command: Sequence[str], ready: Callable[[], bool], checkout: Path, log: Path, **extra: str
    ) -> None:
        self.command, self.ready, self.checkout, self.log, self.extra = command, ready, checkout, log, extra
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it is ready."""
        variables = environment(self.checkout, **self.extra)
        if "VITFLOW_WORKERS" not in self.extra:
            del variables["VITFLOW_WORKERS"]  # the deployment says it, as for anyone
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.checkout,
                env=variables,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=ends_with_parent(),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def family(self) -> list[psutil.Process]:
        """The process and all below it, as long as it lives."""
        if self.process is None or self.process.poll() is not None:
            return []
        head = psutil.Process(self.process.pid)
        return [head, *head.children(recursive=True)]

    def kill(self) -> None:
        """Without a word to it, and all below it."""
        for member in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        if self.process is not None:
            self.process.wait()


@contextlib.contextmanager
def running(command: Sequence[str], health: str, checkout: Path, log: Path, **extra: str) -> Iterator[Server]:
    """A server in a checkout, until the block ends; it is there once `health` answers."""
    server = Server(command, lambda: answers(health), checkout, log, **extra)
    try:
        server.start()
        yield server
    finally:
        server.kill()


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

"""`vitflow up` in a checkout, for a browser: started, found by what it prints, stopped with Ctrl-C."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.checkout import environment

START_SECONDS = 180.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running stack."""

    process: subprocess.Popen[bytes]
    checkout: Path
    prefect: str  # its URLs, as printed
    mlflow: str

    def log(self, name: str) -> str:
        """What a server wrote: prefect, mlflow or runner."""
        return (self.checkout / ".vitflow" / "logs" / f"{name}.log").read_text()

    def run_state(self, flow_run: str) -> str:
        """The name of a run's state as Prefect's API has it: Running, Completed, …"""
        with urllib.request.urlopen(f"{self.prefect}/api/flow_runs/{flow_run}", timeout=30) as answer:
            return str(json.load(answer)["state"]["name"])

    def run_count(self) -> int:
        """How many flow runs Prefect knows."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.prefect}/api/flow_runs/count", data=b"{}", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(json.load(answer))

    def commit(self) -> str:
        """The git commit of the checkout."""
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=self.checkout, capture_output=True, text=True, check=True).stdout.strip()

    def processes(self) -> list[psutil.Process]:
        """Everything it started that still runs, whoever its parent is by now."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        return [*children, *(one for one in psutil.process_iter() if self._owns(one) and one not in children)]

    def interrupt(self) -> int:
        """Ctrl-C; the exit code. Raises subprocess.TimeoutExpired."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)

    def _owns(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.pid != self.process.pid and Path(process.cwd()).is_relative_to(self.checkout)
        return False


@contextlib.contextmanager
def served(checkout: Path, *options: str) -> Generator[Served]:
    """`vitflow up` with its servers ready; nothing of it is left afterwards, whatever happens."""
    variables = environment(checkout, RAY_worker_niceness="0")
    del variables["VITFLOW_WORKERS"]  # the deployment says it, as for anyone
    ports = {"--prefect-port": free_port(), "--mlflow-port": free_port()}
    command = [sys.executable, "-m", "flows.cli", "up", *options]
    command += [str(word) for pair in ports.items() for word in pair]
    printed = checkout / ".vitflow" / "up.txt"
    printed.parent.mkdir(exist_ok=True)
    with printed.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=checkout, env=variables, stdout=file, stderr=file, start_new_session=True
        )
    stack = Served(process=process, checkout=checkout, prefect="", mlflow="")
    try:
        prefect, mlflow = _urls(process, printed)
        yield Served(process=process, checkout=checkout, prefect=prefect, mlflow=mlflow)
    finally:
        left = stack.processes()
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                stack.interrupt()
        for one in [*left, *stack.processes()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()


def still_running(processes: list[psutil.Process]) -> list[str]:
    """Command lines of those that do not end within five seconds; a zombie has ended."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    return [" ".join(one.cmdline()) for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def _urls(process: subprocess.Popen[bytes], printed: Path) -> tuple[str, str]:
    """Of Prefect and MLflow, once both are printed."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        text = printed.read_text()
        found = [re.search(rf"^{name} +(http://[\w.:]+)", text, re.MULTILINE) for name in ("Prefect", "MLflow")]
        if all(found):
            return tuple(match[1] for match in found)  # type: ignore[return-value, index]
        assert process.poll() is None, f"vitflow up ended:\n{text}"
        time.sleep(0.2)
    raise AssertionError(f"vitflow up printed no URLs within {START_SECONDS:.0f} s:\n{printed.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

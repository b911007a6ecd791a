"""Killed in the middle: the run goes on from its last checkpoint and ends with the same parameters, bit for bit."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.checkout import environment, hashes, make_checkout

pytestmark = pytest.mark.slow
LONG = ("pretrain.train.steps=600", "pretrain.train.save_every=50", "pretrain.train.log_every=50")
OVERRIDES = [word for override in LONG for word in ("--set", override)]
WORKERS = {"VITFLOW_WORKERS": "2"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared and de-duplicated, so that only pre-training and what follows is left."""
    path = make_checkout(tmp_path_factory.mktemp("kill"))
    done = subprocess.run(
        ["dvc", "repro", "deduplicate@smoke"],
        cwd=path,
        env=environment(path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def undisturbed(checkout: Path) -> dict[str, str]:
    """What pre-training makes when nothing happens; removed again."""
    with started(checkout) as process:
        return pretrained(checkout, process)


@contextlib.contextmanager
def started(checkout: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The flow with a long pre-training on two Ray workers; killed at the end of the block."""
    command = [sys.executable, "-m", "flows.cli", "run", "smoke", *OVERRIDES]
    process = subprocess.Popen(command, cwd=checkout, env=environment(checkout, **WORKERS))
    family = [psutil.Process(process.pid)]
    try:
        yield process
    finally:
        family += family[0].children(recursive=True) if process.poll() is None else []
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        process.wait()


def pretrained(checkout: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Hashes of what pre-training leaves, as soon as it is there; removed again. What follows it is not waited for."""
    runs = checkout / "runs/smoke"
    wait(lambda: bool(list(runs.glob("pretrain@*/config.json"))), process)
    process.terminate()
    process.wait(120)
    (directory,) = runs.glob("pretrain@*")
    found = hashes(directory)
    for path in runs.glob("*@*"):
        shutil.rmtree(path)
    return found


@pytest.fixture
def running(checkout: Path, undisturbed: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The same run, somewhere after its second checkpoint."""
    with started(checkout) as process:
        wait(lambda: len(checkpoints(checkout)) >= 2, process)
        yield process


def checkpoints(checkout: Path) -> list[Path]:
    return sorted((checkout / "runs/smoke").glob(".scratch/pretrain-*/checkpoints/step-*"))


def wait(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def words(process: psutil.Process) -> list[str]:
    """Its command line; empty if it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def ray_workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("RayTrainWorker" in word for word in words(child)[:1])
    ]


def waits_for_nothing(process: psutil.Process) -> bool:
    """Prefect's temporary server, and Ray's two agents: these tell a dead GCS for a minute that the raylet died."""
    return any(name in " ".join(words(process)) for name in ("RuntimeEnvAgent", "DashboardAgent", "prefect.server"))


def test_killed_worker(checkout: Path, undisturbed: dict[str, str], running: subprocess.Popen[bytes]) -> None:
    workers = ray_workers(running)
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    assert pretrained(checkout, running) == undisturbed


def test_killed_flow(checkout: Path, undisturbed: dict[str, str], running: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(running.pid).children(recursive=True)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    done_before = int(checkpoints(checkout)[-1].name.removeprefix("step-"))
    assert 0 < done_before < 600
    _, alive = psutil.wait_procs([child for child in family if not waits_for_nothing(child)], timeout=20)
    assert not alive, "nobody writes on behind the back of the next run"
    with started(checkout) as resumed:
        assert pretrained(checkout, resumed) == undisturbed
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "the next run stops the temporary server of a killed one"


def test_killed_dvc_takes_its_stage_along(checkout: Path) -> None:
    """`dvc` leaves the stage's process behind; ours notices and ends, so that no two ever write side by side."""
    process = subprocess.Popen(["dvc", "repro", "-s", "-f", "prepare@smoke"], cwd=checkout, env=environment(checkout))
    stages: list[psutil.Process] = []

    def started() -> bool:
        stages[:] = [
            child for child in psutil.Process(process.pid).children(recursive=True) if "flows.stages" in words(child)
        ]
        return bool(stages) and stages[0].cpu_times().user > 4

    wait(started, process)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(stages, timeout=10)
    assert not alive
    again = subprocess.run(
        ["dvc", "repro", "-q", "deduplicate@smoke"], cwd=checkout, env=environment(checkout), check=False, timeout=300
    )
    assert again.returncode == 0

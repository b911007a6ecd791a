"""Killed at random moments, on threads and on Ray: what is resumed leaves the bytes of an undisturbed run."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.adapters import ray_cluster
from tests.checkout import environment
from tests.dedup.sides import bring
from tests.dedup.test_folders import results, run

pytestmark = pytest.mark.slow
KILLS = 10


def start(home: Path, out: str, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "flows.cli", "dedup", "--train", "train", "--test", "pets", "--test", "cifar10"]
    variables = environment(Path(__file__).parents[2])
    return subprocess.Popen([*command, "--out", out, "--piece", "2", *more], cwd=home, env=variables)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_ten_times(tmp_path: Path, workers: str) -> None:
    bring(tmp_path)
    assert start(tmp_path, "first", "--workers", workers).wait() == 0  # in a fresh checkout it compiles, for long
    begun = time.monotonic()
    assert start(tmp_path, "whole", "--workers", workers).wait() == 0
    duration = time.monotonic() - begun
    moments = random.Random(int(workers))
    kills = 0
    for _ in range(KILLS):
        process = start(tmp_path, "out", "--workers", workers)
        try:
            process.wait(moments.uniform(0.4, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 0
    assert start(tmp_path, "out", "--workers", workers).wait() == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_ray_gives_the_same_bytes(tmp_path: Path) -> None:
    bring(tmp_path)
    run(tmp_path, "here")
    try:
        for workers in (1, 2):
            run(tmp_path, f"ray{workers}", ray=True, workers=workers)
            assert results(tmp_path / f"ray{workers}") == results(tmp_path / "here")
    finally:
        ray_cluster.stop()

"""A training on a Ray cluster whose nodes come and go: other numbers of workers, the same images, the same weights."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.checkout import ROOT
from tests.vit.training.conftest import ALONE, Sitting, sitting  # noqa: F401  fixture
from tests.vit.training.test_equality import assert_same

pytestmark = [pytest.mark.slow, pytest.mark.long]
Make = Callable[[str], Sitting]
STEPS = {"steps": 60}


class Nodes:
    """A cluster (ray_nodes.py), and the environment of a training on it."""

    def __init__(self, process: subprocess.Popen[str], address: str, directory: str) -> None:
        self.process = process
        self.env = {"RAY_ADDRESS": address, "RAY_TMPDIR": directory, "VITFLOW_WORKERS": "1-2"}
        self.env |= {"VITFLOW_RESIZE_SECONDS": "2", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}

    def tell(self, command: str) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two nodes, in a directory of their own, where no other Ray finds them; a socket's path must be short."""
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": directory}
    command = [sys.executable, "-m", "tests.faults.ray_nodes"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes) as process:
        assert process.stdout and process.stdin
        found = Nodes(process, process.stdout.readline().strip(), directory)
        found.tell("add")
        found.tell("add")
        yield found
        process.stdin.close()
        process.wait(60)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sitting:
    found = Sitting(tmp_path_factory.mktemp("undisturbed"))
    found.run(ALONE, **STEPS)
    return found


@contextlib.contextmanager
def training(found: Sitting, nodes: Nodes) -> Iterator[Callable[[int], int]]:
    """A slow training to its end; yields a function that waits until so many steps are done, and says how many were."""
    with found.started(ALONE, env=nodes.env, slow=0.3, **STEPS) as process:

        def reach(step: int) -> int:
            deadline = time.monotonic() + 300  # processes of several nodes start here, on machines that others use
            while not (found.directory / "losses.jsonl").exists() or max(found.losses(), default=0) < step:
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()
                time.sleep(0.1)
            return max(found.losses())

        yield reach
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err


def assert_equal_to(found: Sitting, undisturbed: Sitting) -> None:
    """The same images in the same order, whoever sat down; the same losses and weights to 1e-5."""
    (expected,) = undisturbed.batches().values()
    done = found.batches()
    assert set().union(*done.values()) == set(expected)
    for steps in done.values():
        # Killed between two ranks' notes of a step, only a part of it is noted.
        assert all(images == expected[step][: len(images)] for step, images in steps.items())
    last = {step: images for steps in done.values() for step, images in steps.items()}
    assert last == expected
    assert_same(found, undisturbed)


def test_a_node_is_lost_and_one_comes_back(nodes: Nodes, undisturbed: Sitting, sitting: Make) -> None:  # noqa: F811
    found = sitting("found")
    with training(found, nodes) as reach:
        reach(6)
        nodes.tell("kill")
        reach(max(found.losses()) + 4)
        nodes.tell("add")
    assert found.world_sizes() == [2, 1, 2]
    assert_equal_to(found, undisturbed)
    # Those that made room for the new node had saved: nothing was done twice.
    before, after = list(found.batches().values())[1:]
    assert max(before) < min(after)


def test_a_node_that_will_be_taken_away_is_left_in_time(nodes: Nodes, undisturbed: Sitting, sitting: Make) -> None:  # noqa: F811
    found = sitting("found")
    with training(found, nodes) as reach:
        reach(6)
        nodes.tell("drain")
    assert found.world_sizes() == [2, 1]
    assert_equal_to(found, undisturbed)
    before, after = found.batches().values()
    assert max(before) + 1 == min(after), "the step before leaving is saved, and the next one goes on"

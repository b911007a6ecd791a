"""How many workers a training gets, and how often it is tried again; the workers themselves: tests/faults."""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import ScalingConfig

from flows.adapters import ray_cluster, ray_sessions, ray_training
from flows.adapters.ray_elastic import DividingPolicy, LeanTrainer
from vit.training.distributed import rank, world_size
from vit.training.placement import micro_batch


@pytest.mark.parametrize(("text", "expected"), [("0", (0, 0)), ("8", (8, 8)), ("1-4", (1, 4)), ("3-3", (3, 3))])
def test_workers_are_a_number_or_a_range(text: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", text)
    assert ray_cluster.worker_range() == expected and ray_cluster.num_workers() == expected[1]


@pytest.mark.parametrize("text", ["", "two", "4-1", "0-4", "-1", "1-", "1.5"])
def test_anything_else_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", text)
    with pytest.raises(ValueError, match="must be a whole number"):
        ray_cluster.worker_range()


def test_only_numbers_that_can_share_the_batch_are_possible() -> None:
    assert ray_training.possible_counts(1, 9, functools.partial(micro_batch, 24)) == (1, 2, 3, 4, 6, 8)


def test_without_a_possible_number_the_nearest_batch_sizes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "3")
    monkeypatch.setattr(ray_cluster, "start", None)  # Ray is not needed to say so
    fits = functools.partial(micro_batch, 8)
    with pytest.raises(ValueError, match="cannot be split over 3 workers; nearest batch sizes are 6 and 9"):
        ray_training.run(print, None, name="n", storage=tmp_path, report=lambda *_: None, fits=fits)


@pytest.mark.parametrize(("cpus", "expected"), [((), 0), ((1,), 1), ((2, 1), 2), ((2, 2), 4), ((4, 4), 4)])
def test_the_policy_takes_the_largest_possible_number(cpus: tuple[int, ...], expected: int) -> None:
    config = ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 1})
    policy: Any = DividingPolicy(config, (1, 2, 4), mailbox=None)
    nodes = {f"node-{index}": {"CPU": float(count)} for index, count in enumerate(cpus)}
    assert policy._count_possible_workers(nodes) == expected


@pytest.mark.parametrize("address", [None, "ray-head:6379"])
def test_no_process_is_started_for_nothing(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    trainer = LeanTrainer(print, scaling_config=ScalingConfig(num_workers=1))
    helpers = {type(callback).__name__ for callback in trainer._create_default_callbacks()}
    assert "BackendSetupCallback" in helpers and "DatasetsCallback" not in helpers
    assert ("PlacementGroupCleanerCallback" in helpers) is (address is not None)


@pytest.mark.parametrize(("failing_at", "attempts"), [((0,), 1), ((5, 5), 2), ((5, 9, 9), 3)])
def test_a_training_is_tried_again_while_it_gets_further(failing_at: tuple[int, ...], attempts: int) -> None:
    reached = [0]

    def fit() -> None:
        reached.append(failing_at[len(reached) - 1])
        raise ray_cluster.WorkersFailed("lost")

    with pytest.raises(ray_cluster.WorkersFailed):
        ray_training._while_it_gets_further(fit, lambda: max(reached))
    assert len(reached) - 1 == attempts


def tell(job: str, report: ray_training.Report) -> None:
    """What workers do in the tests below."""
    if job == "bad":
        raise ValueError("a bad job")
    if job == "long":
        if rank() == 0:
            report(0, {})
        time.sleep(600)
    if rank() == 0:
        report(world_size(), {job: 1.0})


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VITFLOW_WORKERS", "2")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    ray_cluster.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_trainings_follow_each_other_and_hear_only_of_themselves(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    for job in ("first", "second", "bad", "third"):
        expected = pytest.raises(ValueError, match="a bad job") if job == "bad" else contextlib.nullcontext()
        with expected:
            ray_training.run(
                tell, job, name=job, storage=tmp_path, report=lambda step, of: seen.append((step, *of)), fits=str
            )
    assert seen == [(2, "first"), (2, "second"), (2, "third")]


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_an_interrupted_training_leaves_no_thread_and_the_next_one_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ray_training.run(tell, "long", name="n", storage=tmp_path, report=interrupt, fits=str)
    for thread in threading.enumerate():
        if thread.name in ("ray", "mailbox"):
            thread.join(1)
            assert not thread.is_alive()
    ray_cluster.stop()
    assert not ray.is_initialized()
    ray_training.run(tell, "next", name="n", storage=tmp_path, report=lambda step, _: seen.append(step), fits=str)
    assert seen == [2]
    assert "worker group" not in "".join(capfd.readouterr()), "that is for Ray's own log"
    assert list(ray_sessions.directory().glob(f"session_*_{os.getpid()}/logs/train/controller.log"))

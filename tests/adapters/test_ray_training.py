"""How many workers a training gets, and how often it is tried again; the workers themselves: tests/faults."""

import functools
from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig

from flows.adapters import ray_cluster, ray_training
from flows.adapters.ray_elastic import DividingPolicy, LeanTrainer
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

"""The map that turns to Ray when there is much to do: order kept, few pieces under way, errors as they were raised."""

import functools
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.adapters import ray_cluster, ray_map
from flows.stages.spread import spread
from tests.vit.data.test_writing import files, toy, write_small


def double(number: int) -> int:
    if number == 190:
        raise ValueError("190 is too much")
    return 2 * number


@pytest.mark.parametrize("workers", ["0", "1"])
def test_without_workers_everything_stays_here(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", workers)
    monkeypatch.setattr("flows.stages.spread.by_ray", None)
    assert list(spread(double, range(180))) == [2 * number for number in range(180)]
    with pytest.raises(ValueError, match="190 is too much"):
        list(spread(double, range(200)))


def test_few_pieces_start_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "8")
    monkeypatch.setattr("flows.stages.spread.by_ray", None)
    assert list(spread(double, iter(range(64)))) == [2 * number for number in range(64)]


@pytest.mark.slow
def test_ray_keeps_the_order_and_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "2")
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(185):
            taken.append(number)
            yield number

    try:
        results = ray_map.by_ray(double, items())
        assert next(results) == 0 and len(taken) < 60
        assert [0, *results] == [2 * number for number in range(185)]
        with pytest.raises(ValueError, match="190 is too much"):
            list(ray_map.by_ray(double, range(200)))
        for name, each in (("here", map), ("ray", ray_map.by_ray)):
            write_small(tmp_path / name, toy(300), map=each)
        assert files(tmp_path / "here") == files(tmp_path / "ray")
    finally:
        ray_cluster.stop()


def test_what_is_mapped_can_be_pickled() -> None:
    records = list(toy(5).records)
    again = pickle.loads(pickle.dumps(records))
    assert [record.read() for record in again] == [record.read() for record in records]
    assert isinstance(records[0].read, functools.partial)


def test_items_may_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "2")
    monkeypatch.delenv("VITFLOW_GPU_SHARE", raising=False)
    assert ray_cluster.num_tasks() == 2
    monkeypatch.setenv("VITFLOW_GPU_SHARE", "0.25")
    assert (ray_cluster.gpu_share(), ray_cluster.num_tasks()) == (0.25, 8)
    for wrong in ("0", "2", "half"):
        monkeypatch.setenv("VITFLOW_GPU_SHARE", wrong)
        with pytest.raises(ValueError, match=f"VITFLOW_GPU_SHARE is '{wrong}'"):
            ray_cluster.gpu_share()

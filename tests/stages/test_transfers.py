"""Transfers that are kept: none is done twice, a broken file is done again, a failed one is tried again alone."""

import logging
from pathlib import Path

import pytest

from flows.stages import results, transfers
from flows.stages.config import load
from flows.stages.transfers import Job, Scored, TransfersFailed, TransfersRefused, score_all
from vit.evaluation.probing import Probed
from vit.evaluation.vtab import Score, TransferConfig

TASKS = ("cup", "photo", "tree")


class Worker:
    """Stands in for transfers: their score is the length of the task's name over ten, or an error."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.errors: dict[str, list[Exception]] = {}

    def __call__(self, job: Job) -> Scored:
        self.done.append(job.name)
        if self.errors.get(job.name):
            raise self.errors[job.name].pop(0)
        score = Score(top1=len(job.task) / 10, chance=0.1, num_test=3, top1_clean=None, num_clean=0)
        few = {1: (1 / 3, 0.25), 10: (0.1, 0.0)}
        return Scored(tuned=score, frozen=Probed(few_shot=few, linear=0.3, nearest=0.1) if job.pretrained else None)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    worker = Worker()
    monkeypatch.setattr(transfers, "score_task", worker)
    return worker


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    config = load("mini").evaluate
    return [
        Job(
            task=task,
            num_classes=2,
            tasks=Path("tasks"),
            model=Path("model"),
            pretrained=pretrained,
            transfer=TransferConfig(resolution=32, train=config.train, augment=config.augment),
            probes=config.probes,
            leaked=frozenset(),
        )
        for task in TASKS
        for pretrained in (True, False)
    ]


def test_what_is_kept_is_not_done_again_and_is_the_same(worker: Worker, jobs: list[Job], tmp_path: Path) -> None:
    first = score_all(jobs[:2], tmp_path)
    assert worker.done == ["vtab/cup", "vtab_random_init/cup"]
    both = score_all(jobs, tmp_path)
    assert worker.done == [job.name for job in jobs], "each once"
    assert {name: both[name] for name in first} == first
    assert score_all(jobs, tmp_path) == both and len(worker.done) == len(jobs)


@pytest.mark.parametrize("damage", ["", "{", "truncated", '{"result": "{}", "sha256": "0"}', "another number"])
def test_a_damaged_result_is_done_again(
    damage: str, worker: Worker, jobs: list[Job], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = score_all(jobs, tmp_path)
    path = tmp_path / "transfers/vtab/photo.json"
    text = path.read_text()
    changes = {"truncated": text[: len(text) // 2], "another number": text.replace("0.5", "0.9")}
    assert "0.5" in text
    path.write_text(changes.get(damage, damage))
    worker.done.clear()
    with caplog.at_level(logging.WARNING):
        assert score_all(jobs, tmp_path) == whole
    assert worker.done == ["vtab/photo"] and str(path) in caplog.text
    assert path.read_text() == text


def test_a_failed_transfer_is_tried_again_alone(worker: Worker, jobs: list[Job], tmp_path: Path) -> None:
    worker.errors = {"vtab/photo": [RuntimeError("out of memory")]}
    assert len(score_all(jobs, tmp_path)) == len(jobs)
    assert worker.done == [*(job.name for job in jobs), "vtab/photo"]


def test_one_that_goes_on_failing_stops_the_stage_after_the_others(
    worker: Worker, jobs: list[Job], tmp_path: Path
) -> None:
    worker.errors = {"vtab/photo": [RuntimeError("out of memory")] * 2}
    with pytest.raises(TransfersFailed, match=r"1 of 6 transfers failed.*vtab/photo: RuntimeError: out of memory"):
        score_all(jobs, tmp_path)
    worker.done.clear()
    assert len(score_all(jobs, tmp_path)) == len(jobs)
    assert worker.done == ["vtab/photo"], "the next start does it alone"


def test_wrong_data_are_not_tried_again(worker: Worker, jobs: list[Job], tmp_path: Path) -> None:
    worker.errors = {"vtab/cup": [ValueError("no image has a label")] * 2}
    with pytest.raises(TransfersRefused, match="vtab/cup: ValueError: no image has a label"):
        score_all(jobs, tmp_path)
    assert worker.done.count("vtab/cup") == 1 and len(worker.done) == len(jobs)


def test_a_result_of_another_shape_is_not_believed(tmp_path: Path) -> None:
    results.save(tmp_path / "one.json", Score(top1=0.5, chance=0.1, num_test=3, top1_clean=0.5, num_clean=3))
    assert results.load(tmp_path / "one.json", Scored) is None
    assert results.load(tmp_path / "one.json", Score) is not None
    assert results.load(tmp_path / "two.json", Score) is None

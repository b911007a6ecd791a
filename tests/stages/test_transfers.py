"""Transfers that are kept: none is done twice, a broken file is done again, a failed one is tried again alone."""

import logging
from pathlib import Path

import pytest

from flows.stages import results, transfers
from flows.stages.config import load
from flows.stages.transfers import Piece, Result, Subject, TransfersFailed, TransfersRefused, groups, score_all
from vit.data.decoded import Memory
from vit.evaluation.probing import Probed
from vit.evaluation.vtab import Score
from vit.training.hyperrule import TransferConfig

TASKS = ("cup", "photo", "tree")


class Worker:
    """Stands in for what a piece does: its score is the length of the task's name over ten, or an error."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.errors: dict[str, list[Exception]] = {}

    def __call__(self, subject: Subject, piece: Piece, memory: Memory) -> Result:
        self.done.append(piece.name)
        if self.errors.get(piece.name):
            raise self.errors[piece.name].pop(0)
        right = len(piece.task) / 10
        if piece.probes is not None:
            return Probed(few_shot={1: (1 / 3, 0.25), 10: (0.1, 0.0)}, linear=right, nearest=0.1)
        return Score(top1=right, chance=0.1, num_test=3, top1_clean=None, num_clean=0)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    worker = Worker()
    monkeypatch.setattr(transfers, "score", worker)
    return worker


@pytest.fixture(scope="module")
def all_pieces() -> list[Piece]:
    config = load("mini").evaluate
    protocol = TransferConfig(resolution=32, train=config.train, augment=config.augment)
    return [
        piece
        for task in TASKS
        for piece in (
            Piece(task=task, pretrained=True, transfer=protocol, probes=config.probes),
            Piece(task=task, pretrained=True, transfer=protocol),
            Piece(task=task, pretrained=False, transfer=protocol),
        )
    ]


SUBJECT = Subject(
    backbone=Path("backbone"), model=Path("model"), tasks=Path("tasks"), num_classes=dict.fromkeys(TASKS, 2), leaked={}
)


def test_what_is_kept_is_not_done_again_and_is_the_same(
    worker: Worker, all_pieces: list[Piece], tmp_path: Path
) -> None:
    first = score_all(SUBJECT, all_pieces[:2], tmp_path)
    assert worker.done == ["frozen/cup", "vtab/cup"]
    both = score_all(SUBJECT, all_pieces, tmp_path)
    assert worker.done == [piece.name for piece in all_pieces], "each once"
    assert {name: both[name] for name in first} == first
    assert score_all(SUBJECT, all_pieces, tmp_path) == both and len(worker.done) == len(all_pieces)


@pytest.mark.parametrize("damage", ["", "{", "truncated", '{"result": "{}", "sha256": "0"}', "another number"])
def test_a_damaged_result_is_done_again(
    damage: str, worker: Worker, all_pieces: list[Piece], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = score_all(SUBJECT, all_pieces, tmp_path)
    path = tmp_path / "transfers/vtab/photo.json"
    text = path.read_text()
    changes = {"truncated": text[: len(text) // 2], "another number": text.replace("0.5", "0.9")}
    assert "0.5" in text
    path.write_text(changes.get(damage, damage))
    worker.done.clear()
    with caplog.at_level(logging.WARNING):
        assert score_all(SUBJECT, all_pieces, tmp_path) == whole
    assert worker.done == ["vtab/photo"] and str(path) in caplog.text
    assert path.read_text() == text


def test_a_failed_transfer_is_tried_again_alone(worker: Worker, all_pieces: list[Piece], tmp_path: Path) -> None:
    worker.errors = {"vtab/photo": [RuntimeError("out of memory")]}
    assert len(score_all(SUBJECT, all_pieces, tmp_path)) == len(all_pieces)
    assert worker.done == [*(piece.name for piece in all_pieces), "vtab/photo"]


def test_one_that_goes_on_failing_stops_the_stage_after_the_others(
    worker: Worker, all_pieces: list[Piece], tmp_path: Path
) -> None:
    worker.errors = {"vtab/photo": [RuntimeError("out of memory")] * 2}
    with pytest.raises(TransfersFailed, match=r"1 of 9 transfers failed.*vtab/photo: RuntimeError: out of memory"):
        score_all(SUBJECT, all_pieces, tmp_path)
    worker.done.clear()
    assert len(score_all(SUBJECT, all_pieces, tmp_path)) == len(all_pieces)
    assert worker.done == ["vtab/photo"], "the next start does it alone"


def test_wrong_data_are_not_tried_again(worker: Worker, all_pieces: list[Piece], tmp_path: Path) -> None:
    worker.errors = {"vtab/cup": [ValueError("no image has a label")] * 2}
    with pytest.raises(TransfersRefused, match="vtab/cup: ValueError: no image has a label"):
        score_all(SUBJECT, all_pieces, tmp_path)
    assert worker.done.count("vtab/cup") == 1 and len(worker.done) == len(all_pieces)


def test_a_result_of_another_shape_is_not_believed(tmp_path: Path) -> None:
    results.save(tmp_path / "one.json", Score(top1=0.5, chance=0.1, num_test=3, top1_clean=0.5, num_clean=3))
    assert results.load(tmp_path / "one.json", Probed) is None
    assert results.load(tmp_path / "one.json", Score) is not None
    assert results.load(tmp_path / "two.json", Score) is None


@pytest.mark.parametrize(("workers", "sizes"), [(0, [3, 3, 3]), (2, [3, 3, 3]), (5, [3, 2, 2, 1, 1]), (99, [1] * 9)])
def test_a_task_goes_to_one_worker_unless_some_would_have_nothing_to_do(
    workers: int, sizes: list[int], all_pieces: list[Piece]
) -> None:
    parts = groups(all_pieces, workers)
    assert sorted((len(part) for part in parts), reverse=True) == sizes
    assert all(len({piece.task for piece in part}) == 1 for part in parts)
    assert sorted(piece.name for part in parts for piece in part) == sorted(piece.name for piece in all_pieces)

"""The runner of faults and the page that it writes: which rows, what is kept, what the page shows."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import faults_cli
from tests.faults import faults, lanes, page, runner, soak
from tests.faults.bed import MARK, Bed, bed
from tests.faults.inside import dying
from tests.faults.row import Draw, NotRun, Row, Trial


def row(number: int, outcomes: list[Trial | Exception]) -> Row:
    """Whose trials come out like this."""

    def attempt(where: Bed, draw: Draw) -> Trial:
        outcome = outcomes[draw.number]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Row(number=number, fault="something goes wrong", times=len(outcomes), attempt=attempt)


def result(outcomes: list[Trial | Exception], tmp_path: Path) -> runner.Result:
    return runner.attempt(row(1, outcomes), Bed(tmp_path), numbers=range(len(outcomes)), seed=0)


def test_rows_are_chosen_by_number_and_range() -> None:
    assert [one.number for one in runner.chosen("1,4-6")] == [1, 4, 5, 6]
    assert runner.chosen("all") == list(runner.ROWS)
    for text, said in (("1,x", "'x' is no row"), ("99", "there is no row 99; there are 1, 2")):
        with pytest.raises(ValueError, match=said):
            runner.chosen(text)


def test_every_row_says_what_it_is() -> None:
    numbers = [one.number for one in runner.ROWS]
    assert len(set(numbers)) == len(numbers)
    assert all(one.times >= 1 and len(one.fault) > 40 for one in runner.ROWS)


def test_a_kept_bed_forgets_what_trials_left(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for _ in range(2):
        with bed(kept):
            assert {path.name for path in kept.iterdir()} <= {MARK, "finished", "undisturbed-0.json"}
            for name in ("finished", "copy-1", "alone-0"):
                (kept / name).mkdir(exist_ok=True)
            for name in ("undisturbed-0.json", "ran"):
                (kept / name).touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="no bed of faults"), bed(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_what_is_counted(tmp_path: Path) -> None:
    found = result([Trial(redone=3, seconds=1.5), AssertionError("half of it"), Trial(redone=5)], tmp_path)
    assert (found.count, found.redone, found.recovery) == ("2/3", "5 steps", "1.5 s")
    assert found.failures == ["trial 1: AssertionError: half of it"]
    skipped = result([NotRun("no GPU")], tmp_path)
    assert (skipped.count, skipped.not_run, skipped.failures) == ("not run", "no GPU", [])


def test_a_later_result_takes_the_place_of_the_same_row(tmp_path: Path) -> None:
    first = result([AssertionError("no")], tmp_path)
    for one in (first, dataclasses.replace(first, number=2), dataclasses.replace(first, survived=1, failures=[])):
        runner.write(one, tmp_path / "faults.json")
    assert [(one.number, one.count) for one in runner.read(tmp_path / "faults.json")] == [(1, "1/1"), (2, "0/1")]


def test_the_page_shows_the_results_that_are_kept_beside_it() -> None:
    text = page.PAGE.read_text()
    assert text == page.with_tables(text, json.loads(page.KEPT.read_text())), "run `vitflow faults table`"


def test_later_results_are_taken_over() -> None:
    before, now = [{"number": 2, "x": 1}, {"number": 1, "x": 1}], [{"number": 2, "x": 2}]
    assert page.merged(page.FAULTS, before, now) == [{"number": 1, "x": 1}, {"number": 2, "x": 2}]
    assert page.merged(page.SOAK, {"rounds": [1]}, {"rounds": []}) == {"rounds": []}


def test_a_soak_is_told_with_what_went_wrong() -> None:
    rounds = [
        {"number": n, "fault": f"kill_flow after {n} s", "workers": 2 * n, "starts": 2, "seconds": 60, "wrong": wrong}
        for n, wrong in enumerate([[], ["half-written: x"]])
    ]
    text = page.soaked({"rounds": rounds, "growth": {"handles": 1.1}})
    assert "1 of 2 pipelines (1 on Ray workers) ended right, with 4 starts, in 2 minutes." in text
    assert "| kill flow | 2 |" in text and "| handles | 1.1 |" in text and "half-written: x" in text


def test_a_soak_compares_rounds_of_a_kind() -> None:
    """Ray workers in the last rounds are no growth; what each round leaves open is."""

    def one(number: int, *, leak: float) -> soak.Round:
        workers = 2 if number in (1, 4, 6, 7) else 0
        handles = (900 if workers else 100) + leak * number
        numbers = {"number": number, "workers": workers, "handles": int(handles), "database_kb": 100 + 8 * number}
        whole = {"fault": "", "own_server": False, "seconds": 60.0, "starts": 1, "memory_mb": 1.0, "processes": 1}
        return soak.Round(**numbers, **whole, temporary=5, wrong=[])  # pyright: ignore[reportArgumentType]

    flat, growing = (soak.growth([one(n, leak=leak) for n in range(9)]) for leak in (0, 20))
    assert flat == {
        "memory_mb": 1.0,
        "handles": 1.0,
        "processes": 1.0,
        "seconds": 1.0,
        "database_kb a round": 8.0,
        "temporary a round": 0.0,
    }
    assert growing["handles"] > 1.1


def test_a_child_dies_where_it_is_told_to(tmp_path: Path) -> None:
    def write() -> None:
        dying.at_byte(1000)
        (tmp_path / "file").write_bytes(bytes(5000))

    assert faults.in_child(write) < 0
    assert (tmp_path / "file").stat().st_size == 1000

    def make() -> None:
        dying.at_call(3, str(tmp_path))
        for name in "abcd":
            (tmp_path / name).mkdir()

    assert faults.in_child(make) == -9
    assert [(tmp_path / name).exists() for name in "abcd"] == [True, True, False, False]
    assert faults.in_child(lambda: None) == 0


def test_without_the_tests_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines.yaml").touch()
    monkeypatch.chdir(tmp_path)
    failed = CliRunner().invoke(faults_cli.faults, ["run", "1"])
    assert isinstance(failed.exception, ValueError) and "has no tests/faults" in str(failed.exception)


def test_lanes_take_about_as_long() -> None:
    assert lanes.shared({1: 100, 2: 60, 3: 50, 4: 10}, 2) == [[1, 4], [2, 3]]
    assert lanes.shared({1: 100}, 2) == [[1]], "no lane without work"


def test_the_worst_of_the_lanes_counts(tmp_path: Path) -> None:
    assert lanes.side_by_side([[99]], "run", "--out", str(tmp_path / "faults.json")) == 2

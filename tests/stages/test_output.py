"""A stage's output appears whole or not at all, and the same work gives the same bytes."""

import dataclasses
import errno
from pathlib import Path

import pytest

from flows.stages import output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    rate: float


def make(out: Path, config: Config = Config(rate=0.1), **inputs: Path) -> Path:
    with output.writing(out, "toy", config, inputs) as work:
        (work / "sub").mkdir()
        (work / "sub" / "numbers.txt").write_text("1 2 3")
    return out


def test_output_says_what_made_it(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    second = make(tmp_path / "second", first=first)
    made = output.read(second)
    assert made["stage"] == "toy" and made["config"] == {"rate": 0.1}
    assert made["inputs"] == {"first": output.digest(first)}
    assert list(made["files"]) == ["sub/numbers.txt"]
    assert made["fingerprint"] == output.fingerprint("toy", Config(rate=0.1), {"first": first})


def test_same_work_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "elsewhere" / "b")
    assert (a / output.CONFIG).read_bytes() == (b / output.CONFIG).read_bytes()
    assert output.digest(a) != output.digest(make(tmp_path / "c", Config(rate=0.2)))


def test_failure_leaves_the_old_output_and_nothing_else(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    before = output.digest(out)
    with pytest.raises(RuntimeError), output.writing(out, "toy", Config(rate=9.0), {}) as work:
        (work / "half").write_text("x")
        raise RuntimeError
    assert output.digest(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_success_replaces_the_old_output_whole(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    (out / "stray").write_text("left over")
    make(out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "sub"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(output.DiskFull, match=r"no space left .* while stage toy wrote"):  # noqa: SIM117
        with output.writing(tmp_path / "out", "toy", Config(rate=0.1), {}):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_unfinished_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    with pytest.raises(output.IncompleteInput, match="half is not the finished output of a stage"):
        make(tmp_path / "out", half=tmp_path / "half")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["flip", "delete"])
def test_verify_names_a_damaged_file(tmp_path: Path, fault: str) -> None:
    out = make(tmp_path / "out")
    output.verify(out)
    file = out / "sub" / "numbers.txt"
    file.write_text("1 2 4") if fault == "flip" else file.unlink()
    with pytest.raises(output.IncompleteInput, match=r"1 of 1 files .* first sub/numbers.txt"):
        output.verify(out)

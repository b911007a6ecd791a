"""Checkpoints kept elsewhere, with a directory as elsewhere: what is sent, in which order, and what is brought back."""

import shutil
from pathlib import Path

import pytest
import torch

from vit.training import checkpoint
from vit.training.checkpoint import Checkpoints, State
from vit.training.mirror import Mirror


class Elsewhere:
    """A directory, and what was done to it in which order."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.done = directory, list[str]()

    def mirror(self) -> Mirror:
        return Mirror(put=self.put, names=self.names, get=self.get, remove=self.remove)

    def put(self, path: Path, name: str) -> None:
        self.done.append(f"put {name}")
        target = self.directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, target, dirs_exist_ok=True) if path.is_dir() else shutil.copy2(path, target)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())

    def get(self, name: str, path: Path) -> None:
        shutil.copy2(self.directory / name, path)

    def remove(self, name: str) -> None:
        self.done.append(f"remove {name}")
        (self.directory / name).unlink()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path / "elsewhere")


def save(directory: Path, elsewhere: Elsewhere, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(directory=directory, fingerprint="f", mirror=elsewhere.mirror())
    for step in steps:
        checkpoint.save(checkpoints, State(step=step, tensors={"model.w": torch.full((3,), float(step))}))
    return checkpoints


def test_what_is_here_is_elsewhere_and_no_more(tmp_path: Path, elsewhere: Elsewhere) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "history.jsonl").write_text("{}\n")
    save(tmp_path / "here", elsewhere, 1, 2, 3)
    files = ("manifest.json", "state.safetensors")
    assert elsewhere.names() == ["history.jsonl", *(f"step-0000000{step}/{file}" for step in (2, 3) for file in files)]
    assert elsewhere.done[-2:] == ["remove step-00000001/manifest.json", "remove step-00000001/state.safetensors"]


def test_the_newest_is_brought_to_an_empty_disk(tmp_path: Path, elsewhere: Elsewhere) -> None:
    save(tmp_path / "here", elsewhere, 1, 2)
    (elsewhere.directory / "history.jsonl").write_text("{}\n")
    shutil.rmtree(tmp_path / "here")
    found = checkpoint.load_newest(save(tmp_path / "here", elsewhere))
    assert found is not None and found.step == 2
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"step-00000002", "history.jsonl"}


@pytest.mark.parametrize("fault", ["damaged", "missing", "no manifest"])
def test_a_broken_one_is_passed_over(
    fault: str, tmp_path: Path, elsewhere: Elsewhere, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "here", elsewhere, 1, 2)
    shutil.rmtree(tmp_path / "here")
    newest = elsewhere.directory / "step-00000002"
    if fault == "damaged":
        (newest / "state.safetensors").write_bytes(b"half")
    else:
        (newest / ("state.safetensors" if fault == "missing" else "manifest.json")).unlink()
    found = checkpoint.load_newest(save(tmp_path / "here", elsewhere))
    assert found is not None and found.step == 1
    assert ("step-00000002" in caplog.text) is (fault != "no manifest")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["step-00000001"]


def test_a_broken_one_here_is_mended_from_elsewhere(tmp_path: Path, elsewhere: Elsewhere) -> None:
    checkpoints = save(tmp_path / "here", elsewhere, 1, 2)
    (tmp_path / "here" / "step-00000002" / "state.safetensors").write_bytes(b"half")
    found = checkpoint.load_newest(checkpoints)
    assert found is not None and found.step == 2


def test_only_broken_ones_stop_instead_of_starting_afresh(tmp_path: Path, elsewhere: Elsewhere) -> None:
    save(tmp_path / "here", elsewhere, 1, 2)
    shutil.rmtree(tmp_path / "here")
    for state in elsewhere.directory.glob("*/state.safetensors"):
        state.unlink()
    with pytest.raises(checkpoint.NoValidCheckpoint, match="all 2 checkpoints"):
        checkpoint.load_newest(save(tmp_path / "here", elsewhere))


def test_what_is_here_is_not_brought_again(tmp_path: Path, elsewhere: Elsewhere) -> None:
    checkpoints = save(tmp_path / "here", elsewhere, 1, 2)
    shutil.rmtree(elsewhere.directory / "step-00000001")
    (elsewhere.directory / "step-00000002" / "state.safetensors").write_bytes(b"half")
    found = checkpoint.load_newest(checkpoints)
    assert found is not None and found.step == 2

"""What a flow pushes (each stage as it is recorded, with what the remote could not take before), and what it takes."""

import logging
import shutil
from pathlib import Path

import pytest
import yaml

from flows.adapters import dvc_repo
from tests.checkout import run


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stages whose outputs are there, and a remote that is none yet: a file lies in its place."""
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "remote", "add", "-d", "there", "remote"]):
        assert run(tmp_path, *command).returncode == 0
    stages = {name: {"cmd": f"echo {name} > {name}.txt", "outs": [f"{name}.txt"]} for name in ("one", "two")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for name in stages:
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    (tmp_path / "remote").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_the_remote_could_not_take_is_pushed_with_the_next_stage(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vitflow.dvc"):
        dvc_repo.commit(repository, "one")
    assert "one is recorded, but could not be pushed" in caplog.text
    assert dvc_repo.status(repository, "one").is_fresh
    (repository / "remote").unlink()
    dvc_repo.commit(repository, "two")
    assert len(list((repository / "remote" / "files" / "md5").rglob("*/*"))) == 2
    assert not (repository / dvc_repo.UNPUSHED).exists()


def test_a_damaged_object_of_the_remote_is_not_taken(repository: Path) -> None:
    """Whatever the remote's own setting is: a disk's is to believe. In a folder, as the outputs of stages are."""
    (repository / "remote").unlink()
    stages = {"folder": {"cmd": "mkdir folder", "outs": ["folder"]}}
    (repository / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (repository / "folder").mkdir()
    (repository / "folder" / "file.txt").write_text("sound\n")
    dvc_repo.commit(repository, "folder")
    (there,) = (p for p in (repository / "remote" / "files" / "md5").rglob("*/*") if p.suffix != ".dir")
    shutil.rmtree(repository / "folder")
    shutil.rmtree(repository / ".dvc" / "cache")
    there.unlink()
    there.write_text("wrong\n")
    assert not dvc_repo.restore(repository, "folder")
    assert not (repository / "folder" / "file.txt").exists()
    held = [p for p in (repository / ".dvc" / "cache" / "files" / "md5").rglob("*/*") if p.suffix != ".dir"]
    assert not held, "the next run would believe it"
    there.write_text("sound\n")
    assert dvc_repo.restore(repository, "folder")
    assert (repository / "folder" / "file.txt").read_text() == "sound\n"


def test_whether_dvc_pull_compares_is_asked_of_the_users_settings(repository: Path) -> None:
    """Our own fetching does in any case."""
    assert dvc_repo.remote(repository) == str(repository / "remote")
    assert not dvc_repo.remote_verifies(repository)
    assert run(repository, "dvc", "remote", "modify", "there", "verify", "true").returncode == 0
    assert dvc_repo.remote_verifies(repository)

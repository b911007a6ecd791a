"""What a flow pushes: each stage as it is recorded, and with it what the remote could not take before."""

import logging
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

"""Two clones with one DVC remote run the same pipeline at the same moment: neither waits for, nor harms, the other."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml

from tests.checkout import hashes, make_checkout, run
from tests.faults.bed import FLOW, commit, started
from tests.flows.test_retraining import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.long]
SAME = STAGES[:-1]  # what register leaves names runs of its own registry


def test_both_end_right_and_the_remote_is_whole(tmp_path: Path) -> None:
    first, second, remote = make_checkout(tmp_path / "first"), tmp_path / "second", tmp_path / "remote"
    assert run(first, "dvc", "remote", "add", "--default", "store", str(remote)).returncode == 0
    commit(first)
    assert run(first, "git", "clone", "-q", str(first), str(second)).returncode == 0
    with started(first, *FLOW, VITFLOW_WORKERS="0") as one, started(second, *FLOW, VITFLOW_WORKERS="0") as other:
        codes = [machine.end(1200) for machine in (one, other)]
        assert codes == [0, 0], one.text() + other.text()
        assert "could not be pushed" not in one.text() + other.text()
    made = [{stage: hashes(machine / "runs/smoke" / stage) for stage in STAGES} for machine in (first, second)]
    locks = [yaml.safe_load((machine / "dvc.lock").read_text())["stages"] for machine in (first, second)]
    for stage in SAME:
        assert made[0][stage] == made[1][stage], stage
        assert locks[0][f"{stage}@smoke"]["outs"] == locks[1][f"{stage}@smoke"]["outs"], stage
    check(remote)
    for machine, outputs in zip((first, second), made, strict=True):
        again = run(machine, "dvc", "status", *map("{}@smoke".format, STAGES))
        assert "up to date" in again.stdout, again.stdout + again.stderr
        shutil.rmtree(machine / "runs")
        shutil.rmtree(machine / ".dvc/cache")
        done = run(machine, "dvc", "pull", *map("{}@smoke".format, STAGES))
        assert done.returncode == 0, done.stderr
        assert {stage: hashes(machine / "runs/smoke" / stage) for stage in STAGES} == outputs


def check(remote: Path) -> None:
    """Every object has the contents that its name says, and nothing half-written lies beside them."""
    objects = [path for path in (remote / "files" / "md5").rglob("*") if path.is_file()]
    assert objects
    for path in objects:
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        assert path.parent.name + path.name.removesuffix(".dir") == md5, path

"""Evaluation killed half-way: started again it repeats no finished transfer, and ends with the same scores."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkout import environment, make_checkout

pytestmark = [pytest.mark.slow, pytest.mark.long]
EVALUATE = (sys.executable, "-m", "flows.stages", "evaluate", "smoke")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned, so that only the evaluation is left."""
    path = make_checkout(tmp_path_factory.mktemp("kill"))
    done = subprocess.run(
        ["dvc", "repro", "finetune@smoke"],
        cwd=path,
        env=environment(path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path


def kept(checkout: Path) -> dict[str, float]:
    """The pieces that are done, by name, and when their files were written."""
    (scratch,) = (checkout / "runs/smoke/.scratch").glob("evaluate-*/transfers")
    found = sorted(scratch.glob("*/*.json"))
    return {str(path.relative_to(scratch).with_suffix("")): path.stat().st_mtime for path in found}


def reported(output: str) -> list[str]:
    """The pieces that a process says it did."""
    return re.findall(r"^evaluate \d+/30  (\S+)", output, flags=re.MULTILINE)


def test_no_finished_transfer_is_repeated(checkout: Path) -> None:
    undisturbed = subprocess.run(
        EVALUATE, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    scores = checkout / "runs/smoke/evaluate/scores.json"
    expected = json.loads(scores.read_text())
    assert len(set(reported(undisturbed.stdout))) == 30
    scores.unlink()

    process = subprocess.Popen(EVALUATE, cwd=checkout, env=environment(checkout), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((checkout / "runs/smoke/.scratch").glob("evaluate-*/transfers/*/*.json")) or len(kept(checkout)) < 7:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = kept(checkout)
    assert 7 <= len(done) < 30 and not scores.exists()
    damaged = sorted(done)[3]
    (file,) = (checkout / "runs/smoke/.scratch").glob(f"evaluate-*/transfers/{damaged}.json")
    file.write_text(file.read_text()[:-40])

    again = subprocess.run(
        EVALUATE, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    names = {f"{kind}/{task}" for kind in ("frozen", "vtab", "vtab_random_init") for task in expected["tasks"]}
    assert sorted(reported(again.stdout)) == sorted((names - done.keys()) | {damaged}), "each of the others, once"
    assert json.loads(scores.read_text()) == expected
    assert not (checkout / "runs/smoke/.scratch").exists(), "nothing is left once it has succeeded"

"""A training is killed, asked to end, finds its checkpoint broken or the disk full: it ends as if nothing was."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.vit.training.conftest import ALONE, TORCHRUN, Sitting, alone, sitting  # noqa: F401  fixtures
from tests.vit.training.test_equality import assert_same

Make = Callable[[str], Sitting]


def test_sigkill(alone: Sitting, sitting: Make) -> None:  # noqa: F811
    found = sitting("found")
    found.run(ALONE, dies=11)
    assert found.checkpoints()[-1] in ("step-00000004", "step-00000008")
    found.run(ALONE)
    assert_same(found, alone, exact=True)


@pytest.mark.parametrize("command", [ALONE, pytest.param(TORCHRUN, marks=pytest.mark.slow)])
def test_sigterm_loses_no_step(command: list[str], alone: Sitting, sitting: Make) -> None:  # noqa: F811
    found = sitting("found")
    with found.started(command, slow=0.3) as process:
        deadline = time.monotonic() + 120
        while not (found.directory / "losses.jsonl").exists() or len(found.losses()) < 6:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode != 0
    done = max(found.losses())
    assert found.checkpoints()[-1] == f"step-{done:08d}", "the last step that was logged is saved"
    found.run(command)
    assert_same(found, alone, exact=command is ALONE)


def test_corrupted_newest_checkpoint(alone: Sitting, sitting: Make) -> None:  # noqa: F811
    found = sitting("found")
    found.run(ALONE, dies=19)
    newest = found.directory / "checkpoints" / found.checkpoints()[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    _, err = found.run(ALONE)
    assert newest.parent.name in err and "trying the one before" in err
    assert_same(found, alone, exact=True)


def can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a small disk")
def test_full_disk(alone: Sitting, sitting: Make) -> None:  # noqa: F811
    """Checkpoints go to a disk without room for one; room is made after step 10."""
    found = sitting("found")
    disk = found.directory / "checkpoints"
    disk.mkdir()
    fill = f"mount -t tmpfs -o size=400k none {disk} && head -c 380k /dev/zero > {disk}/ballast"
    out, err = found.run(
        ["unshare", "-rm", "sh", "-c", f'{fill} && exec "$@"', "sh", *ALONE], ballast=str(disk / "ballast")
    )
    assert "the checkpoint of step 4 could not be written" in err and "training goes on" in err
    assert "step 12 could not" not in err and out.split() == ["step-00000016", "step-00000020"]
    assert_same(found, alone, exact=True)

"""A stage without progress is stopped with a sentence, in Python or in C; one that gets on is left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import stall
from flows.stages.progress import Progress

# A mutex that is locked twice by one thread waits for ever, and no signal ends that.
HANGS = """
import ctypes
from flows import stall

stall.GRACE = 0.5
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
tell, give_up = (lambda said: print("told:", said)), (lambda said: print("gave up:", said, flush=True))
with stall.watched("pretrain", 0.3, tell, give_up):
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""


def never(sentence: str) -> None:
    raise AssertionError(sentence)


def test_silence_ends_the_stage() -> None:
    told: list[str] = []
    begun = time.monotonic()
    with (
        pytest.raises(stall.Stalled, match=r"evaluate made no progress for 0.2 s .* run again to go on"),
        stall.watched("evaluate", 0.2, told.append, never),
    ):
        time.sleep(30)
    assert time.monotonic() - begun < 10
    assert told == ["evaluate made no progress for 0.2 s (deploy.stall_after) and was stopped"]


def test_progress_and_null_leave_it_alone() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with stall.watched("pretrain", 1.0, never, never) as listen:
        for step in range(15):
            time.sleep(0.1)
            listen(Progress(stage="pretrain", step=step, total=15, metrics={}))
    with stall.watched("pretrain", None, never, never) as listen:
        listen(Progress(stage="pretrain", step=1, total=1, metrics={}))
    assert signal.getsignal(signal.SIGUSR1) == before
    os.kill(os.getpid(), 0)


def test_what_hangs_in_c_code_is_ended_with_its_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "told: pretrain made no progress for 0.3 s (deploy.stall_after) and was stopped",
        "gave up: pretrain made no progress for 0.3 s (deploy.stall_after) and was stopped; "
        "it did not even react to that, so its process was ended",
    ]

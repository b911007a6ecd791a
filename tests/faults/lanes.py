"""Rows side by side, in processes with beds of their own: most keep one core busy, or wait for something."""

import contextlib
import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.checkout import ROOT

UNKNOWN = 120.0  # seconds of a row that was not run yet


def shared(seconds: Mapping[int, float], lanes: int) -> list[list[int]]:
    """The keys in so many groups that take about as long: the longest first, each where least is to do; none empty."""
    groups: list[list[int]] = [[] for _ in range(min(lanes, len(seconds)))]
    for key in sorted(seconds, key=lambda key: -seconds[key]):
        min(groups, key=lambda group: sum(seconds[one] for one in group)).append(key)
    return groups


def known_seconds(rows: Sequence[int], kept: Path) -> dict[int, float]:
    """What each row took when it was run last, as docs/reliability.json has it."""
    took = {one["number"]: one["seconds"] for one in json.loads(kept.read_text())["faults"]}
    return {number: took.get(number, UNKNOWN) for number in rows}


def side_by_side(groups: Sequence[Sequence[int]], *command: str) -> int:
    """`python -m tests.faults COMMAND… LIST` for each group, at the same time; the highest exit code."""
    started = [
        subprocess.Popen([sys.executable, "-m", "tests.faults", *command, ",".join(map(str, group))], cwd=ROOT)
        for group in groups
    ]
    try:
        return max((one.wait() for one in started), default=0)
    except BaseException:
        for one in started:
            one.terminate()
            one.wait()
        raise


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """The only one of the lanes that changes this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""Faults that a process does to itself: for a forked child, or, through sitecustomize.py, any Python process of a run.

Nothing but the standard library, as every process of the run imports this when it starts.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def at_byte(offset: int) -> None:
    """Die in the write that would make any file longer than `offset` bytes, whatever code writes it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and would raise instead
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (offset, offset))


def at_call(number: int, part: str) -> None:
    """Die right before the `number`-th of Python's calls that name a path with `part`: open, mkdir, rename, remove."""
    _before_call(number, part, lambda: os.kill(os.getpid(), signal.SIGKILL))


def of_hunger(number: int, part: str, megabytes: int) -> None:
    """From such a call on, have no more memory than these megabytes on top: what is beyond is refused."""

    def starve() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20,) * 2)

    _before_call(number, part, starve)


def _before_call(number: int, part: str, what: Callable[[], None]) -> None:
    left = number

    def call() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            what()

    _on_calls(part, call)


def counting_calls(part: str) -> Callable[[], int]:
    """How many of these calls there were since."""
    seen = 0

    def call() -> None:
        nonlocal seen
        seen += 1

    _on_calls(part, call)
    return lambda: seen


def _on_calls(part: str, call: Callable[[], None]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(("open", "os.", "shutil.")) and part in "".join(str(one) for one in arguments[:2]):
            call()

    sys.addaudithook(hook)


def as_asked(text: str, command_line: list[str]) -> None:
    """What `text` says (see faults.inside), if this is the process that is meant."""
    asked = json.loads(text)
    if asked["who"] in " ".join(command_line):
        {"at_byte": at_byte, "at_call": at_call, "of_hunger": of_hunger}[asked["how"]](*asked["arguments"])

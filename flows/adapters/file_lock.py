"""Locks on open files that the kernel drops when their process dies, and that a forked child does not inherit.

flock belongs to an open file, whose descriptor a fork copies: without care a lock taken by a background thread would
live on in a data-loading worker that knows nothing of it.
"""

import fcntl
import os
from pathlib import Path

_descriptors: set[int] = set()


def open_lockable(path: Path, flags: int) -> int:
    """A descriptor for `lock`, to be closed by `release`."""
    descriptor = os.open(path, flags, 0o666)
    _descriptors.add(descriptor)
    return descriptor


def lock(descriptor: int, *, shared: bool) -> bool:
    """Take the lock if it is free; False if it is not."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def release(descriptor: int) -> None:
    """Unlock and close."""
    _descriptors.discard(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _close_inherited() -> None:
    """In a forked child: close only, as unlocking would hit the parent, whose open file it is."""
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_close_inherited)

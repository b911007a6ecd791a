"""Child processes that end with their parent, whatever ends it: even SIGKILL leaves nothing behind. Linux's; elsewhere
nothing happens and the parent has to stop them itself."""

import contextlib
import ctypes
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # prctl(2)


def ends_with_parent(by: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """For subprocess.Popen's preexec_fn: the kernel sends `by` when the thread that starts the child ends."""
    with contextlib.suppress(OSError, AttributeError):
        prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child should do as little as possible
        return lambda: prctl(PR_SET_PDEATHSIG, int(by))
    return lambda: None

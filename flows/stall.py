"""A stage that makes no progress for too long is stopped, with a sentence (docs/adr/0005).

A timeout of Prefect's would have to know how long a stage takes; what is known is how often it says how far it is.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from flows.stages.progress import Listener, Progress

GRACE = 30.0  # seconds that a stage has to end once it was asked to
Tell = Callable[[str], None]


class Stalled(RuntimeError):
    """A stage made no progress for deploy.stall_after seconds."""


@contextlib.contextmanager
def watched(stage: str, after: float | None, tell: Tell, give_up: Tell) -> Iterator[Listener]:
    """Yield a listener for the stage's progress; without any for `after` seconds raise Stalled in this thread.

    `tell` is called with the sentence first. A main thread that hangs in C code cannot raise: after GRACE seconds
    `give_up` is called with it and the process ends on the spot, as it would if it were killed.
    """
    watch = _Watch(f"{stage} made no progress for {after or 0:g} s (deploy.stall_after) and was stopped", tell, give_up)
    if not after:
        yield watch.listen
        return
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGUSR1, watch.stop) if is_main else None
    threading.Thread(target=watch.run, args=(after, is_main), daemon=True, name="stall").start()
    try:
        yield watch.listen
    finally:
        with watch.ending:
            watch.finished.set()
        if is_main:
            signal.signal(signal.SIGUSR1, before)


class _Watch:
    """When progress was last heard of, and what is done if that is too long ago."""

    def __init__(self, sentence: str, tell: Tell, give_up: Tell) -> None:
        self.sentence, self.tell, self.give_up = sentence, tell, give_up
        self.last = time.monotonic()
        self.finished, self.ending = threading.Event(), threading.Lock()

    def listen(self, event: Progress) -> None:
        self.last = time.monotonic()

    def stop(self, number: int, frame: object) -> None:
        raise Stalled(f"{self.sentence}; run again to go on from the last checkpoint, or allow for longer silence")

    def run(self, after: float, is_main: bool) -> None:
        """Until the stage has ended, one way or the other."""
        while (left := self.last + after - time.monotonic()) > 0:
            if self.finished.wait(left):
                return
        self.tell(self.sentence)
        with self.ending:
            if is_main and not self.finished.is_set():
                # To this thread and no other, whose system call would go on.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        if not self.finished.wait(GRACE):
            self.give_up(f"{self.sentence}; it did not even react to that, so its process was ended")
            os._exit(1)

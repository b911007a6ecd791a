"""Files fetched by background threads before they are needed, in the order of use, a bounded number of bytes ahead."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

IDLE = 5.0  # seconds without work after which a thread ends

log = logging.getLogger(__name__)


class Prefetcher:
    """Calls `fetch(name)` in the order of the names; at most `ahead` bytes, by `size(name)`, are coming or unused.

    One file is always allowed. Memory is what `fetch` uses, times `threads`: what it brings lies on the disk. Errors
    are left to whoever uses the file and will meet them again.
    """

    def __init__(self, fetch: Callable[[str], object], size: Callable[[str], int], *, ahead: int, threads: int) -> None:
        self._fetch, self._size, self._ahead, self._threads = fetch, size, ahead, threads
        self._queue: deque[str] = deque()
        self._waiting: dict[str, int] = {}  # bytes of what is on its way or not used yet; 0 until the size is known
        self._running = 0
        self._changed = threading.Condition()

    def request(self, names: Sequence[str]) -> None:
        """Replace the queue; what waits and is named no more counts no more."""
        with self._changed:
            self._waiting = {name: self._waiting[name] for name in names if name in self._waiting}
            self._queue = deque(name for name in dict.fromkeys(names) if name not in self._waiting)
            for _ in range(min(self._threads, len(self._queue)) - self._running):
                self._running += 1
                threading.Thread(target=self._work, name="vitflow-prefetch", daemon=True).start()
            self._changed.notify_all()

    def used(self, name: str) -> None:
        """A file is in use, so it no longer counts; one that is still queued need not be fetched."""
        with self._changed:
            if self._waiting.pop(name, None) is not None:
                self._changed.notify_all()
            elif name in self._queue:
                self._queue.remove(name)

    def _work(self) -> None:
        while (name := self._next()) is not None:
            try:
                if self._admit(name, self._size(name)):
                    self._fetch(name)
            except Exception as error:
                log.debug("prefetching %s failed: %s", name, error)

    def _next(self) -> str | None:
        """The name to look at; None, and the thread is to end, if there was none for a while."""
        with self._changed:
            while not self._queue:
                if not self._changed.wait(IDLE) and not self._queue:
                    self._running -= 1
                    return None
            name = self._queue.popleft()
            self._waiting[name] = 0
            return name

    def _admit(self, name: str, size: int) -> bool:
        """Wait until `size` more bytes are allowed; False if the file is not wanted any more."""
        with self._changed:
            while name in self._waiting:
                others = sum(self._waiting.values())
                if others == 0 or others + size <= self._ahead:
                    self._waiting[name] = size
                    return True
                self._changed.wait()
            return False

"""A polite end: SIGTERM lets the running step finish and its state be saved, then ends the training."""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, TypeVar

import torch

from vit.training.distributed import device, sum_over_ranks, world_size

_requested = threading.Event()
_listening = threading.Event()
_asking: set[Any] = set()  # handlers of SIGTERM that call accept() themselves
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Preempted(KeyboardInterrupt):
    """The training ended on request, its state saved. Handled wherever Ctrl-C is; exit code 143 is the custom."""


def request() -> None:
    """Ask the training in this process to save and end: a scheduler's notice, from any thread."""
    _requested.set()


def is_requested(*, at_log: bool) -> bool:
    """Whether to end after this step, on every rank alike. Several ranks ask each other only when they log anyway."""
    if world_size() == 1:
        return _requested.is_set()
    return at_log and bool(sum_over_ranks(torch.tensor(float(_requested.is_set()), device=device())).item())


def accept() -> bool:
    """For a handler of SIGTERM: whether the training in this process saves and ends because of it. If not, since there
    is none or it was asked before, the handler does what it does otherwise."""
    if not _listening.is_set() or _requested.is_set():
        return False
    request()
    return True


def asks(handler: Handler) -> Handler:
    """A handler of SIGTERM that calls accept(): listening() leaves it where it is."""
    _asking.add(handler)
    return handler


@contextlib.contextmanager
def listening() -> Generator[None]:
    """Inside the block SIGTERM is a request; a second one does what it did before. Outside the main thread: nothing."""
    _requested.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        accept()
        signal.signal(signal.SIGTERM, before)

    if before not in _asking:
        signal.signal(signal.SIGTERM, handle)
    _listening.set()
    try:
        yield
    finally:
        _listening.clear()
        signal.signal(signal.SIGTERM, before)

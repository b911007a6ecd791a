"""Who hears of SIGTERM while a training runs, and while none does."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vit.training import preemption


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    preemption._requested.clear()


def heard(into: list[str]) -> Callable[..., Any]:
    return lambda *_: into.append("ended")


def test_the_first_one_is_a_request_and_the_second_ends() -> None:
    ended: list[str] = []
    signal.signal(signal.SIGTERM, heard(ended))
    with preemption.listening():
        signal.raise_signal(signal.SIGTERM)
        assert preemption.is_requested(at_log=False) and not ended
        signal.raise_signal(signal.SIGTERM)
        assert ended == ["ended"]


def test_a_handler_that_asks_stays_where_it_is() -> None:
    ended: list[str] = []

    @preemption.asks
    def handler(*_: object) -> None:
        if not preemption.accept():
            ended.append("ended")

    signal.signal(signal.SIGTERM, handler)
    signal.raise_signal(signal.SIGTERM)
    assert ended == ["ended"], "nothing is training"
    with preemption.listening():
        assert signal.getsignal(signal.SIGTERM) is handler
        signal.raise_signal(signal.SIGTERM)
        assert preemption.is_requested(at_log=False) and ended == ["ended"]
        signal.raise_signal(signal.SIGTERM)
    assert ended == ["ended"] * 2 and signal.getsignal(signal.SIGTERM) is handler

"""Files are fetched ahead in the order of use, a bounded number of bytes."""

import time
from collections.abc import Callable

from flows.adapters.prefetch import Prefetcher
from vit.data.store import StoreUnavailable


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_prefetch_keeps_the_order_and_a_bound() -> None:
    fetched: list[str] = []
    prefetcher = Prefetcher(fetched.append, lambda name: 10, ahead=30, threads=1)
    prefetcher.request([*"abcdef", "a"])
    wait_for(lambda: fetched == [*"abc"])
    time.sleep(0.05)
    assert fetched == [*"abc"]
    prefetcher.used("a")
    wait_for(lambda: fetched == [*"abcd"])
    prefetcher.used("f")  # somebody was faster: not fetched any more
    for name in "bcd":
        prefetcher.used(name)
    wait_for(lambda: fetched == [*"abcde"])
    prefetcher.request(["x", "e"])
    wait_for(lambda: fetched == [*"abcdex"])


def test_prefetch_goes_on_after_an_error_and_allows_one_large_file() -> None:
    fetched: list[str] = []

    def fetch(name: str) -> None:
        fetched.append(name)
        raise StoreUnavailable("planned")

    prefetcher = Prefetcher(fetch, lambda name: 100, ahead=30, threads=2)
    prefetcher.request("ab")
    wait_for(lambda: len(fetched) == 1)
    prefetcher.used(fetched[0])
    wait_for(lambda: len(fetched) == 2)

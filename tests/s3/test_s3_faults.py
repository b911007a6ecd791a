"""Against Swift behind a proxy that spoils answers: every epoch is whole, or ends and names the object."""

import dataclasses
import signal
import time

import pytest

from flows.adapters.s3_store import S3Store
from tests.s3.proxy import FaultProxy, Plan
from tests.s3.stores import BAD_DAY, IMPATIENT, PAUSE, SHARD, Corpus, expected_ids, read_epoch
from vit.data.store import CorruptFile, StoreUnavailable

pytestmark = pytest.mark.slow  # a real server, and patience with its faults


@pytest.mark.parametrize("seed", range(4))
def test_an_epoch_on_a_bad_day_has_the_same_ids(store: S3Store, corpus: Corpus, proxy: FaultProxy, seed: int) -> None:
    proxy.plan = Plan(seed=seed, shares={kind: 1.5 * share for kind, share in BAD_DAY.items()}, pause=PAUSE)
    assert list(read_epoch(store, corpus, seed=seed)) == expected_ids(corpus, seed)
    assert len([request for request in proxy.gets() if request.fault]) >= 3


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_ranges_on_a_bad_day_have_the_same_ids(store: S3Store, corpus: Corpus, proxy: FaultProxy, seed: int) -> None:
    # Nothing but the reader's own SHA-256 can tell that one byte of a range is wrong: see Shards.read.
    proxy.plan = Plan(seed=seed, shares=BAD_DAY | {"corrupt": 0}, pause=PAUSE)
    ranges = dataclasses.replace(store, cache_bytes=0)
    assert list(read_epoch(ranges, corpus, seed=seed)) == expected_ids(corpus, seed)
    assert len([request for request in proxy.gets() if request.fault]) >= 10


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncate", "corrupt", "late", "stall", "drip", "slow"])
def test_every_fault_is_survived_once(store: S3Store, corpus: Corpus, proxy: FaultProxy, fault: str) -> None:
    class Once(Plan):
        def fault(self, method: str, path: str, count: int) -> str:
            return fault if method == "GET" and count == 1 else ""

    proxy.plan = Once(pause=2.5)
    start = time.monotonic()
    calm = dataclasses.replace(store, patience=dataclasses.replace(IMPATIENT, read_timeout=1.5))
    assert calm.local(SHARD, corpus.shards[SHARD]).read_bytes() == (corpus.directory / SHARD).read_bytes()
    asked = proxy.gets(SHARD)
    assert [request.fault for request in asked] == [fault, ""]
    # What broke off after a whole chunk, or ended, is continued; the rest is fetched anew.
    assert asked[1].range.startswith("bytes=") == (fault in ("truncate", "drip", "slow"))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("fault", ["500", "503", "reset", "late"])
def test_what_never_works_ends_soon_and_names_the_object(store: S3Store, proxy: FaultProxy, fault: str) -> None:
    proxy.plan = Plan(shares={fault: 1}, pause=PAUSE)
    patience = dataclasses.replace(IMPATIENT, attempts=4, read_timeout=0.2)
    for cache_bytes in (store.cache_bytes, 0):
        proxy.requests.clear()
        with pytest.raises(
            StoreUnavailable, match=rf"{store.uri}/{SHARD} could not be reached in \d attempts.*{proxy.url}"
        ):
            dataclasses.replace(store, patience=patience, cache_bytes=cache_bytes).read(SHARD, 10, 50)
        assert 4 <= len(proxy.gets()) <= 6
    assert list((store.cache / "files").iterdir()) == list((store.cache / "parts").iterdir()) == []


def test_what_always_arrives_wrong_is_never_served(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    proxy.plan = Plan(shares={"corrupt": 1})
    store.expect(corpus.shards)
    with pytest.raises(CorruptFile, match=rf"{store.uri}/{SHARD} has SHA-256 .* it was fetched 3 times"):
        store.read(SHARD, 0, 10)
    assert list((store.cache / "files").iterdir()) == []


def test_refused_in_the_middle_of_an_epoch(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    epoch = read_epoch(dataclasses.replace(store, cache_bytes=0), corpus)
    for _ in range(10):
        next(epoch)
    proxy.plan = Plan(shares={"403": 1})
    proxy.requests.clear()
    with pytest.raises(StoreUnavailable, match=rf"{store.uri}/train-\d+\.tar: .* 403 AccessDenied"):
        list(epoch)
    assert len(proxy.requests) == 1


def test_the_server_restarts_within_an_epoch(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    """Nobody answers for a while; the retries last longer."""
    patient = dataclasses.replace(
        store, cache_bytes=0, patience=dataclasses.replace(IMPATIENT, first_wait=0.5, longest_wait=0.5, attempts=30)
    )
    seen: list[str] = []
    for number, sample in enumerate(read_epoch(patient, corpus)):
        seen.append(sample)
        if number == 10:
            proxy.plan = Plan(shares={"503": 1})
            signal.signal(signal.SIGALRM, lambda *_: setattr(proxy, "plan", Plan()))
            signal.setitimer(signal.ITIMER_REAL, 1)
    assert seen == expected_ids(corpus)

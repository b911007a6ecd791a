"""A store in S3: its cache, its processes, and what it refuses."""

import dataclasses
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from flows.adapters.file_cache import CacheFull, FileCache, Wanted
from flows.adapters.s3_store import S3Store
from tests.s3.proxy import FaultProxy, Plan
from tests.s3.stores import SHARD, Corpus, bytes_on_disk, read_epoch
from vit.data.store import CorruptFile, LocalStore, StoreUnavailable


def test_each_shard_is_fetched_once_and_then_s3_may_be_away(
    store: S3Store, corpus: Corpus, proxy: FaultProxy, tmp_path: Path
) -> None:
    ids = list(read_epoch(store, corpus))
    assert len(proxy.gets()) == len(corpus.shards)
    proxy.requests.clear()
    proxy.plan = Plan(shares={"500": 1}, methods=("GET", "HEAD"))
    again = dataclasses.replace(store, cache_bytes=store.cache_bytes + 1)  # as another process would see the cache
    assert list(read_epoch(again, corpus)) == ids
    assert proxy.requests == []


def test_a_damaged_file_of_the_cache_is_never_served(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    store.expect(corpus.shards)
    for held in (True, False):
        path = store.local(SHARD)
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
        again = store if held else dataclasses.replace(store, cache_bytes=store.cache_bytes + 1)
        assert again.read(SHARD, 0, 100) == (corpus.directory / SHARD).read_bytes()[:100]
    assert len(proxy.gets(SHARD)) == 3


def test_an_object_that_was_replaced_is_noticed(store: S3Store, corpus: Corpus) -> None:
    old = store.local(SHARD).read_bytes()
    boto3.client("s3").put_object(Bucket=store.bucket, Key=f"a/b/{SHARD}", Body=b"new")
    assert store.read(SHARD, 0, 10) == old[:10], "a store of immutable files is asked once"
    fresh = dataclasses.replace(store, cache_bytes=store.cache_bytes + 1)
    assert fresh.read(SHARD, 0, 10) == b"new"
    with pytest.raises(CorruptFile, match=f"{corpus.shards[SHARD]} is expected"):
        fresh.local(SHARD, corpus.shards[SHARD])


def test_an_object_replaced_between_two_requests(store: S3Store) -> None:
    size = store.size(SHARD)
    boto3.client("s3").put_object(Bucket=store.bucket, Key=f"a/b/{SHARD}", Body=bytes(size))
    with pytest.raises(StoreUnavailable, match=rf"{SHARD}: .* 412 PreconditionFailed: the object was replaced while"):
        store.local(SHARD)
    assert store.local(SHARD).read_bytes() == bytes(size)


def test_a_cache_that_is_too_small_for_what_is_open(
    store: S3Store, corpus: Corpus, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    small = dataclasses.replace(store, cache_bytes=10)
    assert small.read(SHARD, 5, 100) == (corpus.directory / SHARD).read_bytes()[5:105]
    assert [request.range for request in proxy.gets(SHARD)] == ["bytes=5-104"]
    small.read(SHARD, 5, 100)
    assert caplog.text.count("parts are read over the network") == 1
    with pytest.raises(CacheFull, match=rf"s3://{store.bucket}/a/b/{SHARD} has .* raise the limit"):
        small.local(SHARD)


def test_a_process_lets_go_of_what_it_holds_to_make_room(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    first, second, third, _ = sorted(corpus.shards)
    small = dataclasses.replace(store, cache_bytes=2 * max(store.size(name) for name in corpus.shards))
    small.read(first, 0, 1)
    of_another_process = small.fetch(second)
    small.read(third, 0, 1)
    assert [request.range for request in proxy.gets(third)] == [""], "not in parts over the network"
    assert of_another_process.read() == (corpus.directory / second).read_bytes()


def test_a_process_keeps_little_from_being_evicted(store: S3Store, corpus: Corpus) -> None:
    sizes = {name: store.size(name) for name in corpus.shards}
    limit = sum(sizes.values())
    first = dataclasses.replace(store, cache_bytes=limit)
    for name in sizes:
        first.read(name, 0, 1)
    large = Wanted(source="of another process", sha256=None)
    room = limit - max(sizes.values())
    FileCache(store.cache, limit).get(large, lambda: room, lambda file: str(file.write(bytes(room))))
    assert first.read(SHARD, 0, 9) == (corpus.directory / SHARD).read_bytes()[:9]


def test_an_epoch_through_a_small_cache(store: S3Store, corpus: Corpus, tmp_path: Path) -> None:
    """Room for two of four shards: files come and go, the limit holds and nothing is served torn."""
    limit = 2 * max(path.stat().st_size for path in corpus.directory.iterdir())
    small = dataclasses.replace(store, cache=tmp_path / "small", cache_bytes=limit)
    for seed, ids in enumerate(list(read_epoch(LocalStore(corpus.directory), corpus, seed=seed)) for seed in range(3)):
        seen: list[str] = []
        for sample in read_epoch(small, corpus, seed=seed):
            seen.append(sample)
            assert bytes_on_disk(tmp_path / "small") <= limit
        assert seen == ids


def test_a_store_travels_to_other_processes(store: S3Store, corpus: Corpus, tmp_path: Path) -> None:
    store.expect(corpus.shards)
    store.read(SHARD, 0, 1)
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    expected = (corpus.directory / SHARD).read_bytes()[7:77]
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        children = [context.Process(target=_read_in_child, args=(store, answers)) for _ in range(2)]
        for child in children:
            child.start()
        assert [answers.get(timeout=30) for _ in children] == [expected] * 2
        for child in children:
            child.join(10)
            assert child.exitcode == 0


def _read_in_child(store: S3Store, answers: "multiprocessing.Queue[bytes]") -> None:
    store.read("train-00001.tar", 3, 4)
    answers.put(store.read(SHARD, 7, 70))


def test_pickling_keeps_what_files_must_be(store: S3Store) -> None:
    store.expect({SHARD: "0000"})
    data = pickle.dumps(store)
    child = multiprocessing.get_context("spawn").Process(target=_must_be_corrupt, args=(data,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def _must_be_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptFile):
        pickle.loads(data).read(SHARD, 0, 1)


def test_threads_share_a_store(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    expected = {sample: (corpus.directory / sample.shard).read_bytes() for sample in corpus.samples}
    small = dataclasses.replace(store, cache_bytes=60_000)
    with ThreadPoolExecutor(8) as pool:
        for sample, data in zip(
            corpus.samples * 5,
            pool.map(lambda s: small.read(s.shard, s.offset, s.length), corpus.samples * 5),
            strict=True,
        ):
            assert data == expected[sample][sample.offset : sample.offset + sample.length]


def test_nothing_is_left_of_a_process_without_cache(store: S3Store, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_local_without_cache, args=(store, tmp_path))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    where = Path((tmp_path / "where").read_text())
    assert where.name.endswith(SHARD)
    assert not where.parent.parent.exists()
    assert not store.cache.exists()


def _local_without_cache(store: S3Store, told: Path) -> None:
    path = dataclasses.replace(store, cache_bytes=0).local(SHARD)
    assert path.is_file()
    (told / "where").write_text(str(path))

"""Against a real S3 server (OpenStack Swift): what is asked of it, shards read from it, processes that share it."""

import dataclasses
import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flows.adapters import s3_objects, storage
from flows.adapters.s3_objects import Bucket
from flows.adapters.s3_requests import PATIENCE
from flows.adapters.s3_store import S3Store
from tests.s3.proxy import FaultProxy, Plan
from tests.s3.stores import (
    BAD_DAY,
    IMPATIENT,
    PAUSE,
    SHARD,
    Corpus,
    environment,
    expected_ids,
    read_epoch,
    s3_store,
)
from tests.s3.swift import PAGE, Server
from vit.data.shards import Shards, png_example, write

pytestmark = pytest.mark.slow  # a real server, and patience with its faults

FORK = multiprocessing.get_context("fork")


def test_what_the_adapter_asks_of_a_server(store: S3Store, corpus: Corpus) -> None:
    whole = (corpus.directory / SHARD).read_bytes()
    assert store.names() == sorted(corpus.shards)
    assert store.size(SHARD) == len(whole)
    for offset, length in ((0, None), (7, None), (7, 20), (len(whole) - 3, 9), (len(whole) + 3, 9)):
        end = None if length is None else offset + length
        assert dataclasses.replace(store, cache_bytes=0).read(SHARD, offset, length) == whole[offset:end]
    assert store.local(SHARD, corpus.shards[SHARD]).read_bytes() == whole
    with pytest.raises(FileNotFoundError, match=r"corpus/nothing\.tar does not exist at http://127"):
        store.size("nothing.tar")


def test_a_listing_of_several_pages(swift: Server, bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    client, names = swift.client(), [f"sub {number % 3}/ä+{number:03d}" for number in range(2 * PAGE + 10)]
    for name in names:
        client.put_object(Bucket=bucket, Key=f"many/{name}", Body=b"")
    proxy.requests.clear()
    proxy.plan = Plan(seed=2, shares={"500": 0.3})
    assert s3_store(f"s3://{bucket}/many", tmp_path).names() == sorted(names)
    assert len([request for request in proxy.gets() if not request.fault]) == 3
    assert Counter(request.fault for request in proxy.gets())["500"] > 0


@pytest.mark.slow
def test_a_file_in_parts(bucket: str, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "PART", 5 * 2**20)
    path = tmp_path / "large.bin"
    path.write_bytes(random.Random(0).randbytes(12 * 2**20))
    proxy.plan = Plan(seed=1, shares={"500": 0.5}, methods=("PUT", "POST"))
    Bucket(name=bucket, patience=IMPATIENT).upload(path, "large.bin")
    assert Counter(request.fault for request in proxy.requests if request.method == "PUT")["500"] > 0
    copy = s3_store(f"s3://{bucket}", tmp_path / "cache").local("large.bin")
    assert copy.read_bytes() == path.read_bytes()
    proxy.requests.clear()
    storage.put(path, f"s3://{bucket}/large.bin")
    assert {request.method for request in proxy.requests} == {"HEAD"}


def _read_epoch(store: S3Store, corpus: Corpus, seed: int, answers: "multiprocessing.Queue[list[str]]") -> None:
    answers.put(list(read_epoch(store, corpus, seed=seed)))


@pytest.mark.parametrize("shares", [{}, BAD_DAY], ids=["good day", "bad day"])
def test_processes_of_a_node_share_downloads(
    store: S3Store, corpus: Corpus, proxy: FaultProxy, shares: dict[str, float]
) -> None:
    proxy.plan = Plan(seed=5, shares=shares, pause=PAUSE)
    if not shares:
        store = dataclasses.replace(store, patience=PATIENCE)
    answers = FORK.Queue()
    children = [FORK.Process(target=_read_epoch, args=(store, corpus, 0, answers)) for _ in range(3)]
    for child in children:
        child.start()
    assert [answers.get(timeout=60) for _ in children] == [expected_ids(corpus)] * 3
    for child in children:
        child.join(10)
        assert child.exitcode == 0
    whole = Counter(request.path for request in proxy.gets() if request.fault in ("", "corrupt"))
    assert len(whole) == len(corpus.shards)
    if not shares:
        assert set(whole.values()) == {1}


def test_a_process_killed_while_fetching(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    """Whatever moment the kill hits, the next process gets whole files and the cache holds no others."""
    proxy.plan = Plan(shares={"slow": 1}, pause=0.3)
    slow = dataclasses.replace(store, patience=dataclasses.replace(IMPATIENT, slowest=1000))
    for moment in (0.05, 0.15, 0.3, 0.5):
        child = FORK.Process(target=_read_epoch, args=(slow, corpus, 0, FORK.Queue()))
        child.start()
        time.sleep(moment)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join(10)
    for path in (store.cache / "files").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == corpus.shards[path.name.partition("-")[2]]
    proxy.plan = Plan()
    assert list(read_epoch(store, corpus)) == expected_ids(corpus)
    assert list((store.cache / "parts").iterdir()) == []


def test_shards_in_s3_read_like_shards_on_disk(bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    source = np.random.Generator(np.random.PCG64(0))
    examples = [
        png_example(f"image{number}", "train", number % 3, source.integers(0, 256, (16, 16, 3), np.uint8))
        for number in range(40)
    ]
    write(tmp_path / "data", iter(examples), name="train", class_names=["a", "b", "c"], shard_bytes=8000)
    storage.put(tmp_path / "data", f"s3://{bucket}/data")
    proxy.plan = Plan(seed=1, shares=BAD_DAY, pause=PAUSE)
    local, remote = Shards(tmp_path / "data"), Shards(s3_store(f"s3://{bucket}/data", tmp_path / "cache"))
    order = source.permutation(len(local)).tolist()
    remote.prefetch(order)
    assert [remote.read(row) for row in order] == [local.read(row) for row in order]
    assert remote.keys == local.keys
    proxy.plan = Plan(seed=1, shares=BAD_DAY | {"corrupt": 0}, pause=PAUSE)
    ranges = Shards(s3_store(f"s3://{bucket}/data", tmp_path / "cache", cache_bytes=0))
    assert [ranges.read(row) for row in order] == [local.read(row) for row in order]


def test_nothing_but_the_server_is_talked_to(
    bucket: str, proxy: FaultProxy, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: set[str] = set()
    connect = socket.socket.connect

    def noting(self: socket.socket, address: tuple[str, int]) -> None:
        addresses.add(str(address[0]))
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noting)
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")  # an environment of its own, so a client of its own
    storage.put(corpus.directory, f"s3://{bucket}/watched")
    list(read_epoch(s3_store(f"s3://{bucket}/watched", tmp_path / "watched"), corpus))
    assert addresses == {"127.0.0.1"}
    assert len(proxy.gets()) == len(corpus.shards)


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_fetched(
    swift: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight files of 32 MB, four at a time: chunks in memory, files on the disk."""
    client = swift.client()
    for name, value in environment(swift.url, swift.access_key, swift.secret_key).items():
        monkeypatch.setenv(name, value)
    for number in range(8):
        client.put_object(Bucket=bucket, Key=f"large/f{number}", Body=random.Random(number).randbytes(32_000_000))
    large = s3_store(f"s3://{bucket}/large", tmp_path / "large", patience=PATIENCE)
    large.size("f0")
    code = (
        "import pickle, resource, sys, time\n"
        "store = pickle.load(sys.stdin.buffer)\n"
        "store.size('f0')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "names = store.names()\n"
        "store.prefetch(names)\n"
        "total = sum(len(store.read(name, 1, 100)) for name in names)\n"
        "print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(large), capture_output=True, check=True)
    total, grown = map(int, done.stdout.split())
    assert total == 800
    assert grown * 1024 < 32_000_000, f"{grown} kB"


@pytest.mark.slow
def test_the_server_ends_with_the_tests_even_if_they_are_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.s3.swift import running\n"
        "with running(Path(sys.argv[1])) as server: print(server.port, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "swift"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        port = int(tests.stdout.readline())
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        tests.kill()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.1)
    pytest.fail("Swift still listens")

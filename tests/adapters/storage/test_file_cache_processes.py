"""Threads and processes that share a cache: one fetches, the limit holds, and who is killed leaves nothing broken."""

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from flows.adapters import file_cache
from flows.adapters.file_cache import CacheFull, FileCache, Wanted
from tests.adapters.storage.cached import SIZE, data_of, files, get, sha256_of
from tests.s3.stores import bytes_on_disk
from vit.data.store import StoreUnavailable

FORK = multiprocessing.get_context("fork")


def test_threads_never_exceed_the_limit(cache: FileCache) -> None:
    most, wrong = [0], list[str]()

    def work(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(40):
            name = source.choice("abcdefgh")
            try:
                if get(cache, name).read() != data_of(name):
                    wrong.append(name)
            except CacheFull:
                pass
            most[0] = max(most[0], bytes_on_disk(cache.directory))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 2 * SIZE <= most[0] <= cache.limit


def _fetch_and_tell(directory: Path, told: Path) -> None:
    def write(file: BinaryIO) -> str:
        with told.open("a") as log:
            log.write("x")
        time.sleep(0.2)
        file.write(data_of("a"))
        return sha256_of("a")

    held = FileCache(directory, 10 * SIZE).get(Wanted(source="a", sha256=sha256_of("a")), lambda: SIZE, write)
    assert held.read() == data_of("a")


def test_of_many_processes_one_fetches(tmp_path: Path) -> None:
    told = tmp_path / "told"
    processes = [FORK.Process(target=_fetch_and_tell, args=(tmp_path / "cache", told)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert told.read_text() == "x"


def _write_half_and_wait(directory: Path, reached: Path) -> None:
    def write(file: BinaryIO) -> str:
        file.write(data_of("a")[: SIZE // 2])
        file.flush()
        reached.touch()
        time.sleep(60)
        return sha256_of("a")

    FileCache(directory, 2 * SIZE).get(Wanted(source="a", sha256=sha256_of("a")), lambda: SIZE, write)


@pytest.mark.parametrize("next_file", ["a", "b"])
def test_a_killed_writer_leaves_no_broken_entry(tmp_path: Path, next_file: str) -> None:
    cache, reached = FileCache(tmp_path / "cache", 2 * SIZE), tmp_path / "reached"
    process = FORK.Process(target=_write_half_and_wait, args=(cache.directory, reached))
    process.start()
    while not reached.exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert files(cache) == set()
    assert bytes_on_disk(cache.directory) == SIZE, "its part takes up room until it is needed"
    held = get(cache, next_file)
    assert held.read() == data_of(next_file)
    other = get(cache, "c")
    assert files(cache) == {next_file, "c"}
    assert bytes_on_disk(cache.directory) == 2 * SIZE
    del held, other


def test_a_child_forked_in_the_middle_keeps_no_lock(cache: FileCache) -> None:
    """A data loader forks workers while a background thread fetches; the workers live on."""
    writing, go_on = threading.Event(), threading.Event()

    def write(file: BinaryIO) -> str:
        writing.set()
        go_on.wait(10)
        file.write(data_of("a"))
        return sha256_of("a")

    fetch = threading.Thread(target=lambda: cache.get(Wanted(source="a", sha256=None), lambda: SIZE, write))
    fetch.start()
    writing.wait(10)
    held = get(cache, "b")
    child = FORK.Process(target=time.sleep, args=(30,))
    child.start()
    try:
        go_on.set()
        fetch.join(10)
        del held
        start = time.monotonic()
        cache.get(Wanted(source="a", sha256=None, version="new"), lambda: SIZE, write)
        for name in "cde":
            get(cache, name)
        assert files(cache) == {"c", "d", "e"}
        assert time.monotonic() - start < 2
    finally:
        child.kill()
        child.join()


def test_a_stopped_writer_is_named_after_a_while(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cache, "PATIENCE", 0.2)
    writing, go_on = threading.Event(), threading.Event()

    def write(file: BinaryIO) -> str:
        writing.set()
        go_on.wait(10)
        return ""

    thread = threading.Thread(target=lambda: cache.get(Wanted(source="a", sha256=None), lambda: SIZE, write))
    thread.start()
    writing.wait(10)
    with pytest.raises(StoreUnavailable, match=r"held the lock .* and written nothing of a; is it stopped"):
        cache.get(Wanted(source="a", sha256=None), lambda: SIZE, write)
    go_on.set()
    thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)

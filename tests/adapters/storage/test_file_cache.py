"""The cache of files that processes of a node share: whole, checked, limited, and never torn from a reader."""

import errno
import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from flows.adapters import file_cache
from flows.adapters.file_cache import CacheFull, FileCache, Held, Wanted
from tests.adapters.storage.cached import SIZE, data_of, files, get
from tests.s3.stores import bytes_on_disk
from vit.data.store import CorruptFile, StoreUnavailable

FORK = multiprocessing.get_context("fork")


def test_a_file_is_fetched_once(cache: FileCache) -> None:
    fetched: list[str] = []
    assert get(cache, "a", fetched=fetched).read(10, 20) == data_of("a")[10:30]
    again = get(FileCache(cache.directory, cache.limit), "a", fetched=fetched)
    assert again.path.read_bytes() == data_of("a")
    assert fetched == ["a"]


def flip(path: Path) -> None:
    times, content = path.stat(), bytearray(path.read_bytes())
    content[SIZE // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, SIZE // 2)


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(data_of("something else"))


@pytest.mark.parametrize("damage", [flip, cut, replace], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("held", [True, False], ids=["held", "not held"])
@pytest.mark.parametrize("with_stamp", [True, False], ids=["stamp", "no stamp"])
def test_a_damaged_file_is_fetched_again(
    cache: FileCache, damage: Callable[[Path], None], held: bool, with_stamp: bool
) -> None:
    fetched: list[str] = []
    first: Held | None = get(cache, "a", fetched=fetched)
    path = first.path
    path.chmod(0o644)
    damage(path)
    assert not first.is_untouched()
    if not held:
        first = None
    if not with_stamp:
        next((cache.directory / "stamps").iterdir()).unlink()
    assert get(cache, "a", fetched=fetched).read() == data_of("a")
    assert fetched == ["a", "a"]
    assert (first is not None) == held


@pytest.mark.parametrize("garbage", ["", "{", "null", "[]", '{"identity": 1}', "\0"])
def test_a_damaged_stamp_costs_a_hash_and_no_fetch(cache: FileCache, garbage: str) -> None:
    fetched: list[str] = []
    get(cache, "a", fetched=fetched)
    next((cache.directory / "stamps").iterdir()).write_text(garbage)
    assert get(cache, "a", fetched=fetched).read() == data_of("a")
    assert fetched == ["a"]


def test_hashed_once_for_all_processes_and_again_after_a_restart(
    cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(cache, "a")
    hashed: list[object] = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file) or original(file, name))
    get(cache, "a")
    assert not hashed
    monkeypatch.setattr(file_cache, "_boot", lambda: "another")
    get(cache, "a")
    get(cache, "a")
    assert len(hashed) == 1


def test_what_keeps_arriving_wrong_is_never_kept(cache: FileCache) -> None:
    fetched: list[str] = []
    with pytest.raises(CorruptFile, match=r"a has SHA-256 .* expected; it was fetched 3 times"):
        get(cache, "a", b"x" * SIZE, fetched)
    assert len(fetched) == 3
    assert bytes_on_disk(cache.directory) == 0
    assert get(cache, "a").read() == data_of("a")


def test_without_a_digest_another_version_is_fetched_anew(cache: FileCache) -> None:
    def ask(version: str, content: bytes) -> bytes:
        def write(file: BinaryIO) -> str:
            file.write(content)
            return hashlib.sha256(content).hexdigest()

        return cache.get(Wanted(source="a", sha256=None, version=version), lambda: len(content), write).read()

    assert ask("1", b"old") == b"old"
    assert ask("1", b"not asked for") == b"old"
    assert ask("2", b"newer") == b"newer"


def test_the_least_recently_used_goes_first(cache: FileCache) -> None:
    for name in ("a", "b", "c", "a", "d"):
        get(cache, name)
    assert files(cache) == {"a", "c", "d"}
    get(cache, "e")
    assert files(cache) == {"a", "d", "e"}
    assert bytes_on_disk(cache.directory) == cache.limit


def test_what_is_held_is_not_evicted(cache: FileCache) -> None:
    oldest = get(cache, "a")
    for name in "bcdefg":
        get(cache, name)
    assert files(cache) == {"a", "f", "g"}
    held = [oldest, get(cache, "f"), get(cache, "g")]
    with pytest.raises(CacheFull, match=r"b has 1000 bytes and does not fit .* 3000 bytes \(VITFLOW_CACHE_BYTES\)"):
        get(cache, "b")
    assert files(cache) == {"a", "f", "g"}
    assert oldest.read() == data_of("a")
    del held, oldest
    get(cache, "b")
    assert "b" in files(cache)


def test_larger_than_the_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheFull, match="raise the limit"):
        get(FileCache(tmp_path, SIZE - 1), "a")


def test_a_full_disk_is_a_sentence_and_leaves_nothing(cache: FileCache) -> None:
    def write(file: BinaryIO) -> str:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreUnavailable, match=r"the disk of the cache .* is full; free some space"):
        cache.get(Wanted(source="a", sha256=None), lambda: SIZE, write)
    assert bytes_on_disk(cache.directory) == 0


def test_the_disk_keeps_some_space(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cache, "HEADROOM", 1.0)
    with pytest.raises(CacheFull, match="100% of its size stay so"):
        get(cache, "a")


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"cannot be created .*; set VITFLOW_CACHE to"):
        FileCache(tmp_path / "file" / "cache", 1)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)

"""Local paths and s3:// are interchangeable; what S3 refuses is a sentence. (moto, with a proxy that counts.)"""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from flows.adapters import storage
from flows.adapters.s3_store import S3Store
from tests.s3.stores import SHARD, Corpus, read_epoch
from vit.data.store import CorruptFile, LocalStore, Store, as_store


def test_every_store_gives_the_same(any_store: Store, corpus: Corpus) -> None:
    whole = (corpus.directory / SHARD).read_bytes()
    assert any_store.names() == ["deeper/file.txt", *sorted(corpus.shards)]
    assert any_store.names(".tar") == sorted(corpus.shards)
    assert (any_store.size(SHARD), any_store.size("deeper/file.txt")) == (len(whole), 0)
    assert any_store.read(SHARD) == whole
    assert any_store.read(SHARD, 100) == whole[100:]
    assert any_store.read(SHARD, 100, 50) == whole[100:150]
    assert any_store.read(SHARD, 100, 0) == b""
    assert any_store.read(SHARD, len(whole) - 5, 50) == whole[-5:]
    assert any_store.read(SHARD, len(whole) + 5, 50) == b""
    assert any_store.read("deeper/file.txt") == any_store.read("deeper/file.txt", 0, 7) == b""
    assert any_store.local(SHARD).read_bytes() == whole
    assert any_store.local(SHARD, corpus.shards[SHARD]).read_bytes() == whole
    assert any_store.local("deeper/file.txt").read_bytes() == b""
    assert list(read_epoch(any_store, corpus)) == list(read_epoch(LocalStore(corpus.directory), corpus))


def test_every_store_names_what_is_missing(any_store: Store) -> None:
    for ask in (any_store.size, any_store.read, any_store.local, lambda name: any_store.read(name, 1, 2)):
        with pytest.raises(FileNotFoundError, match=r"/nothing\.tar"):
            ask("nothing.tar")


def test_every_store_keeps_to_its_directory(any_store: Store) -> None:
    for name in ("../bystander", "/etc/passwd", "", "a/../../b", "a\0b"):
        for ask in (any_store.size, any_store.read, any_store.local):
            with pytest.raises(ValueError, match="is no name of a file inside a store"):
                ask(name)


def test_every_store_refuses_what_has_another_digest(any_store: Store, corpus: Corpus) -> None:
    with pytest.raises(CorruptFile, match=rf"{SHARD} has SHA-256 {corpus.shards[SHARD]}, but 0000 (was|is) expected"):
        any_store.local(SHARD, "0000")
    assert any_store.local(SHARD, corpus.shards[SHARD]).is_file()


def test_a_directory_that_is_not_there(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is no directory"):
        LocalStore(tmp_path / "nowhere").names()
    with pytest.raises(FileNotFoundError, match=r"s3://.*/nowhere holds no objects; check"):
        dataclasses.replace(store, prefix="nowhere").names()


def test_a_local_digest_is_computed_once_until_the_file_changes(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hashed = LocalStore(corpus.directory), list[object]()
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file) or original(file, name))
    for _ in range(3):
        store.local(SHARD, corpus.shards[SHARD])
    assert len(hashed) == 1
    with (corpus.directory / SHARD).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptFile):
        store.local(SHARD, corpus.shards[SHARD])


def test_links_to_class_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.jpg").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "real")
    assert as_store(tmp_path / "images").names() == ["cat/1.jpg"]


# addresses and the environment


def test_open_takes_paths_and_addresses(tmp_path: Path) -> None:
    assert storage.open(tmp_path) == storage.open(str(tmp_path)) == storage.open(f"file://{tmp_path}")
    assert storage.open(tmp_path).uri == str(tmp_path)
    for address in ("s3://some-bucket/a/b/", Path("s3://some-bucket/a/b")):  # a Path merges slashes
        assert storage.open(address, cache=tmp_path).uri == "s3://some-bucket/a/b"
    assert storage.open("s3://some-bucket", cache=tmp_path).uri == "s3://some-bucket"
    there = storage.open(tmp_path)
    assert storage.open(there) is there
    assert as_store(there) is there


@pytest.mark.parametrize("address", ["s3://", "s3:///prefix", "gs://bucket/prefix", "https://host/file"])
def test_addresses_without_sense(address: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        storage.open(address)
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        storage.put(Path(__file__), address)


def test_an_address_as_a_path_is_not_taken_for_local() -> None:
    with pytest.raises(ValueError, match=r"flows\.adapters\.storage\.open"):
        as_store(Path("s3://bucket/prefix"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 64 * 10**9), ("0", 0), ("123", 123), ("200G", 200 * 10**9), ("1.5 tb", 15 * 10**11), ("7kB", 7000)],
)
def test_the_limit_of_the_cache(text: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITFLOW_CACHE_BYTES", text)
    monkeypatch.setenv("VITFLOW_CACHE", str(tmp_path))
    store = storage.open("s3://some-bucket")
    assert isinstance(store, S3Store)
    assert (store.cache_bytes, store.cache) == (expected, tmp_path)
    assert storage.open("s3://some-bucket", cache_bytes=5) == dataclasses.replace(store, cache_bytes=5)


@pytest.mark.parametrize("text", ["many", "-1", "1e9", "5 PB"])
def test_a_limit_without_sense(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_CACHE_BYTES", text)
    with pytest.raises(ValueError, match=r"VITFLOW_CACHE_BYTES is .* no number of bytes; write e\.g\. 200G"):
        storage.open("s3://some-bucket")


# the cache in front of S3


# what S3 refuses


# put


def test_local_paths_need_no_boto3(tmp_path: Path) -> None:
    code = "import sys; from flows.adapters import storage; storage.open(sys.argv[1]); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""What is known of a source lies on disk: memory does not grow with it, and readers come back as they were."""

import functools
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.vit.data.pictures import png
from vit.data import index, staging
from vit.data.datasets.archives import Member, plain
from vit.data.readers import Readers
from vit.data.record import Record, Source, refused
from vit.data.store import LocalStore
from vit.data.writing import write_source

CLASSES = tuple(f"class {label}" for label in range(10))


def draw(number: int) -> bytes:
    return png(number % 5) + number.to_bytes(4, "big")  # what follows a PNG's end is ignored


def records(count: int) -> Iterator[Record]:
    for number in range(count):
        read = functools.partial(draw, number)
        yield Record(key=f"n/{number}.png", split="", labels=(number * 10 // count,), read=read, ext="png")


def peak(directory: Path, count: int) -> int:
    """Bytes that Python held at most while `count` images were written into shards of some hundred each."""
    source = Source(name="toy", family="user", class_names=CLASSES, records=records(count))
    tracemalloc.start()
    write_source(directory, source, name="toy", shard_bytes=500_000, max_reject_share=0, val_fraction=0.1)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used


def test_memory_does_not_grow_with_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "ROWS", 256)
    monkeypatch.setattr(index, "DIGESTED", 256)
    peak(tmp_path / "warm", 300)
    few, many = peak(tmp_path / "few", 1_000), peak(tmp_path / "many", 4_000)
    assert many - few < 300_000, f"{(many - few) / 3000:.0f} bytes for each image"
    assert not list(tmp_path.glob(".staging-*"))


@pytest.fixture
def member(tmp_path: Path) -> Member:
    (tmp_path / "a.png").write_bytes(png(3))
    return plain(tmp_path / "a.png")


def test_readers_of_every_kind_come_back(tmp_path: Path, member: Member) -> None:
    readers, table = Readers(), np.arange(1000, dtype=np.int64)
    store, local = LocalStore(tmp_path), [png(1)]
    for read in (
        functools.partial(store.read, "a.png"),
        functools.partial(Path.read_bytes, tmp_path / "a.png"),
        member.read,
        functools.partial(draw, 7),
        table.tobytes,
        lambda: local[0],
        refused("x", "is bad").read,
    ):
        packed = readers.pack(read)
        again = readers.unpack(packed)
        assert len(packed) < 500, "what is large or shared is no part of it"
        if read == refused("x", "is bad").read or "Refusal" in repr(read):
            with pytest.raises(ValueError, match="is bad"):
                again()
        else:
            assert again() == read()
    assert pickle.loads(pickle.dumps(readers.unpack(readers.pack(member.read))))() == png(3), "Ray can have it"


def test_names_that_are_no_unicode_are_kept(tmp_path: Path) -> None:
    key = b"\xff\xfe name.png".decode(errors="surrogateescape")
    with staging.staging(tmp_path) as staged:
        record = Record(key=key, split="train", labels=(0,), read=functools.partial(png, 1), ext="\udcff", place=None)
        staged.add([(record, staging.Named("key", b"0", ""))])
        (found,) = staged.records()
        assert (found.key, found.ext, found.read()) == (key, "\udcff", png(1))

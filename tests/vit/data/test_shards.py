"""The format on disk: what is written comes back, the same input gives the same bytes, damage is named."""

import dataclasses
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit.data import index, shards
from vit.data.shards import BadShard, Example, Shards, UnreadableImage
from vit.data.store import LocalStore
from vit.data.synthetic.draw import integers

CLASSES = ["cat", "dog"]


def example(number: int, key: str | None = None, label: int | None = None) -> Example:
    pixels = integers("pixels", number, np.arange(8 * 6 * 3), count=256).astype(np.uint8).reshape(8, 6, 3)
    split = "val" if number % 4 == 3 else "train"
    return shards.png_example(key or f"image-{number}", split, number % 2 if label is None else label, pixels)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ten images in several shards."""
    shards.write(tmp_path / "corpus", map(example, range(10)), name="corpus", class_names=CLASSES, shard_bytes=4096)
    return tmp_path / "corpus"


def test_every_image_comes_back(corpus: Path) -> None:
    read = Shards(corpus)
    assert len(list(corpus.glob("*.tar"))) > 1
    assert read.keys == [f"image-{number}" for number in range(10)]
    assert read.labels.tolist() == [number % 2 for number in range(10)]
    for row in range(10):
        assert read.read(row) == example(row).image
        assert read.image(row).size == (6, 8)
    assert Shards(corpus, splits=("val",)).keys == ["image-3", "image-7"]


def test_the_offsets_are_those_of_plain_tar(corpus: Path) -> None:
    read = Shards(corpus)
    for row, name in enumerate(read.table["shard"].to_pylist()):
        with tarfile.open(corpus / name) as tar:
            image, label = tar.getmember(f"image-{row}.png"), tar.extractfile(f"image-{row}.cls")
            assert image.offset_data == read.table["offset"][row].as_py()
            assert label is not None and int(label.read()) == row % 2


def test_the_same_examples_give_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shards.write(again, map(example, range(10)), name="corpus", class_names=CLASSES, shard_bytes=4096)
    written = {path.name: path.read_bytes() for path in corpus.iterdir()}
    assert written == {path.name: path.read_bytes() for path in again.iterdir()}


def test_a_pickled_reader_still_reads(corpus: Path) -> None:
    read = Shards(corpus)
    read.read(0)
    assert pickle.loads(pickle.dumps(read)).read(9) == example(9).image


@pytest.mark.parametrize(
    ("examples", "sentence"),
    [
        ([example(0), example(0)], "key image-0 appears more than once"),
        ([example(0, key="a.b")], "'a.b' must not contain dots"),
        ([example(0, key="a/b")], "'a/b' must not contain dots or slashes"),
        ([example(0, label=2)], "label 2, but there are 2 class names"),
    ],
)
def test_bad_examples_are_refused(tmp_path: Path, examples: list[Example], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        shards.write(tmp_path, examples, name="corpus", class_names=CLASSES)


def test_a_truncated_shard_is_named(corpus: Path) -> None:
    shard = corpus / "corpus-00000.tar"
    open_before = Shards(corpus)
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(
        BadShard, match=r"corpus-00000\.tar has 600 bytes, but manifest\.json says \d+: it is truncated"
    ):
        Shards(corpus)
    with pytest.raises(BadShard, match=r"corpus-00000\.tar ends before image image-0"):
        open_before.read(0)


def test_a_missing_shard_or_manifest_is_named(corpus: Path) -> None:
    (corpus / "corpus-00001.tar").unlink()
    with pytest.raises(BadShard, match=r"corpus-00001\.tar is missing"):
        Shards(corpus)
    (corpus / shards.MANIFEST).unlink()
    with pytest.raises(BadShard, match=r"manifest\.json is missing"):
        Shards(corpus)


def test_every_damage_is_an_unreadable_image_with_a_repeatable_reason() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (10, 200, 30)).save(buffer, "JPEG")
    sources = [example(0).image, buffer.getvalue()]
    reasons: list[str] = []
    for trial in range(300):
        data = bytearray(sources[trial % 2])
        for place in integers("damage", trial, np.arange(6), count=len(data)).tolist():
            data[place] ^= 0xFF
        for _ in range(2):
            try:
                reasons.append(f"{shards.decode(bytes(data)).size}")
            except UnreadableImage as error:
                reasons.append(str(error))
    assert reasons[::2] == reasons[1::2]
    assert any("no known image format" in reason for reason in reasons)


def test_all_columns_come_with_the_index(corpus: Path) -> None:
    read = Shards(corpus)
    assert read.table.schema.equals(index.COLUMNS)
    assert read.label_sets == [(number % 2,) for number in range(10)] and not read.multi_label
    assert read.shard_sizes.sum() == 10 and len(read.shard_sizes) == len(read.shard_names)
    runs = np.repeat(np.arange(len(read.shard_sizes)), read.shard_sizes)
    assert [read.shard_names[run] for run in runs] == [read.shard_of(row) for row in range(10)]


def test_damaged_bytes_are_found_on_demand(corpus: Path) -> None:
    shard = corpus / "corpus-00000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    assert Shards(corpus).read(0) != example(0).image
    with pytest.raises(BadShard, match=r"corpus-00000\.tar: image image-0 is damaged"):
        Shards(corpus).read(0, verify=True)


def test_a_damaged_index_or_manifest_is_named_before_it_is_believed(corpus: Path) -> None:
    data = (corpus / "index.parquet").read_bytes()
    (corpus / "index.parquet").write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(BadShard, match=r"index\.parquet is not the index that manifest\.json describes"):
        Shards(corpus)
    (corpus / "index.parquet").unlink()
    with pytest.raises(BadShard, match=r"index\.parquet is missing"):
        Shards(corpus)
    for text, sentence in (("{", "is damaged"), ("[]", "is damaged"), ('{"schema_version": 1}', "schema version 1, t")):
        (corpus / "manifest.json").write_text(text)
        with pytest.raises(BadShard, match=sentence):
            Shards(corpus)


def test_the_digest_names_the_contents_however_they_are_cut(corpus: Path, tmp_path: Path) -> None:
    def digest(*examples: Example, names: list[str] = CLASSES, size: int = 10**9) -> str:
        shards.write(tmp_path / "x", examples, name="corpus", class_names=names, shard_bytes=size)
        return Shards(tmp_path / "x").digest

    ten = [example(number) for number in range(10)]
    assert digest(*ten) == digest(*ten, size=1) == Shards(corpus).digest
    others = [
        digest(*ten[:9]),
        digest(*reversed(ten)),
        digest(*ten, names=["cat", "cow"]),
        digest(dataclasses.replace(ten[0], labels=(1,)), *ten[1:]),
        digest(dataclasses.replace(ten[0], split="val"), *ten[1:]),
        digest(dataclasses.replace(ten[0], image=b"x"), *ten[1:]),
    ]
    assert len({*others, Shards(corpus).digest}) == 7


def test_a_reference_stands_for_shards_elsewhere(corpus: Path, tmp_path: Path) -> None:
    index.refer_to(tmp_path / "here", LocalStore(corpus), str(corpus))
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["index.parquet", "manifest.json"]
    here = Shards(tmp_path / "here")
    assert [here.read(row) for row in range(10)] == [example(row).image for row in range(10)]
    assert here.digest == Shards(corpus).digest and here.store.uri == str(corpus)
    (corpus / "corpus-00001.tar").write_bytes(b"")
    with pytest.raises(BadShard, match=r"corpus-00001\.tar has 0 bytes, but manifest\.json says"):
        index.refer_to(tmp_path / "there", LocalStore(corpus), str(corpus))


@dataclasses.dataclass(frozen=True)
class Remote(LocalStore):
    """A store that is not on this machine, and what it was asked."""

    asked: list[Any] = dataclasses.field(default_factory=list)

    def expect(self, digests: Mapping[str, str]) -> None:
        self.asked.append(dict(digests))

    def prefetch(self, names: Sequence[str]) -> None:
        self.asked.extend(names)


def test_remote_bytes_are_compared_with_index_and_manifest(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LocalStore", type(None))  # all stores are remote
    remote = Remote(corpus)
    read = Shards(remote)
    assert remote.asked == [{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in corpus.glob("*.tar")}]
    assert read.read(0) == example(0).image
    data = bytearray((corpus / "corpus-00000.tar").read_bytes())
    data[600] ^= 1
    (corpus / "corpus-00000.tar").write_bytes(data)
    with pytest.raises(BadShard, match=r"corpus-00000\.tar: image image-0 is damaged .* empty the cache"):
        read.read(0)


def test_prefetch_names_shards_in_the_order_of_use(corpus: Path) -> None:
    remote = Remote(corpus)
    Shards(remote).prefetch([9, 0, 1, 8])
    assert remote.asked[1:] == [f"corpus-{number:05d}.tar" for number in (4, 0)]


def test_a_location_that_only_others_can_open(corpus: Path, tmp_path: Path) -> None:
    index.refer_to(tmp_path / "here", LocalStore(corpus), "s3://bucket/corpus")
    with pytest.raises(BadShard, match=r"lie at s3://bucket/corpus: pass open_store"):
        Shards(tmp_path / "here")
    opened = Shards(tmp_path / "here", open_store=lambda uri: LocalStore(corpus))
    assert opened.read(3) == example(3).image
    assert pickle.loads(pickle.dumps(opened)).read(3) == example(3).image


def test_webdataset_reads_our_shards(corpus: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(map(str, corpus.glob("*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls"))
    ours = Shards(corpus)
    assert [key for key, _, _ in samples] == ours.keys and [label for _, _, label in samples] == ours.labels.tolist()
    for row, (_, image, _) in enumerate(samples):
        assert (np.asarray(image.convert("RGB")) == np.asarray(ours.image(row))).all()


@pytest.mark.slow
def test_ray_reads_our_shards(corpus: Path, tmp_path: Path) -> None:
    code = f"""
import glob, pathlib, numpy as np, ray
from vit.data.shards import Shards
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
rows = ray.data.read_webdataset(sorted(glob.glob({str(corpus / "*.tar")!r}))).take_all()
ours = Shards(pathlib.Path({str(corpus)!r}))
assert [row["__key__"] for row in rows] == ours.keys
assert [row["cls"] for row in rows] == ours.labels.tolist()
assert all((row["png"] == np.asarray(ours.image(i))).all() for i, row in enumerate(rows))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=tmp_path, env=environment)

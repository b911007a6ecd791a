"""The format on disk: what is written comes back, the same input gives the same bytes, damage is named."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit.data import shards
from vit.data.shards import BadShard, Example, Shards, UnreadableImage
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
        ([example(0), example(0)], "appear more than once, first image-0"),
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
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(BadShard, match=r"corpus-00000\.tar ends before image image-0"):
        Shards(corpus).read(0)


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

"""From a Source to shards: the same bytes however it is mapped, splits and order by rule, copies and references."""

import dataclasses
import functools
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.vit.data.pictures import pack, pixels, png, webp
from vit.data.checking import CHUNK, shard_key
from vit.data.pictures import encode_png
from vit.data.record import Record, Source
from vit.data.shards import BadShard, Shards
from vit.data.sources.webdataset import webdataset
from vit.data.writing import Map, refer, serial, threads, write_source

CLASSES = ("ant", "bee", "cat", "dog")


def draw(number: int) -> bytes:
    return encode_png(pixels(number, 12, 10))


def toy(count: int, *, split: str = "", sort: bool = True) -> Source:
    """Every eleventh image is broken; sorted by class unless asked otherwise."""
    records = [
        Record(
            key=f"{CLASSES[number * 4 // count]}/{number}.png",
            split=split,
            labels=(number * 4 // count if sort else number % 4,),
            read=functools.partial(draw, number) if number % 11 else functools.partial(bytes, 3),
            ext="png",
        )
        for number in range(1, count)
    ]
    return Source(name="toy", family="user", class_names=CLASSES, records=iter(records))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def backwards(function, items, /):  # type: ignore[no-untyped-def]
    """Computes the last first, as a cluster may."""
    results = [function(item) for item in reversed(list(items))]
    return reversed(results)


write_small = functools.partial(write_source, name="toy", shard_bytes=40_000, max_reject_share=0.1, val_fraction=0.2)


def test_the_bytes_are_the_same_however_the_work_is_mapped(tmp_path: Path) -> None:
    maps: dict[str, Map] = {"serial": serial, "threads": threads, "backwards": backwards}
    reports = {name: write_small(tmp_path / name, toy(3 * CHUNK), map=each) for name, each in maps.items()}
    assert reports["serial"] == reports["threads"] == reports["backwards"]
    written = files(tmp_path / "serial")
    assert len(written) > 5
    assert written == files(tmp_path / "threads") == files(tmp_path / "backwards")


def test_large_sorted_sources_are_shuffled_and_shards_hold_one_split(tmp_path: Path) -> None:
    report = write_small(tmp_path, toy(400))
    shards = Shards(tmp_path)
    assert (report.num_images, report.num_rejects) == (363, 36) and report.splits == {"train": 291, "val": 72}
    splits = np.array(shards.table["split"].to_pylist())
    for number, name in enumerate(shards.shard_names):
        here = shards.shard_numbers == number
        assert len(set(splits[here])) == 1
        assert (tmp_path / name).stat().st_size < 60_000
        assert len(set(shards.labels[here].tolist())) >= 3  # a fair sample of the four classes
    assert shards.shard_sizes.sum() == 363 and len(shards.shard_sizes) == len(shards.shard_names) > 3
    keys = dict(zip(shards.keys, range(len(shards)), strict=True))
    for number in (1, 57, 399):
        row = keys[shard_key(f"{CLASSES[number * 4 // 400]}/{number}.png")]
        assert shards.read(row, verify=True) == draw(number) and shards.labels[row] == number * 4 // 400


def test_a_source_that_is_mixed_or_small_keeps_its_order(tmp_path: Path) -> None:
    write_small(tmp_path / "mixed", toy(400, split="train", sort=False))
    numbers = [int(key.partition("/")[2][:-4]) for key in Shards(tmp_path / "mixed").table["source_key"].to_pylist()]
    assert numbers == sorted(numbers) and len(Shards(tmp_path / "mixed").shard_names) > 3
    write_source(tmp_path / "small", toy(40), name="toy", max_reject_share=0.2, val_fraction=0.2)
    small = Shards(tmp_path / "small")
    assert small.labels.tolist() == sorted(small.labels.tolist()) and small.shard_names == ["toy-00000.tar"]
    kept = dataclasses.replace(toy(400, split="train"), keep_order=True)
    write_small(tmp_path / "kept", kept)
    assert Shards(tmp_path / "kept").labels.tolist() == sorted(Shards(tmp_path / "kept").labels.tolist())


def test_multi_label_images_come_back(tmp_path: Path) -> None:
    labels = [(0,), (1, 3), (), (2, 0, 1)]
    records = [
        Record(key=f"image-{n}", split="train", labels=each, read=functools.partial(png, n), ext="png")
        for n, each in enumerate(labels)
    ]
    source = Source(name="many", family="user", class_names=CLASSES, records=records, multi_label=True)
    write_source(tmp_path, source, name="many", max_reject_share=0, val_fraction=0.5)
    shards = Shards(tmp_path)
    assert shards.multi_label and shards.label_sets == labels and shards.labels.tolist() == [0, 1, -1, 2]
    with tarfile.open(tmp_path / "many-00000.tar") as tar:
        assert tar.getnames() == [
            *("image-0.png", "image-0.cls", "image-1.png", "image-1.cls", "image-1.json"),
            *("image-2.png", "image-3.png", "image-3.cls", "image-3.json"),
        ]
        content = tar.extractfile("image-3.json")
        assert content is not None and json.load(content) == {"labels": [2, 0, 1]}
    again = webdataset(tmp_path)
    assert [record.labels for record in again.records] == labels and again.multi_label
    assert [record.split for record in again.records] == ["train"] * 4


def test_copies_of_a_training_image_are_not_in_val(tmp_path: Path) -> None:
    """Whatever the cut says: every image is there three times, under other names."""
    records = [
        Record(key=f"{n}-{copy}", split="", labels=(n % 2,), read=functools.partial(png, n), ext="png")
        for n in range(20)
        for copy in range(3)
    ]
    source = Source(name="copies", family="user", class_names=CLASSES[:2], records=records)
    write_source(tmp_path, source, name="copies", max_reject_share=0, val_fraction=0.7)
    table = Shards(tmp_path).table.to_pandas()
    assert (table.groupby("sha256")["split"].nunique() == 1).all()
    assert table["split"].value_counts().to_dict() == {"val": 3 * 14, "train": 3 * 6}, "copies go together"


def test_keys_are_kept_or_made_usable() -> None:
    assert shard_key("s0000017") == "s0000017"
    made = [shard_key(key) for key in ("a/b.jpg", "a-b", "a/b.png", "ä/b.jpg", "x" * 200, ".jpg")]
    assert made[0].startswith("a-b-") and len(set(made)) == 6
    assert all(len(key) <= 80 and "." not in key and "/" not in key for key in made)


def test_an_image_that_changes_between_the_passes_stops_the_writer(tmp_path: Path) -> None:
    versions = iter([png(1), png(2)])
    record = Record(key="moving", split="train", labels=(0,), read=lambda: next(versions), ext="png")
    source = Source(name="toy", family="user", class_names=("a",), records=[record])
    with pytest.raises(ValueError, match="image moving changed while it was prepared"):
        write_source(tmp_path, source, name="toy", max_reject_share=0, val_fraction=0.5)


def test_sources_without_val_are_cut_and_those_with_it_are_not(tmp_path: Path) -> None:
    def splits(*names: str) -> list[str]:
        records = [
            Record(key=str(n), split=name, labels=(0,), read=functools.partial(png, n), ext="png")
            for n, name in enumerate(names)
        ]
        source = Source(name="toy", family="user", class_names=("a",), records=records)
        write_source(tmp_path, source, name="toy", max_reject_share=0, val_fraction=0.5, needs_val=True)
        return Shards(tmp_path).table["split"].to_pylist()

    assert sorted(splits("train", "test", "train")) == ["test", "train", "val"]
    assert splits("train", "test", "train")[1] == "test"
    assert splits("train", "val", "test") == ["train", "val", "test"]


def test_shards_of_others_are_referred_to_where_they_lie(tmp_path: Path) -> None:
    for shard, start in (("train/0.tar", 0), ("train/1.tar", 5)):
        samples = [(f"s{n:07d}.cls", str(n % 2).encode(), f"s{n:07d}.webp", webp(n)) for n in range(start, start + 5)]
        pack(tmp_path / "theirs" / shard, {name: data for a, b, c, d in samples for name, data in ((a, b), (c, d))})
    place = tmp_path / "theirs"
    rules = {"max_reject_share": 0, "val_fraction": 0.3, "needs_val": True}
    report = refer(tmp_path / "ours", webdataset(place), str(place), **rules)
    assert report.splits == {"train": 6, "val": 4}
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        *("index.parquet", "manifest.json", "rejects.parquet"),
    ]
    shards = Shards(tmp_path / "ours")
    assert [shards.read(row, verify=True) for row in range(10)] == [webp(number) for number in range(10)]
    assert shards.shard_names == ["train/0.tar", "train/1.tar"] and shards.keys[3] == "s0000003"
    (place / "train" / "1.tar").unlink()
    with pytest.raises(BadShard, match=r"theirs/train/1\.tar is missing"):
        Shards(tmp_path / "ours")


def test_the_index_of_a_source_says_where_it_came_from(tmp_path: Path) -> None:
    write_source(tmp_path, toy(30), name="toy", max_reject_share=0.1, val_fraction=0.2)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["source"], manifest["family"], manifest["num_images"]) == ("toy", "user", 27)
    assert manifest["shards"].keys() == {"toy-00000.tar"} and manifest["location"] is None
    assert pq.read_table(tmp_path / "index.parquet")["source_key"].to_pylist()[:2] == ["ant/1.png", "ant/2.png"]

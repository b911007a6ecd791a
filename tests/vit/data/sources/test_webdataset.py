"""Other people's webdataset shards: by its library, in CLIP_benchmark's layout, by us; and damaged."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vit.data.pictures import jpeg, pack, pixels, png, webp
from vit.data.checking import check_as_found, serial
from vit.data.shards import BadShard, Shards, png_example, write
from vit.data.sources.webdataset import webdataset
from vit.data.store import LocalStore
from vit.data.writing import write_source


def rejects(place: Path) -> list[tuple[str, str]]:
    checked = check_as_found(webdataset(place), map=serial)
    return [(row["key"], row["reason"]) for row in checked.rejects.to_pylist()]


def test_shards_of_the_webdataset_library(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    with library.ShardWriter(f"{tmp_path}/imagenet-train-%06d.tar", maxcount=4, verbose=0) as sink:
        for number in range(10):
            image = Image.fromarray(pixels(number))
            sink.write({"__key__": f"n0144/im{number:04d}", "png": image, "cls": number % 3, "json": {"id": number}})
    source = webdataset(LocalStore(tmp_path))
    records = list(source.records)
    assert source.class_names == ("0", "1", "2") and not source.multi_label
    assert [(r.key, r.split, r.labels, r.ext) for r in records] == [
        (f"n0144/im{number:04d}", "train", (number % 3,), "png") for number in range(10)
    ]
    for number, record in enumerate(records):
        assert (np.asarray(Image.open(io.BytesIO(record.read()))) == pixels(number)).all()
        assert record.place is not None and record.place[0] == f"imagenet-train-{number // 4:06d}.tar"


def test_the_layout_of_clip_benchmark(tmp_path: Path) -> None:
    """Keys repeat in every split, shards are not padded, class names lie beside them."""
    for split, labels in (("train", (0, 1, 2)), ("test", (2, 0))):
        members = {
            f"s{n:07d}.{ext}": data
            for n, label in enumerate(labels)
            for ext, data in (("webp", webp(n)), ("cls", str(label).encode()))
        }
        pack(tmp_path / split / "0.tar", members)
        (tmp_path / split / "nshards.txt").write_text("1")
    (tmp_path / "classnames.txt").write_text("ant\nbee\ncat\n")
    source = webdataset(tmp_path)
    assert source.class_names == ("ant", "bee", "cat")
    assert [(r.key, r.split, r.labels) for r in source.records] == [
        ("test/0/s0000000", "test", (2,)),
        ("test/0/s0000001", "test", (0,)),
        ("train/0/s0000000", "train", (0,)),
        ("train/0/s0000001", "train", (1,)),
        ("train/0/s0000002", "train", (2,)),
    ]


def test_our_own_shards_come_back_with_names_and_splits(tmp_path: Path) -> None:
    members = {
        f"x{n}.{ext}": data for n in range(6) for ext, data in (("png", png(n)), ("txt", b"dog" if n % 2 else b"cat"))
    }
    pack(tmp_path / "theirs" / "0.tar", members)
    write_source(tmp_path / "a", webdataset(tmp_path / "theirs"), name="a", max_reject_share=0, val_fraction=0.4)
    write_source(tmp_path / "b", webdataset(tmp_path / "a"), name="a", max_reject_share=0, val_fraction=0.9)
    first, second = Shards(tmp_path / "a"), Shards(tmp_path / "b")
    assert first.class_names == ["cat", "dog"] and first.digest == second.digest
    assert second.table["split"].to_pylist().count("val") == 2
    assert (tmp_path / "a" / "a-00000.tar").read_bytes() == (tmp_path / "b" / "a-00000.tar").read_bytes()


def test_labels_in_all_places(tmp_path: Path) -> None:
    members = {
        "a.jpg": jpeg(0),
        "a.json": b'{"label": 2}',
        "b.jpg": jpeg(1),
        "b.json": b'{"labels": [0, 2], "label": 1}',
        "b.cls": b"1",
        "c.jpg": jpeg(2),
        "c.json": b'{"caption": "x"}',
        "c.cls": b"1\n",
        "d.input.jpg": jpeg(3),
        "d.cls": b"0",
    }
    pack(tmp_path / "0.tar", members)
    source = webdataset(tmp_path, class_names=("x", "y", "z"))
    assert [r.labels for r in source.records] == [(2,), (0, 2), (1,), (0,)] and source.multi_label


def test_samples_that_are_none_are_rejected_by_name(tmp_path: Path) -> None:
    members = {
        "good.jpg": jpeg(0),
        "good.cls": b"0",
        "two.jpg": jpeg(1),
        "two.png": png(1),
        "two.cls": b"0",
        "label.cls": b"0",
        "bare.jpg": jpeg(2),
        "odd.jpg": jpeg(3),
        "odd.json": b"{]",
        "list.jpg": jpeg(4),
        "list.json": b'{"labels": [[1]]}',
        "long.jpg": jpeg(5),
        "long.txt": b"a photo\nof a cat",
        "cut.jpg": jpeg(6)[:-20],
        "cut.cls": b"0",
        ".hidden": b"x",
        "README": b"x",
        "good.jpg/": b"",
    }
    pack(tmp_path / "0.tar", members)
    assert rejects(tmp_path) == [
        ("two", "has 2 images in its sample (one is needed)"),
        ("label", "has 0 images in its sample (one is needed)"),
        ("bare", "has no label"),
        ("odd", "has an unusable label (KEY.json is no JSON: '{]')"),
        ("list", "has an unusable label (KEY.json: '{\"labels\": [[1]]}')"),
        ("long", "has an unusable label ('a photo\\nof a cat')"),
        ("cut", next(reason for key, reason in rejects(tmp_path) if key == "cut")),
    ]


def test_what_are_no_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no directory"):
        webdataset(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"has no \.tar files$"):
        webdataset(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.tar\.gz is compressed: gunzip it"):
        webdataset(tmp_path)
    pack(tmp_path / "0.tar", {"a.jpg": jpeg(0), "a.cls": b"0"})
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:700])
    with pytest.raises(
        BadShard, match=r"0\.tar is no whole tar file: it ends at byte 700, inside a\.jpg; get it again"
    ):
        webdataset(tmp_path)


def test_the_labels_of_timm_are_numbers(tmp_path: Path) -> None:
    """timm's shards have KEY.cls and a KEY.json with the same label and more."""
    facts = json.dumps({"label": 7, "filename": "n01/x.JPEG", "height": 24, "width": 24}).encode()
    pack(tmp_path / "imagenet1k-validation-00.tar", {"n01_1.jpg": jpeg(0), "n01_1.cls": b"7", "n01_1.json": facts})
    (record,) = webdataset(tmp_path, class_names=[str(n) for n in range(1000)]).records
    assert (record.key, record.split, record.labels) == ("n01_1", "val", (7,))


def test_shards_of_ours_in_a_folder_below_are_read_as_anyones(tmp_path: Path) -> None:
    examples = [png_example(f"image-{n}", "train", n % 2, np.full((4, 4, 3), n, np.uint8)) for n in range(4)]
    write(tmp_path / "below", examples, name="toy", class_names=["ant", "bee"])
    assert [record.labels for record in webdataset(tmp_path).records] == [(0,), (1,), (0,), (1,)]

"""Hugging Face parquet: images with bytes, class names in the files' own description, splits in their names."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vit.data.pictures import png
from vit.data.checking import check_as_found, serial
from vit.data.shards import Shards
from vit.data.sources.huggingface import huggingface
from vit.data.sources.labels import Columns
from vit.data.writing import threads, write_source

USUAL = Columns(image=None, label=None, split=None, separator=None)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(path: Path, numbers: range, features: dict[str, Any] | None = None, **columns: Any) -> None:
    """As `datasets` writes it: small row groups, the description in the schema."""
    images = pa.array([{"bytes": png(n), "path": f"{n}.png"} for n in numbers], IMAGE)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images} | columns).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=3)


def test_images_labels_names_and_splits(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "fine_label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    for name, numbers in (
        ("train-00000-of-00002", range(5)),
        ("train-00001-of-00002", range(5, 9)),
        ("test", range(9, 12)),
    ):
        labels = pa.array([n % 2 for n in numbers], pa.int64())
        parquet(tmp_path / "data" / f"{name}.parquet", numbers, features, fine_label=labels)
    source = huggingface(tmp_path, columns=USUAL)
    assert source.class_names == ("ant", "bee") and source.keep_order and not source.multi_label
    records = list(source.records)
    assert [r.split for r in records] == ["test"] * 3 + ["train"] * 9
    assert [r.labels for r in records[3:]] == [(n % 2,) for n in range(9)]
    assert [r.read() for r in records[3:]] == [png(n) for n in range(9)]
    assert records[6].read() == png(3) and records[0].key == "data/test/0/0"
    report = write_source(tmp_path / "out", source, name="hf", max_reject_share=0, val_fraction=0.2, map=threads)
    assert report.splits == {"test": 3, "train": 9} and Shards(tmp_path / "out").read(4) == png(1)


def test_lists_of_labels_plain_bytes_and_named_columns(tmp_path: Path) -> None:
    features = {"tags": {"feature": {"names": ["a", "b", "c"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    table = pa.table({"photo": [png(0), png(1)], "tags": [[0, 2], [1]], "part": ["train", "validation"]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "x.parquet")
    source = huggingface(tmp_path, columns=Columns(image=None, label="tags", split="part", separator=None))
    assert source.multi_label and source.class_names == ("a", "b", "c")
    assert [(r.labels, r.split, r.read()) for r in source.records] == [((0, 2), "train", png(0)), ((1,), "val", png(1))]


def test_rows_without_an_image_or_a_label_are_rejected(tmp_path: Path) -> None:
    images = pa.array(
        [
            {"bytes": None, "path": "x.png"},
            {"bytes": b"x", "path": None},
            {"bytes": png(1), "path": None},
            {"bytes": png(2)},
        ],
        IMAGE,
    )
    pq.write_table(pa.table({"image": images, "label": pa.array([0, 0, None, 0])}), tmp_path / "x.parquet")
    checked = check_as_found(huggingface(tmp_path, columns=USUAL), map=serial)
    assert [row["reason"] for row in checked.rejects.to_pylist()] == [
        "has no bytes (where the parquet names a file instead, read it as a table)",
        "cannot be decoded (no known image format)",
        "has no label",
    ]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"image": ["a.png"], "label": [0]}, "has no column of encoded images: its columns are image, label"),
        ({"image": [b"x"], "colour": [0]}, "has no column of labels: its columns are image, colour"),
        ({"a": [b"x"], "b": [b"x"], "label": [0]}, "has no column of encoded images"),
    ],
)
def test_files_without_such_columns_are_named(tmp_path: Path, columns: dict[str, Any], sentence: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=rf"x\.parquet {sentence}"):
        huggingface(tmp_path, columns=USUAL)


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no directory"):
        huggingface(tmp_path / "gone", columns=USUAL)
    with pytest.raises(ValueError, match=r"has no \.parquet files"):
        huggingface(tmp_path, columns=USUAL)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(ValueError, match=r"x\.parquet is no parquet file .*; get it again"):
        huggingface(tmp_path, columns=USUAL)

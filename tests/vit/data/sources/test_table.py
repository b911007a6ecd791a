"""CSV and parquet tables: usual and named columns, labels of all kinds, paths of all kinds, every bad row named."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vit.data.pictures import png
from vit.data.checking import check_as_found, serial
from vit.data.sources.labels import Columns, numbered, read_class_names, split_of
from vit.data.sources.table import table
from vit.data.store import LocalStore, Store
from vit.data.writing import write_source

USUAL = Columns(image=None, label=None, split=None, separator=None)
MANY = Columns(image=None, label=None, split=None, separator="|")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{number}.png").write_bytes(png(number))
    return tmp_path


def csv(root: Path, text: str, name: str = "labels.csv") -> str:
    (root / name).write_text(text, encoding="utf-8-sig")
    return name


def test_a_csv_with_usual_columns(root: Path) -> None:
    text = "Filename,note,label,split\nimages/0.png,,dog,train\nimages/1.png,,cat,Validation\n"
    source = table(root, csv(root, text + f'"{root}/images/2.png",,dog,test\n'), columns=USUAL)
    assert source.class_names == ("cat", "dog") and not source.multi_label
    records = list(source.records)
    assert [(r.labels, r.split, r.read()) for r in records] == [
        ((1,), "train", png(0)),
        ((0,), "val", png(1)),
        ((1,), "test", png(2)),
    ]


def test_named_columns_and_numbers_as_labels(root: Path) -> None:
    text = "image\tlabel\tspecies\nx\tx\t10\nimages/1.png\tx\t9\nimages/2.png\tx\t10\n"
    columns = Columns(image=None, label="species", split=None, separator=None)
    source = table(root, csv(root, text, "labels.tsv"), columns=columns)
    assert source.class_names == ("9", "10") and [r.labels for r in source.records] == [(1,), (0,), (1,)]
    names = table(root, "labels.tsv", columns=columns, class_names=[f"name{n}" for n in range(11)])
    assert [r.labels for r in names.records] == [(10,), (9,), (10,)]


@pytest.mark.parametrize("separated", [True, False])
def test_several_labels_come_back(root: Path, separated: bool) -> None:
    cells = [["red", "car"], ["blue"], ["car"], ["blue", "red", "car"]]
    if separated:
        rows = "".join(f"images/{n}.png,{' | '.join(cell)}\n" for n, cell in enumerate(cells))
        source = table(root, csv(root, "path,labels\n" + rows), columns=MANY)
    else:
        columns = {"path": [f"images/{n}.png" for n in range(4)], "labels": cells}
        pq.write_table(pa.table(columns), root / "labels.parquet")
        source = table(root, "labels.parquet", columns=USUAL)
    assert source.multi_label and source.class_names == ("blue", "car", "red")
    report = write_source(root / "out", source, name="many", max_reject_share=0, val_fraction=0.3)
    assert report.num_images == 4
    shards = __import__("vit.data.shards").data.shards.Shards(root / "out")
    assert [{source.class_names[label] for label in labels} for labels in shards.label_sets] == list(map(set, cells))


def test_bad_rows_are_rejected_by_name(root: Path) -> None:
    rows = ["images/0.png,a", ",a", "images/gone.png,a", "images/1.png,", "images/2.png,q", "https://host/x.png,a"]
    source = table(
        root, csv(root, "path,label\n" + "\n".join(rows) + "\nimages/0.png,b\n"), columns=USUAL, class_names=["a", "b"]
    )
    checked = check_as_found(source, map=serial)
    assert [r.key for r in checked.records] == ["images/0.png"]
    assert [(row["key"], row["reason"]) for row in checked.rejects.to_pylist()] == [
        ("row 2", "names no image"),
        ("images/gone.png", "cannot be read (No such file or directory)"),
        ("images/1.png", "has no label"),
        ("images/2.png", "has an unusable label ('q' is none of the 2 class names)"),
        ("https://host/x.png", "cannot be fetched (paths and s3:// addresses are read, nothing is downloaded)"),
        ("images/0.png", "repeats a key (an earlier image has the same)"),
    ]


def test_addresses_in_s3_are_opened_by_who_can(root: Path) -> None:
    name = csv(root, "url,label\ns3://bucket/images/3.png,a\ns3://bucket/images/2.png,b\n")
    opened: list[str] = []

    def open_store(uri: str) -> Store:
        opened.append(uri)
        return LocalStore(root)

    source = table(root, name, columns=USUAL, open_store=open_store)
    assert [r.read() for r in source.records] == [png(3), png(2)] and opened == ["s3://bucket"]
    with pytest.raises(ValueError, match=r"names images in s3://bucket; pass open_store"):
        table(root, name, columns=USUAL)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gone.csv", None, "does not exist"),
        ("a.xlsx", b"x", "neither .csv, .tsv nor .parquet"),
        ("a.parquet", b"PAR1 no", "cannot be read as a table"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read as a table"),
        ("a.csv", b'path,label\n"open', "cannot be read as a table"),
        ("a.csv", b"", "has no column for image: its columns are "),
        ("a.csv", b"path,colour\na,b\n", "has no column for label: its columns are path, colour"),
        ("a.csv", b"path,path\na,b\n", "two columns of the same name"),
        ("a.csv", b"path,label\na\n", "row 1 has 1 cells, but there are 2 columns"),
    ],
)
def test_what_is_no_such_table_is_named(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        table(tmp_path, name, columns=USUAL)


def test_a_wrong_column_names_those_there_are(root: Path) -> None:
    with pytest.raises(ValueError, match=r"has no column 'kind': its columns are path, label; name it in `columns`"):
        table(
            root, csv(root, "path,label\na,b\n"), columns=Columns(image=None, label="kind", split=None, separator=None)
        )
    with pytest.raises(ValueError, match="separator is empty"):
        Columns(image=None, label=None, split=None, separator="")


@pytest.mark.parametrize(
    ("written", "names", "expected"),
    [
        ([["b"], ["a"], []], (), (("a", "b"), [(1,), (0,), ()])),
        ([[10], [9], [-1]], (), (("9", "10"), [(1,), (0,), (-1,)])),
        ([["10"], [1]], ("one", "10"), (("one", "10"), [(1,), (1,)])),
        (
            [[1, 1, 0], ["x"]],
            ("a", "b"),
            (("a", "b"), [(1, 0), "has an unusable label ('x' is none of the 2 class names)"]),
        ),
    ],
)
def test_labels_to_numbers(written: Any, names: Any, expected: Any) -> None:
    assert numbered(written, names) == expected


def test_class_names_from_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "a.txt").write_text("cat \nbig dog\n\n")
    (tmp_path / "a.json").write_text('["cat", "dog"]')
    (tmp_path / "b.txt").write_text("cat\ncat\n")
    assert read_class_names(store, "a.txt") == ("cat", "big dog") and read_class_names(store, "a.json") == (
        "cat",
        "dog",
    )
    with pytest.raises(ValueError, match=r"b\.txt must list class names"):
        read_class_names(store, "b.txt")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train/0.tar", "train"),
        ("imagenet-train-000001.tar", "train"),
        ("data/validation-00000-of-00002.parquet", "val"),
        ("training_set/val.tar", "val"),
        ("test0.tar", "test"),
        ("trains/0.tar", ""),
        ("contrain-1.tar", ""),
        ("corpus-00000.tar", ""),
    ],
)
def test_splits_in_names_of_files(name: str, split: str) -> None:
    assert split_of(name) == split

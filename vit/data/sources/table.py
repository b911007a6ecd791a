"""A CSV or parquet table with a row for each image: its path or s3:// address, its label or labels, maybe its split."""

import csv
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vit.data.record import Record, Source, refused, split_name
from vit.data.sources.labels import Columns, numbered, split_text
from vit.data.store import LocalStore, Store, as_store

# What columns are usually called; the first that a table has is taken.
USUAL = {
    "image": ("image", "path", "file", "filename", "file_name", "filepath", "image_path", "img", "url", "uri"),
    "label": ("label", "labels", "class", "class_name", "category", "categories", "target", "fine_label"),
    "split": ("split", "subset"),
}
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def table(
    place: Path | Store,
    name: str,
    *,
    columns: Columns,
    class_names: Sequence[str] = (),
    open_store: Callable[[str], Store] | None = None,
) -> Source:
    """The images that the table `name` in `place` lists; relative paths start there, s3:// needs `open_store`.

    Without `class_names` the classes are the labels that occur. Raises ValueError naming the columns there are if the
    wanted ones are not among them, or the row that cannot be read.
    """
    store = as_store(place)
    where = f"{store.uri}/{name}"
    rows = _read(store, name, where)
    found = {what: find_column(rows.keys(), what, getattr(columns, what), where) for what in USUAL}
    image, label, split = found["image"], found["label"], found["split"]
    if image is None or label is None:
        raise ValueError(f"{where} has no column for {'image' if image is None else 'label'}: {_known(rows)}")
    written = [split_text(cell, columns.separator) for cell in rows[label]]
    names, labels = numbered(written, class_names)
    opened = functools.cache(_opener(open_store))
    splits: Sequence[Any] = rows[split] if split else [""] * len(written)
    records = [
        _record(store, where, opened, (row, cell, split_name(str(part or "")), own))
        for row, (cell, part, own) in enumerate(zip(rows[image], splits, labels, strict=True))
    ]
    multi_label = columns.separator is not None or any(isinstance(cell, list) for cell in rows[label])
    return Source(name="table", family="user", class_names=names, records=records, multi_label=multi_label, where=where)


def find_column(names: Any, what: str, wanted: str | None, where: str) -> str | None:
    """The column `wanted`, or the one usually called so; None if there is none. Raises ValueError for a wrong name."""
    lower = {str(name).lower(): str(name) for name in names}
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f"{where} has no column {wanted!r}: {_known(names)}")
        return wanted
    return next((lower[usual] for usual in USUAL[what] if usual in lower), None)


def _known(names: Any) -> str:
    return f"its columns are {', '.join(map(str, names))}; name it in `columns`"


def _read(store: Store, name: str, where: str) -> dict[str, Sequence[Any]]:
    """Columns by name. CSV cells are text."""
    try:
        data = store.read(name)
        if name.endswith(".parquet"):
            loaded = pq.read_table(pa.BufferReader(data))
            return {column: loaded[column].to_pylist() for column in loaded.column_names}
        suffix = Path(name).suffix
        if suffix not in SEPARATORS:
            raise ValueError(f"{where} is neither .csv, .tsv nor .parquet")
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=SEPARATORS[suffix], strict=True)
        header, *rows = [line for line in lines if line] or [[]]
    except FileNotFoundError as error:
        raise ValueError(f"{where} does not exist; it must be a .csv, .tsv or .parquet file") from error
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError, NotImplementedError) as error:
        raise ValueError(f"{where} cannot be read as a table: {error}") from error
    if len(set(header)) < len(header):
        raise ValueError(f"{where} has two columns of the same name: {', '.join(header)}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"{where}: row {number} has {len(row)} cells, but there are {len(header)} columns")
    return {column: [row[at] for row in rows] for at, column in enumerate(header)}


def _record(
    store: Store, where: str, opened: Callable[[str], Store], row: tuple[int, Any, str, tuple[int, ...] | str]
) -> Record:
    number, cell, split, labels = row
    if not isinstance(cell, str) or not cell.strip():
        return refused(f"row {number + 1}", "names no image")
    if isinstance(labels, str):
        return refused(cell, labels)
    if cell.startswith("s3://"):
        bucket, _, key = cell.removeprefix("s3://").partition("/")
        if not bucket or not key:
            return refused(cell, "names no object (s3://BUCKET/KEY is needed)")
        read: Callable[[], bytes] = functools.partial(opened(f"s3://{bucket}").read, key)
    elif "://" in cell:
        return refused(cell, "cannot be fetched (paths and s3:// addresses are read, nothing is downloaded)")
    elif isinstance(store, LocalStore):
        read = functools.partial(Path.read_bytes, store.directory / cell)
    elif cell.startswith("/") or ".." in cell.split("/"):
        return refused(cell, f"leads out of {where} (a remote table may name s3:// addresses or what lies below it)")
    else:
        read = functools.partial(store.read, cell)
    name = cell.rpartition("/")[2]
    ext = name.rpartition(".")[2].lower() if "." in name else ""
    return Record(key=cell, split=split, labels=labels, read=read, ext=ext)


def _opener(open_store: Callable[[str], Store] | None) -> Callable[[str], Store]:
    def refuse(address: str) -> Store:
        raise ValueError(f"the table names images in {address}; pass open_store, see flows.adapters.storage.open")

    return open_store or refuse

"""Parquet files as Hugging Face stores image data sets: a column with the encoded images, a column with labels."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from vit.data.pictures import UnreadableImage
from vit.data.record import Record, Source, refused, split_name
from vit.data.sources.labels import Columns, Written, numbered, split_of, split_text
from vit.data.sources.table import find_column
from vit.data.store import Store, as_store

KEPT = 4  # row groups: threads are at different ones


def huggingface(place: Path | Store, *, columns: Columns, class_names: Sequence[str] = ()) -> Source:
    """All rows of all `.parquet` files below a directory, in order; the split is in their names.

    Class names are those that the files carry (ClassLabel), else the labels that occur. Raises ValueError naming a
    file that is no parquet, has no column of encoded images, or none of labels.
    """
    store = as_store(place)
    try:
        files = store.names(".parquet")
    except FileNotFoundError as error:
        raise ValueError(f"{store.uri} is no directory; it must hold .parquet files") from error
    if not files:
        raise ValueError(f"{store.uri} has no .parquet files")
    rows: list[tuple[str, str, _Place]] = []
    written: list[Written] = []
    multi_label = columns.separator is not None
    for name in files:
        parquet = _opened(store, name)
        image, label, split = _columns(parquet.schema_arrow, columns, f"{store.uri}/{name}")
        class_names = class_names or _class_names(parquet.schema_arrow, label)
        multi_label |= pa.types.is_list(parquet.schema_arrow.field(label).type)
        for place_of, cell, part in _rows(store, name, parquet, (image, label, split)):
            rows.append((f"{name.removesuffix('.parquet')}/{place_of[2]}/{place_of[3]}", part, place_of))
            written.append(split_text(cell, columns.separator))
    names, labels = numbered(written, class_names)
    images = _Images(store)
    return Source(
        name="huggingface",
        family="user",
        class_names=names,
        records=[_record(images, row, own) for row, own in zip(rows, labels, strict=True)],
        multi_label=multi_label,
        keep_order=True,  # a row group is read for the sake of one image
        where=store.uri,
    )


_Place: TypeAlias = tuple[str, str, int, int]  # file, column, row group, row in it


class _Images:
    """The encoded images of parquet files. The last row groups are kept: neighbours are asked for in turn."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: dict[tuple[str, str, int], Any] = {}

    def read(self, place: _Place) -> bytes:
        name, column, group, row = place
        data = self._group(name, column, group)[row].as_py()
        if not isinstance(data, bytes):
            raise UnreadableImage("has no bytes (where the parquet names a file instead, read it as a table)")
        return data

    def _group(self, *wanted: Any) -> Any:
        cells = self._kept.get(wanted)
        if cells is None:
            cells = self._load(*wanted)
            self._kept = dict([*self._kept.items(), (wanted, cells)][-KEPT:])
        return cells

    def _load(self, name: str, column: str, group: int) -> Any:
        try:
            parquet = _opened(self.store, name)
            cells = parquet.read_row_group(group, columns=[column])[column.partition(".")[0]].combine_chunks()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(
                f"row group {group} of {self.store.uri}/{name} is damaged ({error}); get it again"
            ) from error
        return cells.field("bytes") if pa.types.is_struct(cells.type) else cells

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "_kept": {}}


def _record(images: _Images, row: tuple[str, str, _Place], labels: tuple[int, ...] | str) -> Record:
    key, split, place = row
    if isinstance(labels, str):
        return refused(key, labels)
    return Record(key=key, split=split, labels=labels, read=functools.partial(images.read, place), ext="")


def _opened(store: Store, name: str) -> Any:
    try:
        return pq.ParquetFile(store.local(name))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{store.uri}/{name} is no parquet file ({error}); get it again") from error


def _rows(
    store: Store, name: str, parquet: Any, columns: tuple[str, str, str | None]
) -> Iterator[tuple[_Place, Any, str]]:
    """Place, label and split of every row; images stay where they are."""
    image, label, split = columns
    for group in range(parquet.num_row_groups):
        try:
            read = parquet.read_row_group(group, columns=[label, *([split] if split else [])])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"row group {group} of {store.uri}/{name} is damaged ({error}); get it again") from error
        parts = read[split].to_pylist() if split else [split_of(name)] * read.num_rows
        for row, (cell, part) in enumerate(zip(read[label].to_pylist(), parts, strict=True)):
            yield (name, image, group, row), cell, split_name(str(part or ""))


def _columns(schema: Any, columns: Columns, where: str) -> tuple[str, str, str | None]:
    """Names of the image column (`image.bytes` in a struct), the label column and the split column."""
    encoded = [field.name for field in schema if _holds_bytes(field.type)]
    image = find_column(schema.names, "image", columns.image, where)
    image = image if image in encoded else (encoded[0] if len(encoded) == 1 and columns.image is None else None)
    label = find_column(schema.names, "label", columns.label, where)
    if image is None or label is None:
        missing = "encoded images" if image is None else "labels"
        raise ValueError(f"{where} has no column of {missing}: its columns are {', '.join(schema.names)}")
    leaf = f"{image}.bytes" if pa.types.is_struct(schema.field(image).type) else image
    return leaf, label, find_column(schema.names, "split", columns.split, where)


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(at).name == "bytes" for at in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """Of a ClassLabel, or a list of such, in the files' own description."""
    try:
        feature: Any = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]
        while "names" not in feature:
            feature = feature[0 if isinstance(feature, list) else "feature"]
        return tuple(map(str, feature["names"]))
    except (KeyError, ValueError, TypeError, IndexError):
        return ()

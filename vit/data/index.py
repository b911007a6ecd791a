"""Index and manifest of a set of shards: what is in it, where, and whether it is still what was written.

`index.parquet` has one row per image (COLUMNS). `manifest.json` holds the schema version, class names, counts, the
SHA-256 of index and shards, and a digest of the whole that does not depend on how it is cut into shards. Its
`location` is null, or where the shards lie if not beside it: terabytes are referred to by digest, not copied.
"""

import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vit.data import tars
from vit.data.store import CorruptFile, Store, as_store

SCHEMA_VERSION = 2
INDEX, MANIFEST, REJECTS = "index.parquet", "manifest.json", "rejects.parquet"
UNLABELLED = -1
DIGESTED = 65536  # rows at a time; part of what the digest is, and a row group of the index
COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # unique; letters, digits, - and _
        ("split", pa.string()),
        ("label", pa.int32()),  # the first; UNLABELLED if there is none
        ("labels", pa.list_(pa.int32())),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # bytes from the start of the shard to the encoded image
        ("length", pa.int64()),  # bytes
        ("ext", pa.string()),
        ("sha256", pa.string()),  # of the encoded image
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source_key", pa.string()),  # what the source calls it, e.g. a path
        ("notes", pa.string()),  # words of vit.data.hygiene with spaces between: what is odd but was dealt with
    ]
)
REJECTED = pa.schema([("key", pa.string()), ("reason", pa.string())])


class BadShard(ValueError):
    """A shard, index or manifest is missing, or its bytes are not those that were written."""


class Writer:
    """index.parquet being written: `add` rows in any pieces, then `finish`. The same rows give the same bytes.

    In memory are DIGESTED rows, which is also how many lie in a row group.
    """

    def __init__(self, directory: Path, class_names: Sequence[str]) -> None:
        self.directory, self.class_names = directory, list(class_names)
        self.splits: Counter[str] = Counter()
        self._parquet = pq.ParquetWriter(directory / INDEX, COLUMNS)
        self._digest = hashlib.sha256(json.dumps(self.class_names).encode())
        self._rest: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Append rows of COLUMNS."""
        self._rest.append(table)
        while sum(part.num_rows for part in self._rest) >= DIGESTED:
            rows = pa.concat_tables(self._rest)
            self._write(rows.slice(0, DIGESTED))
            self._rest = [rows.slice(DIGESTED)]

    def finish(
        self, facts: Mapping[str, Any], *, shards: Mapping[str, tars.Described], location: str | None = None
    ) -> str:
        """End the file and write manifest.json for shards that are written (or lie at `location`); returns the digest.

        `facts` go into the manifest.
        """
        rest = pa.concat_tables([COLUMNS.empty_table(), *self._rest])
        if rest.num_rows or not self.splits:
            self._write(rest)
        self._parquet.close()
        manifest = {
            "schema_version": SCHEMA_VERSION,
            **facts,
            "class_names": self.class_names,
            "num_images": self.splits.total(),
            "splits": dict(sorted(self.splits.items())),
            "digest": self._digest.hexdigest(),
            "index_sha256": tars.sha256(self.directory / INDEX),
            "location": location,
            "shards": shards,
        }
        _write_manifest(self.directory, manifest)
        return self._digest.hexdigest()

    def _write(self, rows: pa.Table) -> None:
        """A row group; the digest is of key, split, labels and SHA-256 of every image, in order."""
        rows = rows.combine_chunks()
        self._parquet.write_table(rows)
        self.splits.update(rows["split"].to_pylist())
        if not rows.num_rows:
            return
        for before, name in (("[", "key"), (", ", "split"), (", ", "labels"), (", ", "sha256")):
            # The JSON of all four columns, made of one after the other for the sake of memory
            self._digest.update(before.encode() + json.dumps(rows[name].to_pylist()).encode())
        self._digest.update(b"]")


def refer_to(directory: Path, store: Store, address: str) -> None:
    """Write index and manifest of the shards in `store` into `directory`, so that it stands for them by digest.

    `address` is where they lie for good. Raises BadShard if one is missing or has another size than its manifest says.
    """
    manifest = read_manifest(store)
    if manifest["location"] is None:
        for name, shard in manifest["shards"].items():
            try:
                size = store.size(name)
            except FileNotFoundError as error:
                raise BadShard(f"{store.uri}/{name} is missing, but {MANIFEST} names it") from error
            if size != shard["bytes"]:
                raise BadShard(f"{store.uri}/{name} has {size} bytes, but {MANIFEST} says {shard['bytes']}")
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_index_file(store, manifest), directory / INDEX)
    _write_manifest(directory, manifest | {"location": manifest["location"] or address})
    rejects = directory / REJECTS
    if REJECTS in store.names(REJECTS):
        rejects.write_bytes(store.read(REJECTS))


def read_manifest(place: Path | Store) -> dict[str, Any]:
    """The manifest of a set of shards; raises BadShard if there is none, or of another schema version."""
    store = as_store(place)
    try:
        manifest: dict[str, Any] = json.loads(store.read(MANIFEST))
        version = manifest["schema_version"]
    except FileNotFoundError as error:
        raise BadShard(f"{store.uri}/{MANIFEST} is missing: {store.uri} is no complete set of shards") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadShard(f"{store.uri}/{MANIFEST} is damaged ({error}); write the shards again") from error
    if version != SCHEMA_VERSION:
        raise BadShard(
            f"{store.uri}/{MANIFEST} has schema version {version}, this code reads {SCHEMA_VERSION}: prepare it again"
        )
    return manifest


def read_index(place: Path | Store, columns: list[str] | None = None) -> pa.Table:
    """index.parquet of a set of shards; raises BadShard if it is missing or not the one of the manifest."""
    store = as_store(place)
    return pq.read_table(_index_file(store, read_manifest(store)), columns=columns)


def index_batches(place: Path | Store, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The same, some rows at a time."""
    store = as_store(place)
    with pq.ParquetFile(_index_file(store, read_manifest(store))) as file:
        yield from file.iter_batches(DIGESTED, columns=columns)


def _index_file(store: Store, manifest: Mapping[str, Any]) -> Path:
    """index.parquet on a disk of this machine."""
    try:
        return store.local(INDEX, sha256=manifest["index_sha256"])
    except FileNotFoundError as error:
        raise BadShard(f"{store.uri}/{INDEX} is missing: {store.uri} is no complete set of shards") from error
    except CorruptFile as error:
        raise BadShard(
            f"{store.uri}/{INDEX} is not the index that {MANIFEST} describes: it is damaged or was replaced"
        ) from error


def write_rejects(directory: Path, rejects: Iterable[tuple[str, str]]) -> int:
    """Write rejects.parquet of keys and reasons; returns how many there are."""
    count, rest = 0, iter(rejects)
    with pq.ParquetWriter(directory / REJECTS, REJECTED) as file:
        while some := list(itertools.islice(rest, DIGESTED)):
            keys, reasons = zip(*some, strict=True)
            file.write_table(pa.table([keys, reasons], schema=REJECTED))
            count += len(some)
        if not count:
            file.write_table(REJECTED.empty_table())
    return count


def read_rejects(store: Store) -> list[dict[str, str]]:
    """Key and reason of what was rejected when the shards were written; nothing if that is not recorded."""
    try:
        return pq.read_table(pa.BufferReader(store.read(REJECTS))).to_pylist()
    except FileNotFoundError:
        return []


def _write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

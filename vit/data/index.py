"""Index and manifest of a set of shards: what is in it, where, and whether it is still what was written.

`index.parquet` has one row per image (COLUMNS). `manifest.json` holds the schema version, class names, counts, the
SHA-256 of index and shards, and a digest of the whole that does not depend on how it is cut into shards. Its
`location` is null, or where the shards lie if not beside it: terabytes are referred to by digest, not copied.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vit.data import tars
from vit.data.store import Store, as_store

SCHEMA_VERSION = 2
INDEX, MANIFEST, REJECTS = "index.parquet", "manifest.json", "rejects.parquet"
UNLABELLED = -1
DIGESTED = 65536  # rows at a time; part of what the digest is
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


class BadShard(ValueError):
    """A shard, index or manifest is missing, or its bytes are not those that were written."""


def write_index(
    directory: Path,
    table: pa.Table,
    facts: dict[str, Any],
    *,
    shards: Mapping[str, tars.Described],
    location: str | None = None,
) -> str:
    """Write index.parquet and manifest.json for shards that are written (or lie at `location`); returns the digest.

    `facts` go into the manifest; class_names must be among them. Raises ValueError for a duplicate key.
    """
    counts = pc.value_counts(table["key"])
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if repeated:
        raise ValueError(f"{len(repeated)} keys appear more than once, first {repeated[0]}")
    pq.write_table(table, directory / INDEX)
    splits: list[str] = table["split"].to_pylist()
    manifest = {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "num_images": table.num_rows,
        "splits": {split: splits.count(split) for split in sorted(set(splits))},
        "digest": _digest(table, facts["class_names"]),
        "index_sha256": tars.sha256(directory / INDEX),
        "location": location,
        "shards": shards,
    }
    _write_manifest(directory, manifest)
    return str(manifest["digest"])


def refer_to(directory: Path, store: Store, address: str) -> None:
    """Write index and manifest of the shards in `store` into `directory`, so that it stands for them by digest.

    `address` is where they lie for good. Raises BadShard if one is missing or has another size than its manifest says.
    """
    manifest = read_manifest(store)
    table = read_index(store)
    if manifest["location"] is None:
        for name, shard in manifest["shards"].items():
            try:
                size = store.size(name)
            except FileNotFoundError as error:
                raise BadShard(f"{store.uri}/{name} is missing, but {MANIFEST} names it") from error
            if size != shard["bytes"]:
                raise BadShard(f"{store.uri}/{name} has {size} bytes, but {MANIFEST} says {shard['bytes']}")
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, directory / INDEX)
    known = {"index_sha256": tars.sha256(directory / INDEX), "location": manifest["location"] or address}
    _write_manifest(directory, manifest | known)
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
    store, manifest = as_store(place), read_manifest(place)
    try:
        data = store.read(INDEX)
    except FileNotFoundError as error:
        raise BadShard(f"{store.uri}/{INDEX} is missing: {store.uri} is no complete set of shards") from error
    if hashlib.sha256(data).hexdigest() != manifest["index_sha256"]:
        raise BadShard(f"{store.uri}/{INDEX} is not the index that {MANIFEST} describes: it is damaged or was replaced")
    return pq.read_table(pa.BufferReader(data), columns=columns)


def read_rejects(store: Store) -> list[dict[str, str]]:
    """Key and reason of what was rejected when the shards were written; nothing if that is not recorded."""
    try:
        return pq.read_table(pa.BufferReader(store.read(REJECTS))).to_pylist()
    except FileNotFoundError:
        return []


def _write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(table: pa.Table, class_names: Iterable[str]) -> str:
    """SHA-256 of class names and, in order, key, split, labels and SHA-256 of every image."""
    digest = hashlib.sha256(json.dumps(list(class_names)).encode())
    contents = table.select(["key", "split", "labels", "sha256"])
    for start in range(0, table.num_rows, DIGESTED):
        columns = contents.slice(start, DIGESTED).to_pydict()
        digest.update(json.dumps(list(columns.values())).encode())
    return digest.hexdigest()

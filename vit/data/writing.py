"""A Source to shards on disk: checked, rejects listed, order decided, shards written side by side.

Two passes over the source: the first (vit.data.checking) decodes every image and keeps only what was found, the second
copies the bytes of those accepted. Both are functions mapped over pieces of work, in this process, by threads or by
Ray (`map`), and every decision is made between them in one place: the bytes are the same, however it is mapped.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vit.data import tars
from vit.data.checking import Checked, Map, check, serial, threads
from vit.data.index import COLUMNS, REJECTS, write_index
from vit.data.record import Record, Source
from vit.data.split import rank_order
from vit.typing import Ints

__all__ = ["Map", "Report", "refer", "serial", "threads", "write_source"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was written."""

    num_images: int
    num_rejects: int
    splits: dict[str, int]
    notes: dict[str, int]  # images by word of hygiene.NOTES
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shard:
    """One shard to be written, picklable."""

    path: Path
    records: Sequence[Record]
    keys: Sequence[str]
    exts: Sequence[str]
    sha256s: Sequence[str]


def write_source(  # noqa: PLR0913 (seven words that a call reads well with)
    directory: Path,
    source: Source,
    *,
    name: str,
    shard_bytes: int = 256_000_000,
    max_reject_share: float,
    val_fraction: float,
    map: Map = serial,
) -> Report:
    """Write shards, index.parquet, manifest.json and rejects.parquet (key, reason) of a source into `directory`.

    What fits into one shard keeps the order of the source. Of anything larger a shard holds one split, and if
    neighbours share their class the images are shuffled (MD5 order of their keys), so that a few shards are a fair
    sample. Raises ValueError if more than `max_reject_share` of the images are rejected, if a class is left without
    an image where train and val are to be cut, or if an image changes between the passes.
    """
    checked = check(source, max_reject_share=max_reject_share, val_fraction=val_fraction, map=map)
    directory.mkdir(parents=True, exist_ok=True)
    cuts = _arrange(checked.table, source, shard_bytes)
    jobs = (_job(checked, directory / f"{name}-{number:05d}.tar", rows) for number, rows in enumerate(cuts))
    places: list[tuple[str, int]] = []
    shards: dict[str, tars.Described] = {}
    for shard, offsets, described in map(_write_shard, jobs):
        places += [(shard, offset) for offset in offsets]
        shards[shard] = described
    checked = dataclasses.replace(checked, table=checked.table.take(np.concatenate(cuts)))
    return _finish(directory, source, checked, places, shards=shards)


def refer(
    directory: Path, source: Source, location: str, *, max_reject_share: float, val_fraction: float, map: Map = serial
) -> Report:
    """Write index, manifest and rejects for a source that consists of tar shards at `location`, without copying them.

    Raises ValueError as `write_source` does.
    """
    checked = check(source, max_reject_share=max_reject_share, val_fraction=val_fraction, map=map)
    directory.mkdir(parents=True, exist_ok=True)
    places = [record.place for record in checked.records if record.place is not None]
    assert len(places) == len(checked.records), f"{source.name} does not consist of tar shards"
    return _finish(directory, source, checked, places, shards={}, location=location)


def _arrange(table: pa.Table, source: Source, shard_bytes: int) -> list[Ints]:
    """The rows of each shard, in the order in which they are written."""
    counts = [len(labels) for labels in table["labels"].to_pylist()]
    room: list[int] = [tars.room(size, count) for size, count in zip(table["length"].to_pylist(), counts, strict=True)]
    order: Ints = np.arange(table.num_rows)
    if sum(room) <= shard_bytes:
        return [order]
    if not source.keep_order and _is_sorted_by_class(table["label"].to_numpy()):
        order = rank_order(source.name, table["key"].to_pylist())
    splits: list[str] = table["split"].to_pylist()
    ranks = {split: rank for rank, split in enumerate(dict.fromkeys(splits))}
    order = order[np.argsort([ranks[splits[row]] for row in order], kind="stable")]
    cuts: list[list[int]] = []
    filled = shard_bytes
    rows: list[int] = order.tolist()
    for row in rows:
        if filled >= shard_bytes or splits[row] != splits[cuts[-1][0]]:
            cuts.append([])
            filled = 0
        cuts[-1].append(row)
        filled += room[row]
    return [np.array(cut) for cut in cuts]


def _is_sorted_by_class(labels: Ints) -> bool:
    """True if neighbours share their class much more often than in a shuffled order."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    by_chance = float((shares**2).sum())
    return bool((labels[1:] == labels[:-1]).mean() > (1 + by_chance) / 2)


def _job(checked: Checked, path: Path, rows: Ints) -> _Shard:
    columns: dict[str, list[str]] = {
        name: checked.table[name].take(pa.array(rows)).to_pylist() for name in ("key", "ext", "sha256")
    }
    return _Shard(
        path=path,
        records=[checked.records[int(row)] for row in rows],
        keys=columns["key"],
        exts=columns["ext"],
        sha256s=columns["sha256"],
    )


def _write_shard(shard: _Shard) -> tuple[str, list[int], tars.Described]:
    """Name of the shard, offsets of its images, and what the manifest says about it."""
    tar = tars.Writer(shard.path)
    offsets: list[int] = []
    for record, key, ext, sha256 in zip(shard.records, shard.keys, shard.exts, shard.sha256s, strict=True):
        data = record.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"image {record.key} changed while it was prepared; start again when nobody writes there")
        offsets.append(tar.add(key, ext, data, record.labels))
    return shard.path.name, offsets, tar.close()


def _finish(
    directory: Path,
    source: Source,
    checked: Checked,
    places: Sequence[tuple[str, int]],
    *,
    shards: dict[str, tars.Described],
    location: str | None = None,
) -> Report:
    """Write index, manifest and rejects; `places` are shard and offset of the rows of `checked.table`."""
    columns = {"shard": [shard for shard, _ in places], "offset": [offset for _, offset in places]}
    table = pa.table([columns.get(name) or checked.table[name] for name in COLUMNS.names], schema=COLUMNS)
    pq.write_table(checked.rejects, directory / REJECTS)
    facts = {
        "source": source.name,
        "family": source.family,
        "multi_label": source.multi_label,
        "class_names": list(source.class_names),
    }
    return Report(
        num_images=table.num_rows,
        num_rejects=checked.rejects.num_rows,
        splits=_counts(table["split"].to_pylist()),
        notes=_counts(word for words in table["notes"].to_pylist() for word in words.split()),
        digest=write_index(directory, table, facts, shards=shards, location=location),
    )


def _counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))

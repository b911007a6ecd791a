"""A Source to shards on disk: checked, rejects listed, order decided, shards written side by side.

Two passes over the source: the first (vit.data.checking) decodes every image and keeps only what was found, the second
copies the bytes of those accepted. Both are functions mapped over pieces of work, in this process, by threads or by
Ray (`map`), and every decision is made between them in one place: the bytes are the same, however it is mapped.
"""

import collections
import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vit.data import tars
from vit.data.checking import Map, Pieces, check, serial, threads
from vit.data.index import COLUMNS, Writer, write_rejects
from vit.data.record import Record, Source
from vit.data.staging import Staging, staging

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


def write_source(  # noqa: PLR0913 (eight words that a call reads well with)
    directory: Path,
    source: Source,
    *,
    name: str,
    shard_bytes: int = 256_000_000,
    max_reject_share: float,
    val_fraction: float,
    needs_val: bool = False,
    map: Map = serial,
) -> Report:
    """Write shards, index.parquet, manifest.json and rejects.parquet (key, reason) of a source into `directory`.

    What fits into one shard keeps the order of the source. Of anything larger a shard holds one split, and if
    neighbours share their class the images are shuffled (MD5 order of their keys), so that a few shards are a fair
    sample. Images without a split are cut into train and val, and with `needs_val` those of train, too, if the source
    has no val. Memory does not grow with the source: what is known of the images lies beside the shards until they
    are written. Raises ValueError if more than `max_reject_share` of the images are rejected, if a class is left
    without an image where train and val are to be cut, or if an image changes between the passes.
    """
    with staging(directory.parent) as staged:
        rules: dict[str, Any] = {"max_reject_share": max_reject_share, "val_fraction": val_fraction}
        check(staged, source, needs_val=needs_val, map=map, **rules)
        directory.mkdir(exist_ok=True)
        cuts = _cuts(staged, source, shard_bytes)
        if repeated := staged.repeated_key():
            raise ValueError(f"{repeated[0]} keys appear more than once, first {repeated[1]}")
        jobs = (
            _job(staged, directory / f"{name}-{number:05d}.tar", start, stop)
            for number, (start, stop) in enumerate(itertools.pairwise(cuts))
        )
        written = map(_write_shard, Pieces(len(cuts) - 1, jobs))
        return _finish(directory, source, staged, written)


def refer(  # noqa: PLR0913 (seven words that a call reads well with)
    directory: Path,
    source: Source,
    location: str,
    *,
    max_reject_share: float,
    val_fraction: float,
    needs_val: bool = False,
    map: Map = serial,
) -> Report:
    """Write index, manifest and rejects for a source that consists of tar shards at `location`, without copying them.

    Raises ValueError as `write_source` does.
    """
    with staging(directory.parent) as staged:
        rules: dict[str, Any] = {"max_reject_share": max_reject_share, "val_fraction": val_fraction}
        check(staged, source, needs_val=needs_val, map=map, **rules)
        directory.mkdir(exist_ok=True)
        collections.deque(staged.arrange(by_split=False, by_rank=False), maxlen=0)
        return _finish(directory, source, staged, (), location=location)


def _cuts(staged: Staging, source: Source, shard_bytes: int) -> list[int]:
    """Put the images in the order they are written in; returns where each shard begins, and the end."""
    if staged.bytes_in_shards() <= shard_bytes:
        return [0, sum(1 for _ in staged.arrange(by_split=False, by_rank=False))]
    by_rank = not source.keep_order and _is_sorted_by_class(staged)
    cuts: list[int] = []
    filled, before, place = shard_bytes, "", -1
    for place, image in enumerate(staged.arrange(by_split=True, by_rank=by_rank)):
        if filled >= shard_bytes or image.split != before:
            cuts.append(place)
            filled, before = 0, image.split
        filled += tars.room(image.length, image.num_labels)
    return [*cuts, place + 1]


def _is_sorted_by_class(staged: Staging) -> bool:
    """True if neighbours share their class much more often than in a shuffled order."""
    by_chance = sum(share**2 for share in staged.label_shares())
    return staged.share_of_equal_neighbours() > (1 + by_chance) / 2


def _job(staged: Staging, path: Path, start: int, stop: int) -> _Shard:
    records, keys, exts, sha256s = zip(*staged.arranged_records(start, stop), strict=True)
    return _Shard(path=path, records=records, keys=keys, exts=exts, sha256s=sha256s)


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
    staged: Staging,
    written: Iterable[tuple[str, list[int], tars.Described]],
    *,
    location: str | None = None,
) -> Report:
    """Write index, manifest and rejects; `written` are the shards as they are done, none if they lie at `location`."""
    index, shards, notes = Writer(directory, source.class_names), dict[str, tars.Described](), Counter[str]()
    rows = staged.tables() if location else _placed(staged, written, shards)
    for table in rows:
        notes.update(word for words in table["notes"].to_pylist() for word in words.split())
        index.add(table)
    facts = {"source": source.name, "family": source.family, "multi_label": source.multi_label}
    facts |= {"listed": True} if source.listed else {}
    num_rejects = write_rejects(directory, staged.rejects())
    digest = index.finish(facts, shards=shards, location=location)
    return Report(
        num_images=index.splits.total(),
        num_rejects=num_rejects,
        splits=dict(sorted(index.splits.items())),
        notes=dict(sorted(notes.items())),
        digest=digest,
    )


def _placed(
    staged: Staging, written: Iterable[tuple[str, list[int], tars.Described]], shards: dict[str, tars.Described]
) -> Iterator[pa.Table]:
    """The rows of the index as their shards are written, which are noted in `shards`."""
    rows = staged.tables()
    rest = COLUMNS.empty_table()
    for name, offsets, shards[name] in written:
        while rest.num_rows < len(offsets):
            rest = pa.concat_tables([rest, next(rows)])
        table, rest = rest.slice(0, len(offsets)), rest.slice(len(offsets))
        for column, values in (("shard", pa.array([name] * len(offsets))), ("offset", pa.array(offsets, pa.int64()))):
            table = table.set_column(COLUMNS.get_field_index(column), COLUMNS.field(column), values)
        yield table

"""What is known of the images of a source while they are checked and put in order: on disk, however many they are.

A row for each image in a temporary SQLite file, which sorts, groups and finds repeats in a bounded amount of memory.
Every number and every rule comes from its callers (vit.data.checking, vit.data.writing); here is only the bookkeeping.
"""

import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from vit.data import tars
from vit.data.index import COLUMNS, UNLABELLED
from vit.data.readers import Readers
from vit.data.record import Record, printable

CACHE = 32_000  # kB of memory for pages, and as much again while something is sorted
ROWS = 8192  # at a time where rows come as a table
TRAIN, VAL = "train", "val"
# Surrogates stand for bytes of file names that are no Unicode; SQLite's text does not take them.
_RAW = "surrogatepass"
_SCHEMA = """
CREATE TABLE staged (row INTEGER PRIMARY KEY, source_key BLOB, key TEXT, rank BLOB, split TEXT, label INTEGER,
    labels TEXT, num_labels INTEGER, source_ext BLOB, shard BLOB, offset INTEGER, reader BLOB, problem TEXT);
CREATE TABLE facts (row INTEGER PRIMARY KEY, length INTEGER, ext TEXT, sha256 TEXT, width INTEGER, height INTEGER,
    notes TEXT, problem TEXT);
CREATE TABLE cut (row INTEGER PRIMARY KEY, split TEXT);
CREATE TABLE copies (row INTEGER PRIMARY KEY, sha256 TEXT, place INTEGER);
CREATE VIEW accepted AS SELECT staged.*, length, ext, sha256, width, height, notes FROM staged JOIN facts USING (row)
    WHERE staged.problem = '' AND facts.problem = '';
CREATE VIEW done AS SELECT accepted.row, key, coalesce(cut.split, accepted.split) AS split, rank, label, labels,
    num_labels, shard, offset, length, ext, accepted.sha256, width, height, source_key, source_ext, reader,
    trim(notes || CASE WHEN copies.place > 1 THEN ' duplicate' ELSE '' END) AS notes
    FROM accepted LEFT JOIN cut USING (row) LEFT JOIN copies USING (row);
"""
_FACTS = ("length", "ext", "sha256", "width", "height", "notes")
_REPEATED = (
    "SELECT row FROM (SELECT row, row_number() OVER (PARTITION BY source_key ORDER BY row) AS place FROM staged)"
)
_UNCUT = (  # of copies only the first that is yet to be cut
    "SELECT row, label, rank FROM (SELECT accepted.*, row_number() OVER "
    "(PARTITION BY accepted.sha256 ORDER BY row) AS nth FROM accepted WHERE split = '') WHERE nth = 1"
)
_FOLLOW = (
    "INSERT INTO cut SELECT copy.row, first.split FROM accepted AS copy JOIN "
    "(SELECT sha256, cut.split FROM cut JOIN copies USING (row)) AS first USING (sha256) "
    "WHERE copy.split = '' AND copy.row NOT IN (SELECT row FROM cut)"
)
_SORTED = "SELECT avg(label = before) FROM (SELECT label, lag(label) OVER (ORDER BY row) AS before FROM done)"


class Named(NamedTuple):
    """What is decided about a record without reading its image."""

    key: str  # in the shards
    rank: bytes  # of the key, in the order of the source's salt
    problem: str  # why it is rejected, or ""


class Place(NamedTuple):
    """An accepted image in the order in which it is written."""

    split: str
    length: int  # bytes
    num_labels: int


class Staging:
    """The images of one source. The rows are numbered in the order of the source, from 0."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._readers = Readers()
        for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{CACHE}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.create_function("room", 2, tars.room, deterministic=True)
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN")  # one for all: nobody else looks, and nothing is to survive

    def close(self) -> None:
        self._database.close()

    def add(self, records: Iterable[tuple[Record, Named]]) -> int:
        """Take records in; returns how many there are."""
        rows = (self._row(number, record, named) for number, (record, named) in enumerate(records))
        self._database.executemany(f"INSERT INTO staged VALUES ({', '.join('?' * 13)})", rows)
        return self._one("SELECT count(*) FROM staged")

    def reject_repeats(self, reason: str) -> None:
        """All images whose key in the source an earlier one has."""
        self._database.execute(f"UPDATE staged SET problem = ? WHERE row IN ({_REPEATED} WHERE place > 1)", (reason,))

    def cut_without_val(self) -> None:
        """Where no image is in val, those in train are yet to be cut."""
        if not self._one("SELECT count(*) FROM staged WHERE split = ?", VAL):
            self._database.execute("UPDATE staged SET split = '' WHERE split = ?", (TRAIN,))

    def records(self, where: str = "staged") -> Iterator[Record]:
        """All of `staged`, or the `accepted` ones, in the order of the source."""
        return self._records(f"SELECT * FROM {where} ORDER BY row")

    def found(self, facts: pa.Table, problems: Sequence[str], start: int) -> Iterator[tuple[str, str]]:
        """Take in what reading the images from row `start` on gave; yields source key and reason of those rejected."""
        columns = [facts[name].to_pylist() for name in _FACTS]
        rows = zip(range(start, start + len(problems)), *columns, map(printable, problems), strict=True)
        self._database.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        yield from self._rejects(start, start + len(problems))

    def rejects(self) -> Iterator[tuple[str, str]]:
        """Source key and reason of all."""
        return self._rejects(0, self._one("SELECT count(*) FROM staged"))

    def find_copies(self) -> None:
        """Number the accepted images of equal bytes, where there are several."""
        self._database.execute(
            "INSERT INTO copies SELECT row, sha256, place FROM (SELECT row, sha256, count(*) OVER same AS times, "
            "row_number() OVER (same ORDER BY row) AS place FROM accepted WINDOW same AS (PARTITION BY sha256)) "
            "WHERE times > 1 ORDER BY row"
        )

    def num_uncut(self) -> int:
        return self._one("SELECT count(*) FROM accepted WHERE split = ''")

    def labels(self) -> Iterator[list[int]]:
        """All labels of each accepted image."""
        return (json.loads(text) for (text,) in self._database.execute("SELECT labels FROM accepted"))

    def uncut_by_label(self) -> dict[int, int]:
        """Of copies only the first counts."""
        return dict(self._database.execute(f"SELECT label, count(*) FROM ({_UNCUT}) GROUP BY label"))

    def cut(self, num_val: dict[int, int]) -> None:
        """The first images of each label, in the order of their ranks, become val, the rest train.

        Copies go where the first of them goes, but if the source has one in train, all go there.
        """
        ranked = f"SELECT row, label, row_number() OVER (PARTITION BY label ORDER BY rank, row) FROM ({_UNCUT})"
        rows = self._database.execute(ranked)
        split = ((row, VAL if place <= num_val[label] else TRAIN) for row, label, place in rows)
        self._database.executemany("INSERT INTO cut VALUES (?, ?)", split)
        self._database.execute(_FOLLOW)
        train = "SELECT sha256 FROM copies JOIN done USING (row, sha256) WHERE split = 'train'"
        self._database.execute(
            "UPDATE cut SET split = 'train' WHERE split = 'val' AND row IN "
            f"(SELECT row FROM copies WHERE sha256 IN ({train}))"
        )

    def splits(self) -> list[str]:
        """In the order in which they first occur."""
        return [split for split, _ in self._database.execute("SELECT split, min(row) FROM done GROUP BY 1 ORDER BY 2")]

    def bytes_in_shards(self) -> int:
        return self._one("SELECT sum(room(length, num_labels)) FROM done") or 0

    def label_shares(self) -> list[float]:
        counts = [count for (count,) in self._database.execute("SELECT count(*) FROM done GROUP BY label")]
        return [count / sum(counts) for count in counts]

    def share_of_equal_neighbours(self) -> float:
        """Of all accepted images, the part whose first label the one before has; 0 if there is but one."""
        return self._one(_SORTED) or 0.0

    def arrange(self, *, by_split: bool, by_rank: bool) -> Iterator[Place]:
        """Put the accepted images in the order they are written in; yields them so."""
        splits = " ".join(f"WHEN '{split}' THEN {rank}" for rank, split in enumerate(map(_quoted, self.splits())))
        order = [f"CASE split {splits} END"] * by_split + ["rank"] * by_rank + ["row"]
        self._database.execute(f"CREATE TABLE arranged AS SELECT * FROM done ORDER BY {', '.join(order)}")
        columns = "SELECT split, length, num_labels FROM arranged ORDER BY rowid"
        return (Place(*row) for row in self._database.execute(columns))

    def repeated_key(self) -> tuple[int, str] | None:
        """How many keys of shards occur more than once, and one of them."""
        repeated = "SELECT key FROM arranged GROUP BY key HAVING count(*) > 1"
        count, first = self._database.execute(f"SELECT count(*), min(key) FROM ({repeated})").fetchone()
        return (count, first) if count else None

    def arranged_records(self, start: int, stop: int) -> Iterator[tuple[Record, str, str, str]]:
        """Record, key, extension and SHA-256 of the images from place `start` to before `stop`."""
        rows = self._database.execute(
            "SELECT * FROM arranged WHERE rowid > ? AND rowid <= ? ORDER BY rowid",
            (start, stop),
        )
        names = [column[0] for column in rows.description]
        for row in rows:
            values = dict(zip(names, row, strict=True))
            yield self._record(values), values["key"], values["ext"], values["sha256"]

    def tables(self, where: str = "arranged", order: str = "rowid") -> Iterator[pa.Table]:
        """Rows of vit.data.index.COLUMNS, ROWS at a time; shard and offset are what the source says, or null."""
        rows = self._database.execute(f"SELECT {', '.join(COLUMNS.names)} FROM {where} ORDER BY {order}")
        while some := rows.fetchmany(ROWS):
            columns: dict[str, list[Any]] = dict(zip(COLUMNS.names, map(list, zip(*some, strict=True)), strict=True))
            columns["labels"] = [json.loads(text) for text in columns["labels"]]
            for name in ("source_key", "shard"):
                columns[name] = [None if text is None else _printable(text) for text in columns[name]]
            yield pa.table(columns, schema=COLUMNS)

    def _row(self, number: int, record: Record, named: Named) -> tuple[Any, ...]:
        label = record.labels[0] if record.labels else UNLABELLED
        return (
            *(number, record.key.encode(errors=_RAW), named.key, named.rank, record.split, label),
            *(json.dumps(record.labels), len(record.labels), record.ext.encode(errors=_RAW)),
            *((record.place[0].encode(errors=_RAW), record.place[1]) if record.place else (None, None)),
            *(self._readers.pack(record.read), printable(named.problem)),
        )

    def _records(self, query: str) -> Iterator[Record]:
        rows = self._database.execute(query)
        names = [column[0] for column in rows.description]
        return (self._record(dict(zip(names, row, strict=True))) for row in rows)

    def _record(self, row: dict[str, Any]) -> Record:
        return Record(
            key=row["source_key"].decode(errors=_RAW),
            split=row["split"],
            labels=tuple(json.loads(row["labels"])),
            read=self._readers.unpack(row["reader"]),
            ext=row["source_ext"].decode(errors=_RAW),
            place=None if row["shard"] is None else (row["shard"].decode(errors=_RAW), row["offset"]),
        )

    def _rejects(self, start: int, stop: int) -> Iterator[tuple[str, str]]:
        why = "CASE facts.problem WHEN '' THEN staged.problem ELSE facts.problem END"
        rows = self._database.execute(
            f"SELECT source_key, {why} AS why FROM staged JOIN facts USING (row) "
            "WHERE why != '' AND row >= ? AND row < ? ORDER BY row",
            (start, stop),
        )
        return ((_printable(key), reason) for key, reason in rows)

    def _one(self, query: str, *values: Any) -> Any:
        return self._database.execute(query, values).fetchone()[0]


@contextlib.contextmanager
def staging(directory: Path | None = None) -> Generator[Staging]:
    """An empty one, below `directory` or where temporary files go; its file is removed at the end."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".staging-", dir=directory) as place,
        contextlib.closing(Staging(Path(place) / "images.sqlite")) as made,
    ):
        yield made


def _printable(key: bytes) -> str:
    return printable(key.decode(errors=_RAW))


def _quoted(text: str) -> str:
    return text.replace("'", "''")

"""The first pass over a Source: every image read and decoded, what is unusable rejected, splits decided.

Nothing is kept in memory but a table of what was found, so the pass suits any size; `map` says where it runs.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from vit.data import hygiene
from vit.data.index import COLUMNS, UNLABELLED
from vit.data.pictures import UnreadableImage
from vit.data.record import Record, Source, printable
from vit.data.split import train_or_val
from vit.typing import Ints

CHUNK = 128  # images that a worker checks at a time
KEY_LENGTH = 60  # characters of the source's key that ours keeps
NAMED = 3  # rejects that a sentence names
UNCUT = "uncut"  # stands for no split while that is only looked at
REJECTS = pa.schema([("key", pa.string()), ("reason", pa.string())])
_FACTS = pa.schema([COLUMNS.field(name) for name in ("length", "ext", "sha256", "width", "height", "notes")])
Item = TypeVar("Item")
Result = TypeVar("Result")


class Map(Protocol):
    """Like the builtin map over one iterable: results in the order of the items, computed anywhere."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """A source after the first pass."""

    records: list[Record]  # accepted, in order
    table: pa.Table  # a row for each of them: COLUMNS without shard and offset
    rejects: pa.Table  # REJECTS: the source's key and why


def serial(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """One after the other, in this process."""
    return map(function, items)


def threads(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """By a thread for each core: Pillow's decoders, hashing and files release the GIL."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, items)


def check(source: Source, *, max_reject_share: float, val_fraction: float, map: Map) -> Checked:
    """Read and decode every image, decide what is rejected and which split the rest belongs to.

    Raises ValueError if more than `max_reject_share` of the images are rejected, if nothing or nothing of a class is
    left, or what `Record.read` raises but for OSError and UnreadableImage: those two are reasons to reject.
    """
    records = list(source.records)
    if not records:
        raise ValueError(f"{source.where or source.name} has no images")
    reasons = list(hygiene.problems(records, num_classes=len(source.class_names), multi_label=source.multi_label))
    found: list[pa.Table] = []
    bad: list[tuple[str, str]] = []
    for facts, problems in map(_examine, (records[at : at + CHUNK] for at in range(0, len(records), CHUNK))):
        for row, problem in enumerate(problems, start=len(found) * CHUNK):
            reasons[row] = problem or reasons[row]
            bad += [(printable(records[row].key), reasons[row])] if reasons[row] else []
        found.append(facts)
        if len(bad) > max_reject_share * len(records) or len(bad) == len(records):
            raise ValueError(_too_many(source, bad, len(records), max_reject_share))
    rows = np.flatnonzero([not reason for reason in reasons])
    accepted = [records[row] for row in rows]
    table = _described(source, accepted, pa.concat_tables(found).combine_chunks().take(rows), val_fraction)
    rejects = pa.Table.from_pylist([{"key": key, "reason": reason} for key, reason in bad], schema=REJECTS)
    return Checked(records=accepted, table=table, rejects=rejects)


def check_as_found(source: Source, *, map: Map) -> Checked:
    """As `check`, for looking: any share of rejects is taken, nothing is cut, a split may be empty."""
    records = [dataclasses.replace(record, split=record.split or UNCUT) for record in source.records]
    checked = check(dataclasses.replace(source, records=records), max_reject_share=1.0, val_fraction=0.5, map=map)
    splits = ["" if split == UNCUT else split for split in checked.table["split"].to_pylist()]
    at = checked.table.column_names.index("split")
    return dataclasses.replace(checked, table=checked.table.set_column(at, "split", pa.array(splits)))


def shard_key(key: str) -> str:
    """`key` if tar and webdataset take it as it is; else the end of it in letters that they take, and a hash of all."""
    if hygiene.is_usable_key(key):
        return key
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
    stem = re.sub("[^A-Za-z0-9_-]+", "-", re.sub(r"(?<=[^/])\.[^./]*$", "", key))
    return f"{stem[-KEY_LENGTH:]}-{digest}"


def _examine(records: Sequence[Record]) -> tuple[pa.Table, list[str]]:
    """A row of _FACTS and a problem (or "") for each record."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for record in records:
        row: dict[str, Any] = {"length": 0, "ext": "", "sha256": "", "width": 0, "height": 0, "notes": ""}
        problem = ""
        try:
            data = record.read()
            facts = hygiene.examine(data, record.ext)
            row = {"length": len(data), "ext": facts.ext, "sha256": hashlib.sha256(data).hexdigest()}
            row |= {"width": facts.width, "height": facts.height, "notes": " ".join(facts.notes)}
        except UnreadableImage as error:
            problem = str(error)
        except (ConnectionError, TimeoutError):
            raise  # a service is down: no fault of the image
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
        rows.append(row)
        problems.append(problem)
    return pa.Table.from_pylist(rows, schema=_FACTS), problems


def _too_many(source: Source, bad: Sequence[tuple[str, str]], total: int, max_reject_share: float) -> str:
    where, first = source.where or source.name, "; ".join(f"{key} {problem}" for key, problem in bad[:NAMED])
    if len(bad) == total:
        return f"none of the {total} images of {where} is usable. The first: {first}"
    return (
        f"{len(bad)} or more of {total} images of {where} are unusable, but max_reject_share is {max_reject_share:g}. "
        f"The first: {first}. Repair or remove them, or raise max_reject_share; `vitflow data inspect` lists them all"
    )


def _described(source: Source, records: Sequence[Record], facts: pa.Table, val_fraction: float) -> pa.Table:
    """The accepted images as rows of COLUMNS without shard and offset."""
    keys = [shard_key(record.key) for record in records]
    firsts = [record.labels[0] if record.labels else UNLABELLED for record in records]
    sha256s: list[str] = facts["sha256"].to_pylist()
    seen: set[str] = set()
    again = [sha256 in seen or seen.add(sha256) is not None for sha256 in sha256s]
    columns: dict[str, Any] = {
        "key": keys,
        "split": _splits(source, records, (keys, np.array(firsts), sha256s), val_fraction),
        "label": firsts,
        "labels": [list(record.labels) for record in records],
        "source_key": [printable(record.key) for record in records],
        "notes": [
            f"{words} duplicate".strip() if is_again else words
            for words, is_again in zip(facts["notes"].to_pylist(), again, strict=True)
        ],
    }
    schema = pa.schema([field for field in COLUMNS if field.name not in ("shard", "offset")])
    return pa.table([columns[name] if name in columns else facts[name] for name in schema.names], schema=schema)


def _splits(
    source: Source, records: Sequence[Record], known: tuple[list[str], Ints, list[str]], val_fraction: float
) -> list[str]:
    """Those of the source; where it has none, every class is cut into train and val by the MD5 order of the keys."""
    splits = [record.split for record in records]
    rows: list[int] = np.flatnonzero([not split for split in splits]).tolist()
    if not rows:
        return splits
    where = source.where or source.name
    keys, labels, sha256s = known
    empty = sorted(set(range(len(source.class_names))) - {label for record in records for label in record.labels})
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(source.class_names)} classes of {where} have no readable image for the train "
            f"split, first {source.class_names[empty[0]]}; add images or remove the class"
        )
    cut = train_or_val([keys[row] for row in rows], labels[rows], val_fraction=val_fraction, salt=source.name)
    for row, split in zip(rows, cut, strict=True):
        splits[row] = split
    train = {sha256 for sha256, split in zip(sha256s, splits, strict=True) if split == "train"}
    for row in rows:
        splits[row] = "train" if sha256s[row] in train else splits[row]
    if "val" not in splits:
        raise ValueError(
            f"every class of {where} has a single image: add images, so that some are left to validate with"
        )
    return splits

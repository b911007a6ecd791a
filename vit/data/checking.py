"""The first pass over a Source: every image read and decoded, what is unusable rejected, splits decided.

What was found is kept on disk (vit.data.staging), so the pass suits any size; `map` says where it runs.
"""

import dataclasses
import hashlib
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from vit.data import hygiene
from vit.data.hygiene import REPEATS, label_problem
from vit.data.index import COLUMNS, REJECTED
from vit.data.pictures import UnreadableImage
from vit.data.record import Record, Source
from vit.data.split import num_val, rank_key
from vit.data.staging import VAL, Named, Staging, staging

CHUNK = 128  # images that a worker checks at a time
KEY_LENGTH = 60  # characters of the source's key that ours keeps
NAMED = 3  # rejects that a sentence names
_FACTS = pa.schema([COLUMNS.field(name) for name in ("length", "ext", "sha256", "width", "height", "notes")])
Item = TypeVar("Item")
Result = TypeVar("Result")


class Map(Protocol):
    """Like the builtin map over one iterable: results in the order of the items, computed anywhere."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """A source that was only looked at, in memory."""

    records: list[Record]  # accepted, in order
    table: pa.Table  # a row for each of them: COLUMNS, with the source's shard and offset or none
    rejects: pa.Table  # the source's key and why


class Pieces(Iterable[Item]):
    """Pieces of work that are made when they are asked for, and how many there will be."""

    def __init__(self, count: int, items: Iterable[Item]) -> None:
        self._count, self._items = count, items

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


def serial(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """One after the other, in this process."""
    return map(function, items)


def threads(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """By a thread for each core: Pillow's decoders, hashing and files release the GIL. Few items are under way."""
    count = os.cpu_count() or 1
    waiting: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check(
    staged: Staging, source: Source, *, max_reject_share: float, val_fraction: float, needs_val: bool, map: Map
) -> None:
    """Take the records in, read and decode every image, decide what is rejected and which split the rest belongs to.

    With `needs_val`, train is cut if the source has no val. Raises ValueError if more than `max_reject_share` of the
    images are rejected, if nothing or nothing of a class is left, or what `Record.read` raises but for OSError and
    UnreadableImage: those two are reasons to reject.
    """
    _examine_all(staged, source, max_reject_share=max_reject_share, needs_val=needs_val, map=map)
    if staged.num_uncut():
        _cut(staged, source, val_fraction)


def check_as_found(source: Source, *, map: Map) -> Checked:
    """As `check`, for looking: any share of rejects is taken, nothing is cut, a split may be empty."""
    with staging() as staged:
        _examine_all(staged, source, max_reject_share=1.0, needs_val=False, map=map)
        rejects = [{"key": key, "reason": reason} for key, reason in staged.rejects()]
        return Checked(
            records=list(staged.records("accepted")),
            table=pa.concat_tables(staged.tables("done", "row")),
            rejects=pa.Table.from_pylist(rejects, schema=REJECTED),
        )


def _examine_all(staged: Staging, source: Source, *, max_reject_share: float, needs_val: bool, map: Map) -> None:
    total = staged.add((record, _named(record, source)) for record in source.records)
    if not total:
        raise ValueError(f"{source.where or source.name} has no images")
    staged.reject_repeats(REPEATS)
    if needs_val:
        staged.cut_without_val()
    records = staged.records()
    chunks = iter(lambda: tuple(itertools.islice(records, CHUNK)), ())
    first: list[tuple[str, str]] = []
    num_bad = start = 0
    for facts, problems in map(_examine, Pieces(-(-total // CHUNK), chunks)):
        for rejected in staged.found(facts, problems, start):
            num_bad += 1
            first += [rejected] if num_bad <= NAMED else []
        start += len(problems)
        if num_bad > max_reject_share * total or num_bad == total:
            raise ValueError(_too_many(source, first, (num_bad, total), max_reject_share))
    staged.find_copies()


def _named(record: Record, source: Source) -> Named:
    key = shard_key(record.key)
    problem = label_problem(record, num_classes=len(source.class_names), multi_label=source.multi_label)
    return Named(key, rank_key(source.name, key).to_bytes(16, "big"), problem)


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


def _too_many(source: Source, first: Sequence[tuple[str, str]], bad: tuple[int, int], max_reject_share: float) -> str:
    (num_bad, total), where = bad, source.where or source.name
    named = "; ".join(f"{key} {problem}" for key, problem in first)
    if num_bad == total:
        return f"none of the {total} images of {where} is usable. The first: {named}"
    return (
        f"{num_bad} or more of {total} images of {where} are unusable, but max_reject_share is {max_reject_share:g}. "
        f"The first: {named}. Repair or remove them, or raise max_reject_share; `vitflow data inspect` lists them all"
    )


def _cut(staged: Staging, source: Source, val_fraction: float) -> None:
    """Where the source has no split, every class is cut into train and val by the MD5 order of the keys."""
    where = source.where or source.name
    filled = {label for labels in staged.labels() for label in labels}
    empty = sorted(set(range(len(source.class_names))) - filled)
    if empty and not source.listed:
        raise ValueError(
            f"{len(empty)} of {len(source.class_names)} classes of {where} have no readable image for the train "
            f"split, first {source.class_names[empty[0]]}; add images or remove the class"
        )
    staged.cut({label: num_val(count, val_fraction) for label, count in staged.uncut_by_label().items()})
    if VAL not in staged.splits():
        raise ValueError(
            f"every class of {where} has a single image: add images, so that some are left to validate with"
        )

"""One piece of work: read a piece of a side, compare it with the index of test images, say what was found.

What is found for an image depends on that image and the index alone, so any worker may do any piece at any time.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from vit.dedup import codes, prints
from vit.dedup.prints import Prints
from vit.dedup.search import Match, TestIndex
from vit.dedup.sources import Member, Piece, printable
from vit.dedup.state import CODE, MARK, Found
from vit.typing import Ints, Pixels

CHUNK = 128  # images in memory at a time


class Indexed(NamedTuple):
    """The index of test images, and which test image each of its rows is."""

    tests: TestIndex
    benchmarks: tuple[str, ...]  # fingerprints
    benchmark: Ints  # int32 [N], into those
    row: Ints  # int32 [N], of the image among all that the benchmark lists
    marks: Pixels  # uint8 [N, 4], start of the SHA-256 of the file


class Job(NamedTuple):
    """What is to be done with a piece; picklable."""

    kind: str  # scan, screen, test, within, self
    piece: Piece
    benchmark: str = ""  # fingerprint of the one that the piece belongs to, and its first row there: not its own pair
    first: int = 0
    codes: Pixels | None = None  # screen, self: stored codes uint8 [N, 32] and marks uint8 [N, 4] of the piece
    marks: Pixels | None = None
    stored: Path | None = None  # within: the piece's prints
    chosen: Ints | None = None  # within: rows of the piece that may repeat another image of the benchmark
    exact: tuple[tuple[int, int], ...] = ()  # within: rows of the piece and of the benchmark with the same pixels
    notes: tuple[tuple[str, str], ...] = ()  # within: key, and why it is compared less freely


class Done(NamedTuple):
    """What came of it."""

    images: int
    found: tuple[Found, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    codes: Pixels | None = None  # scan
    marks: Pixels | None = None
    prints: Prints | None = None  # test; rows are those of the piece
    notes: tuple[tuple[str, str], ...] = ()


def work(indexed: Indexed | None, job: Job) -> Done:
    """Do a job; `indexed` is not needed for kind `test`. Raises BadShard, StoreUnavailable."""
    if job.kind == "test":
        return _test(job.piece)
    assert indexed is not None
    if job.kind == "within":
        assert job.stored is not None
        return _within(indexed, job, load_prints(job.stored))
    members, problem = job.piece.members()
    if job.kind in ("screen", "self"):
        found, bad, _, _ = _search(indexed, job, members, _screened(indexed, job))
        return Done(len(members), tuple(found), tuple(bad))
    found, bad, own_codes, marks = _search(indexed, job, members, range(len(members)))
    bad += [(printable(job.piece.tar or ""), problem)] if problem else []
    return Done(len(members), tuple(found), tuple(bad), own_codes, marks)


def save_prints(path: Path, taken: Prints) -> None:
    """All arrays of prints without unreadable ones, whole or not at all."""
    part = path.with_name(f".{path.stem}.part.npz")
    arrays = {name: getattr(taken, name) for name in Prints._fields if name != "unreadable"}
    np.savez(part, **arrays)
    part.replace(path)


def load_prints(path: Path) -> Prints:
    """What `save_prints` wrote."""
    with np.load(path) as stored:
        return Prints(**{name: stored[name] for name in stored.files}, unreadable={})


def on_disk(parts: Iterable[Prints], directory: Path) -> Prints:
    """All parts as one, rows numbered anew; pictures are mapped from files that no directory names any more."""
    kept: list[Prints] = []
    with tempfile.TemporaryFile(dir=directory) as gray, tempfile.TemporaryFile(dir=directory) as colours:
        for part in parts:
            gray.write(part.thumbnails.tobytes())
            colours.write(part.colours.tobytes())
            empty = part.thumbnails[:0].copy(), part.colours[:0].copy()  # a view would keep them all
            kept.append(part._replace(thumbnails=empty[0], colours=empty[1]))
        whole = prints.concatenate(kept)
        count = len(whole.byte_digests)
        return whole._replace(
            rows=np.arange(count),
            thumbnails=_mapped(gray, count, whole.thumbnails),
            colours=_mapped(colours, count, whole.colours),
        )


def _mapped(file: IO[bytes], count: int, like: Pixels) -> Pixels:
    """What was written to a file, `count` rows of the shape of `like`'s."""
    file.flush()
    return np.memmap(file, np.uint8, "r", shape=(count, *like.shape[1:])).view(np.ndarray) if count else like


def _test(piece: Piece) -> Done:
    members, problem = piece.members()
    parts: list[Prints] = []
    bad: list[tuple[str, str]] = []
    for rows, encoded in _read(piece, members, range(len(members)), bad):
        taken = prints.take(encoded, complete=True)
        bad += [(printable(members[rows[at]].key), reason) for at, reason in taken.unreadable.items()]
        parts.append(taken._replace(rows=np.array(rows, dtype=np.int64)[taken.rows], unreadable={}))
    bad += [(printable(piece.tar or ""), problem)] if problem else []
    every = np.concatenate([part.rows for part in parts]) if parts else np.zeros(0, dtype=np.int64)
    whole = prints.concatenate(parts or [prints.take([], complete=True)])
    return Done(len(members), (), tuple(bad), prints=whole._replace(rows=every))


def _within(indexed: Indexed, job: Job, taken: Prints) -> Done:
    """Pairs of some of a piece's test images with others of the same benchmark."""
    members, _ = job.piece.members()
    found = [
        Found(printable(members[row].key), job.benchmark, other, "exact-pixels", 0, 1.0, "full", "identity", False)
        for row, other in job.exact
    ]
    taken = taken.at(np.flatnonzero(np.isin(taken.rows, job.chosen if job.chosen is not None else [])))
    if len(taken.rows):
        pairs = _pairs(indexed, job, members, taken, lambda row: job.piece.read(members[row]))
        found += [one for row, one in pairs if one.benchmark == job.benchmark and one.test != job.first + row]
    return Done(len(members), tuple(found), notes=job.notes)


def _search(
    indexed: Indexed, job: Job, members: Sequence[Member], rows: Sequence[int]
) -> tuple[list[Found], list[tuple[str, str]], Pixels, Pixels]:
    """Pairs and unreadable images of some rows, and codes and marks of all (0 where not looked at or unreadable)."""
    found: list[Found] = []
    bad: list[tuple[str, str]] = []
    own_codes = np.zeros((len(members), CODE), dtype=np.uint8)
    marks = np.zeros((len(members), MARK), dtype=np.uint8)
    for read_rows, encoded in _read(job.piece, members, rows, bad):
        taken = prints.take(encoded, complete=False, sizes=indexed.tests.sizes)
        bad += [(printable(members[read_rows[at]].key), reason) for at, reason in taken.unreadable.items()]
        own = np.array(read_rows, dtype=np.int64)[taken.rows]
        own_codes[own], marks[own] = codes.base(taken.thumbnails), taken.byte_digests[:, :MARK]
        data = dict(zip(read_rows, encoded, strict=True))
        found += [one for _, one in _pairs(indexed, job, members, taken._replace(rows=own), data.__getitem__)]
    return found, bad, own_codes, marks


def _pairs(
    indexed: Indexed, job: Job, members: Sequence[Member], taken: Prints, read: Callable[[int], bytes]
) -> Iterator[tuple[int, Found]]:
    """Row in the piece and pair, but for an image with itself; `taken.rows` and `read` are by row of the piece."""
    rows: list[int] = taken.rows.tolist()
    placed = taken._replace(rows=np.arange(len(rows), dtype=np.int64), unreadable={})
    for match in indexed.tests.find(placed, lambda at: read(rows[at])):
        row = rows[match.train]
        one = _found(indexed, match, printable(members[row].key))
        if (one.benchmark, one.test) != (job.benchmark, job.first + row):
            yield row, one


def _read(
    piece: Piece, members: Sequence[Member], rows: Sequence[int], bad: list[tuple[str, str]]
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Chunks of rows and their encoded images; what cannot be read goes to `bad`."""
    for start in range(0, len(rows), CHUNK):
        good: list[int] = []
        encoded: list[bytes] = []
        for row in rows[start : start + CHUNK]:
            try:
                encoded.append(piece.read(members[row]))
                good.append(row)
            except (ConnectionError, TimeoutError):
                raise  # a service is down: no fault of the image
            except OSError as error:
                bad.append((printable(members[row].key), f"cannot be read ({error.strerror or error})"))
        if good:
            yield good, encoded


def _screened(indexed: Indexed, job: Job) -> list[int]:
    """Rows whose stored code lies near a test image's, or whose file begins its digest as a test image's does."""
    assert job.codes is not None and job.marks is not None
    present = np.flatnonzero(job.marks.any(axis=1) | job.codes.any(axis=1))
    own = np.flatnonzero(indexed.benchmark == np.int32(_number(indexed, job.benchmark)))
    itself = dict(
        zip((indexed.row[own] - job.first).tolist(), own.tolist(), strict=True)
    )  # of rows: place in the index
    pairs = ((int(present[row]), test) for row, test, _ in indexed.tests.screen(job.codes[present]))
    near = {row for row, test in pairs if itself.get(row) != test}
    known, counts = np.unique(_as_numbers(indexed.marks), return_counts=True)
    marks = _as_numbers(job.marks[present])
    times = np.append(counts, 0)[np.where(np.isin(marks, known), np.searchsorted(known, marks), len(known))]
    same = times > np.isin(present, list(itself))
    return sorted(near | set(present[same].tolist()))


def _number(indexed: Indexed, benchmark: str) -> int:
    return indexed.benchmarks.index(benchmark) if benchmark in indexed.benchmarks else -1


def _found(indexed: Indexed, match: Match, train: str) -> Found:
    return Found(
        train=train,
        benchmark=indexed.benchmarks[int(indexed.benchmark[match.test])],
        test=int(indexed.row[match.test]),
        tier=match.tier,
        distance=match.distance,
        score=match.score,
        window=match.window,
        flip=match.flip,
        refined=match.refined,
    )


def _as_numbers(marks: Pixels) -> Ints:
    return np.ascontiguousarray(marks).view(np.uint32).ravel()

"""De-duplication from listing to pairs: which work is left, who does it, and what all of it together found.

A corpus image is decoded once and compared with all benchmarks. A benchmark that is added later is compared with the
stored codes of the corpus (its images' whole frames) and only the candidates are decoded again; `rescan` decodes all.
Results are collected by what they are about, not by when they came, so that the order of work leaves no trace.
"""

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol

import numpy as np

from vit.dedup import scan, within
from vit.dedup.benchmark import Benchmark, listed
from vit.dedup.prints import Prints
from vit.dedup.scan import Done, Indexed, Job
from vit.dedup.search import TestIndex
from vit.dedup.sources import NoImages, Piece, Root
from vit.dedup.state import MARK, Found, Line, State, join_codes
from vit.dedup.tiers import Tier
from vit.typing import Ints

TESTS, WITHIN, CORPUS = "test images", "benchmarks with themselves", "training images"  # kinds of work, as told
AHEAD = 2  # jobs handed out for each worker, so that none waits for the next


class Map(Protocol):
    """Calls `function(shared, job)` for every job, anywhere, and yields what is done as soon as it is."""

    def __call__(
        self, function: Callable[[Indexed | None, Job], Done], shared: Indexed | None, jobs: Iterable[Job], /
    ) -> Iterator[tuple[Job, Done]]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
    """All that is known after a run, in the order of roots, pieces and rows."""

    benchmarks: tuple[Benchmark, ...]
    found: tuple[tuple[Piece, Found], ...]  # where the corpus image is, and the pair
    within: tuple[Found, ...] | None  # None: not looked for
    unreadable: tuple[tuple[str, str, str, str], ...]  # side, root, key, reason
    num_train: int
    screened: Mapping[str, int]  # by fingerprint of a benchmark: corpus images compared by their stored codes only
    notes: Mapping[tuple[str, str], str]  # (benchmark, key): why it is matched less freely than others


def threads(workers: int) -> Map:
    """A Map on threads of this process: decoders and the search release Python's lock."""

    def run(
        function: Callable[[Indexed | None, Job], Done], shared: Indexed | None, jobs: Iterable[Job], /
    ) -> Iterator[tuple[Job, Done]]:
        with ThreadPoolExecutor(workers) as pool:
            rest = iter(jobs)
            waiting = {pool.submit(function, shared, job): job for job in islice(rest, workers * AHEAD)}
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    job = waiting.pop(future)
                    waiting |= {pool.submit(function, shared, next_job): next_job for next_job in islice(rest, 1)}
                    yield job, future.result()

    return run


def here() -> Map:
    """Threads for the cores that this process may use."""
    return threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Engine:
    """One run: sides, tier, state and who works. Call `search`."""

    def __init__(self, tier: Tier, state: State, run: Map, tell: Callable[[str, int, int, int], None]) -> None:
        """`tell(what, pieces done, pieces in all, pairs)` is called after every finished piece."""
        self.tier, self.state, self._map, self._tell = tier, state, run, tell
        self._known: dict[str, list[Line]] = defaultdict(list)
        for line in state.lines:
            self._known[line.piece].append(line)

    def search(
        self,
        train: Sequence[Root],
        tests: Sequence[Root],
        *,
        rescan: bool = False,
        inside: bool = True,
        then: Callable[[Sequence[Benchmark]], None] | None = None,
    ) -> Searched:
        """Compare every corpus image with every test image; if `inside`, those of a benchmark with each other, too.

        `then` may add lines of kind `embed` before all is collected.

        Raises NoImages for a side without an image, and what reading shards raises.
        """
        benchmarks = tuple(listed(root) for root in tests)
        self.print_tests(benchmarks)
        indexed, whole = self.index(benchmarks)
        if inside:
            self._within(benchmarks, indexed, whole)
        self._scan(train, benchmarks, indexed, rescan=rescan)
        if then is not None:
            then(benchmarks)
        return self._collected(train, tests, benchmarks, indexed, inside=inside)

    def print_tests(self, benchmarks: Sequence[Benchmark]) -> None:
        """Decode the test images that were not decoded yet."""
        pieces = [piece for benchmark in benchmarks for piece in benchmark.pieces]
        left = [piece for piece in pieces if self._of(piece, "test") is None]
        self.do(TESTS, None, [Job("test", piece) for piece in left], (), len(pieces))

    def index(self, benchmarks: Sequence[Benchmark]) -> tuple[Indexed, Prints]:
        """The index of their readable images, and those; thumbnails stay on the disk."""
        places: list[tuple[int, Ints]] = []

        def parts() -> Iterator[Prints]:
            for number, benchmark in enumerate(benchmarks):
                for piece, first in zip(benchmark.pieces, benchmark.firsts, strict=True):
                    taken = scan.load_prints(self.state.prints_path(piece.fingerprint))
                    places.append((number, taken.rows + first))
                    yield taken

        whole = scan.on_disk(parts(), self.state.directory)
        indexed = Indexed(
            tests=TestIndex(whole, self.tier),
            benchmarks=tuple(benchmark.fingerprint for benchmark in benchmarks),
            benchmark=np.repeat([number for number, _ in places], [len(rows) for _, rows in places]).astype(np.int32),
            row=np.concatenate([rows for _, rows in places]).astype(np.int32),
            marks=np.ascontiguousarray(whole.byte_digests[:, :MARK]),
        )
        return indexed, whole

    def _within(self, benchmarks: Sequence[Benchmark], indexed: Indexed, whole: Prints) -> None:
        total = sum(len(benchmark.pieces) for benchmark in benchmarks)
        for number, benchmark in enumerate(benchmarks):
            places = list(zip(benchmark.pieces, benchmark.firsts, strict=True))
            left = [(piece, first) for piece, first in places if self._within_line(benchmark, piece) is None]
            if left:
                mine = np.flatnonzero(indexed.benchmark == number)
                alike = within.look(whole.at(mine)._replace(rows=indexed.row[mine]), self.tier)
                jobs = (self._within_job(benchmark, piece, first, alike) for piece, first in left)
                self.do(WITHIN, indexed, jobs, None, total)

    def _within_job(self, benchmark: Benchmark, piece: Piece, first: int, alike: within.Alike) -> Job:
        last = first + len(piece.members()[0])
        return Job(
            "within",
            piece,
            benchmark=benchmark.fingerprint,
            first=first,
            stored=self.state.prints_path(piece.fingerprint),
            chosen=alike.near[(alike.near >= first) & (alike.near < last)] - first,
            exact=tuple((row - first, other) for row, other in alike.exact if first <= row < last),
            notes=tuple((benchmark.keys[row], note) for row, note in alike.notes if first <= row < last),
        )

    def _within_line(self, benchmark: Benchmark, piece: Piece) -> Line | None:
        lines = [line for line in self.lines(piece, "within") if line.against == (benchmark.fingerprint,)]
        return lines[-1] if lines else None

    def _scan(self, train: Sequence[Root], benchmarks: Sequence[Benchmark], indexed: Indexed, *, rescan: bool) -> None:
        wanted = indexed.benchmarks
        groups: Counter[tuple[str, ...]] = Counter()
        for root in train:
            groups.update(self._missing(piece, wanted, rescan=rescan) for piece in root.pieces())
        total = groups.total()
        if not total:
            raise NoImages(f"{train[0].store.uri} holds no images (by their extensions) and no .tar shards")
        whole = wanted if rescan else None
        for missing in sorted(groups, key=lambda group: (-len(group), group)):
            if missing:
                some = [one for one in benchmarks if one.fingerprint in missing]
                smaller = indexed if missing == wanted else self.index(some)[0]
                jobs = (
                    self._job(piece, rescan=missing == whole)
                    for root in train
                    for piece in root.pieces()
                    if self._missing(piece, wanted, rescan=rescan) == missing
                )
                self.do(CORPUS, smaller, jobs, missing, total)

    def _missing(self, piece: Piece, wanted: tuple[str, ...], *, rescan: bool) -> tuple[str, ...]:
        """The benchmarks that a piece has not been compared with; all of them if it has no codes yet."""
        if self._of(piece, "scan") is None:
            return wanted
        kinds = ("scan",) if rescan else ("scan", "screen")
        known = {one for kind in kinds for line in self.lines(piece, kind) for one in line.against}
        missing = tuple(one for one in wanted if one not in known)
        return wanted if rescan and missing else missing

    def _job(self, piece: Piece, *, rescan: bool) -> Job:
        line = self._of(piece, "scan")
        if line is None or rescan:
            return Job("scan", piece)
        stored, marks = self.state.codes(line)
        return Job("screen", piece, codes=stored, marks=marks)

    def do(
        self, what: str, shared: Indexed | None, jobs: Iterable[Job], against: tuple[str, ...] | None, total: int
    ) -> None:
        """Have jobs done and write a line for each; `against` None: the benchmark of the job."""
        pairs = 0
        for done, (job, result) in enumerate(self._map(scan.work, shared, jobs), start=1):
            codes = b""
            if result.prints is not None:
                scan.save_prints(self.state.prints_path(job.piece.fingerprint), result.prints)
            if result.codes is not None and result.marks is not None:
                codes = join_codes(result.codes, result.marks)
            line = Line(
                kind=job.kind,
                piece=job.piece.fingerprint,
                against=(job.benchmark,) if against is None else against,
                images=result.images,
                found=result.found,
                unreadable=result.unreadable,
                notes=result.notes,
            )
            self.add(line, codes)
            pairs += len(result.found)
            self._tell(what, done, total, pairs)

    def add(self, line: Line, codes: bytes = b"") -> None:
        """Remember a finished piece of work."""
        self._known[line.piece].append(self.state.add(line, codes))

    def lines(self, piece: Piece, kind: str) -> list[Line]:
        """What is known about a piece, oldest first."""
        return [line for line in self._known.get(piece.fingerprint, ()) if line.kind == kind]

    def _of(self, piece: Piece, kind: str) -> Line | None:
        """The newest line of a kind; a piece of test images needs its prints, too."""
        lines = self.lines(piece, kind)
        if kind == "test" and not self.state.prints_path(piece.fingerprint).exists():
            return None
        return lines[-1] if lines else None

    def _collected(
        self,
        train: Sequence[Root],
        tests: Sequence[Root],
        benchmarks: tuple[Benchmark, ...],
        indexed: Indexed,
        *,
        inside: bool,
    ) -> Searched:
        found: list[tuple[Piece, Found]] = []
        bad: list[tuple[str, str, str, str]] = []
        screened: Counter[str] = Counter()
        num_train = 0
        for root in train:
            for piece in root.pieces():
                by_benchmark, unreadable, images = self._results(piece, indexed.benchmarks)
                num_train += images
                bad += [("train", root.name, key, reason) for key, reason in unreadable]
                for line, benchmark in by_benchmark:
                    screened[benchmark] += images if line.kind == "screen" else 0
                    found += [(piece, one) for one in line.found if one.benchmark == benchmark]
                for line in self.lines(piece, "embed"):
                    found += [(piece, one) for one in line.found if one.benchmark in indexed.benchmarks]
            bad += [("train", root.name, key, reason) for key, reason in root.skipped]
        for root, benchmark in zip(tests, benchmarks, strict=True):
            lines = [self._of(piece, "test") for piece in benchmark.pieces]
            bad += [("test", root.name, key, reason) for line in lines if line for key, reason in line.unreadable]
            bad += [("test", root.name, key, reason) for key, reason in root.skipped]
        own = list(self._within_lines(benchmarks)) if inside else []
        return Searched(
            benchmarks=benchmarks,
            found=tuple(found),
            within=tuple(one for _, line in own for one in line.found) if inside else None,
            unreadable=tuple(bad),
            num_train=num_train,
            screened=screened,
            notes={(name, key): note for name, line in own for key, note in line.notes},
        )

    def _results(
        self, piece: Piece, wanted: Sequence[str]
    ) -> tuple[list[tuple[Line, str]], tuple[tuple[str, str], ...], int]:
        """For each benchmark the line that counts, a scan before a screen; and what is unreadable, and how many."""
        lines = sorted(self.lines(piece, "screen") + self.lines(piece, "scan"), key=lambda line: line.kind == "scan")
        known = {one: line for line in lines for one in line.against}
        first = self._of(piece, "scan")
        assert first is not None, "the piece was listed after the search"
        return [(known[one], one) for one in wanted if one in known], first.unreadable, first.images

    def _within_lines(self, benchmarks: Sequence[Benchmark]) -> Iterator[tuple[str, Line]]:
        for benchmark in benchmarks:
            for piece in benchmark.pieces:
                line = self._within_line(benchmark, piece)
                assert line is not None, "every piece was compared with its benchmark"
                yield benchmark.name, line

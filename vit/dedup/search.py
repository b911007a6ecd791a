"""Find the test images that a corpus image duplicates: exact digests, then codes within a radius, then a check.

The index holds the test side only; the corpus streams past in chunks. What is found for an image depends on that
image and the index alone, so chunk size and thread count change nothing and a second run over what stays finds
nothing.
"""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import faiss
import numpy as np

from vit.dedup import verify
from vit.dedup.hashes import BITS, codes
from vit.dedup.prints import Prints
from vit.dedup.views import TEST_VIEWS, TRAIN_VIEWS, WHOLE
from vit.typing import Ints, Pixels

TIERS = ("exact-bytes", "exact-pixels", "near")
ALIGNMENTS = 3  # per pair, nearest codes first, that are worth a check
BUILD = 1024  # test images hashed at a time, bounds memory
CHECK = 4096  # pairs checked at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """Corpus image `train` shows test image `test`; both are positions in what was searched and indexed."""

    train: int
    test: int
    tier: str
    distance: int  # bits of 256; 0 for exact tiers
    score: float  # correlation; 1 for exact tiers
    window: str
    flip: str


class _Candidates(NamedTuple):
    train: Ints
    test: Ints
    train_view: Ints
    test_view: Ints
    distance: Ints

    def at(self, places: Ints) -> "_Candidates":
        return _Candidates(*(column[places] for column in self))


class TestIndex:
    """Digests, thumbnails and codes of all test images: 5 kB and len(TEST_VIEWS) * 32 bytes each."""

    __test__ = False  # not a test class, pytest

    def __init__(self, prints: Prints) -> None:
        self._thumbnails, self._colours = prints.thumbnails, prints.colours
        self._bytes, self._pixels = _places(prints.byte_digests), _places(prints.pixel_digests)
        self._whole, self._parts = cast(Any, faiss).IndexBinaryFlat(BITS), cast(Any, faiss).IndexBinaryFlat(BITS)
        for start in range(0, len(self._thumbnails), BUILD):
            made = codes(self._thumbnails[start : start + BUILD], TEST_VIEWS)
            self._whole.add(np.ascontiguousarray(made[:, : len(WHOLE)]).reshape(-1, BITS // 8))
            self._parts.add(np.ascontiguousarray(made[:, len(WHOLE) :]).reshape(-1, BITS // 8))

    def find(self, prints: Prints, *, radius: int, min_score: float, threads: int) -> list[Match]:
        """All duplicates of a chunk of corpus images, by corpus image and then test image; exact tiers win."""
        found = self._exact(prints)
        with _faiss_threads(threads):
            candidates = _nearest(self._candidates(prints.thumbnails, radius))
        for start in range(0, len(candidates.train), CHECK):
            part = candidates.at(np.arange(start, min(start + CHECK, len(candidates.train))))
            for match in self._checked(prints, part, min_score):
                best = found.get((match.train, match.test), match)
                found[match.train, match.test] = max(best, match, key=_strength)
        return [found[pair] for pair in sorted(found)]

    def _exact(self, prints: Prints) -> dict[tuple[int, int], Match]:
        found: dict[tuple[int, int], Match] = {}
        for tier, known, digests in (
            ("exact-pixels", self._pixels, prints.pixel_digests),
            ("exact-bytes", self._bytes, prints.byte_digests),
        ):
            for train, digest in enumerate(digests):
                for test in known.get(digest, ()):
                    found[train, test] = Match(
                        train=train, test=test, tier=tier, distance=0, score=1.0, window="full", flip="identity"
                    )
        return found

    def _candidates(self, thumbnails: Pixels, radius: int) -> _Candidates:
        """Views of corpus and test images whose codes differ in at most `radius` bits."""
        made = codes(thumbnails, TRAIN_VIEWS)
        parts = [self._range(self._parts, made, 0, radius)]
        parts += [self._range(self._whole, made, view, radius) for view in range(len(TRAIN_VIEWS))]
        return _Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _range(self, index: Any, made: Pixels, train_view: int, radius: int) -> _Candidates:
        queries = np.ascontiguousarray(made[:, train_view])
        limits, distance, ids = index.range_search(queries, radius + 1)  # faiss keeps what is strictly below
        first, count = (0, len(WHOLE)) if index is self._whole else (len(WHOLE), len(TEST_VIEWS) - len(WHOLE))
        train = np.repeat(np.arange(len(made)), np.diff(limits.astype(np.int64)))
        test, test_view = np.divmod(ids.astype(np.int64), count)
        return _Candidates(train, test, np.full_like(train, train_view), test_view + first, distance.astype(np.int64))

    def _checked(self, prints: Prints, part: _Candidates, min_score: float) -> list[Match]:
        pairs = verify.Pairs(
            train=prints.thumbnails[part.train],
            test=self._thumbnails[part.test],
            train_colours=prints.colours[part.train],
            test_colours=self._colours[part.test],
            train_view=part.train_view,
            test_view=part.test_view,
        )
        scores = verify.scores(pairs, TRAIN_VIEWS, TEST_VIEWS, min_score)
        return [_match(part, place, float(scores[place])) for place in np.flatnonzero(scores >= min_score).tolist()]


def _nearest(candidates: _Candidates) -> _Candidates:
    """The ALIGNMENTS candidates of each pair with the smallest distance, the earliest view first among equals."""
    columns = candidates.test_view, candidates.train_view, candidates.distance, candidates.test, candidates.train
    ordered = candidates.at(np.lexsort(columns))
    place = np.arange(len(ordered.train))
    is_first = np.ones(len(place), dtype=bool)
    is_first[1:] = (np.diff(ordered.train) != 0) | (np.diff(ordered.test) != 0)
    rank = place - np.maximum.accumulate(np.where(is_first, place, 0))
    return ordered.at(np.flatnonzero(rank < ALIGNMENTS))


def _match(part: _Candidates, place: int, score: float) -> Match:
    ours, _ = TRAIN_VIEWS[int(part.train_view[place])]
    theirs, flip = TEST_VIEWS[int(part.test_view[place])]
    return Match(
        train=int(part.train[place]),
        test=int(part.test[place]),
        tier="near",
        distance=int(part.distance[place]),
        score=score,
        window=theirs.name if ours.name == "full" else f"train-{ours.name}",
        flip=flip.name,
    )


def _strength(match: Match) -> tuple[bool, float, int]:
    return match.tier != "near", match.score, -match.distance


@contextlib.contextmanager
def _faiss_threads(threads: int) -> Generator[None]:
    """The setting belongs to the calling thread and is given back: others search in this process, too."""
    before = cast(Any, faiss).omp_get_max_threads()
    cast(Any, faiss).omp_set_num_threads(threads)
    try:
        yield
    finally:
        cast(Any, faiss).omp_set_num_threads(before)


def _places(digests: Sequence[bytes]) -> Mapping[bytes, list[int]]:
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        places[digest].append(place)
    return dict(places)

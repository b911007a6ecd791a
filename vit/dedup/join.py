"""All pairs of 256-bit codes within a Hamming radius, exactly.

Multi-index hashing (Norouzi, Punjani, Fleet: Fast Exact Search in Hamming Space with Multi-Index Hashing, TPAMI 2014,
§3): cut the code into m chunks; if two codes differ in at most r = m q + a bits, then one of the first a + 1 chunks
differs in at most q bits or one of the others in at most q - 1. Three things make it fast here:

- chunks of 23 or 24 bits rather than 16: 12 times fewer candidates, paid with more probes, but
- a probe is a look at one bit of a map that stays in the cache: most values do not occur, and 64 values lie in one
  word, so that the last six bits are searched with one AND;
- tables are visited one after the other by all queries, so that each is loaded once.

Beyond TABLES_UP_TO bits a scan over all codes is faster; it is done in blocks that stay in the cache.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vit.dedup.lookups import WORD, by_value, keys_of, mark, probe, scan
from vit.typing import Ints, Pixels

BITS, BYTES, WORDS = 256, 32, 4
TABLES_UP_TO = 31
CHUNKS = 11  # of 23 or 24 bits: a map of 1 or 2 MB each, searched within 2 bits at most
_ROOM = 4096  # matches, to begin with
_QUERIES, _AT_A_TIME = 8192, 500_000  # queries and pairs at a time, bound the memory


class Found(NamedTuple):
    """P pairs, by query and then row."""

    query: Ints  # int64 [P]
    row: Ints  # int64 [P], of the indexed codes
    distance: Ints  # int64 [P], bits


class Chunk(NamedTuple):
    """Some bits of the code, and how far their values are searched."""

    bits: Ints  # int64 [width], positions in the code
    radius: int


class _Table(NamedTuple):
    """Rows of the index by their value of a chunk."""

    bits: Ints
    radius: int
    present: Ints  # uint64 [2**width / 64], a bit per value
    before: Ints  # int32, place in rows where each word's values begin, if it has any
    firsts: Ints  # uint64 [N / 64 + 1], a bit per place in rows (and one more): does a value begin there?
    rows: Ints  # int32 [N], by value
    masks: Ints  # what to XOR a word's place with, nearest first
    left: Ints  # radius that this leaves for the last six bits


@functools.cache
def plan(radius: int) -> tuple[Chunk, ...]:
    """The chunks that find every pair within `radius`; it does not depend on what is indexed."""
    most, first = divmod(radius, CHUNKS)
    # Bits of all frequencies in every chunk: neighbours in the code are neighbours in frequency and lean alike.
    chunks = [Chunk(np.arange(start, BITS, CHUNKS), most - (start > first)) for start in range(CHUNKS)]
    return tuple(chunk for chunk in chunks if chunk.radius >= 0)


class HammingIndex:
    """Codes uint8 [N, 32] to search; 32 bytes each, and 46 more (and 22 MB) with tables, for up to TABLES_UP_TO."""

    def __init__(self, codes: Pixels, *, radius: int) -> None:
        """Prepare for searches within `radius` bits."""
        self._radius = radius
        self._words = _words(codes)
        self._tables = [_table(self._words, chunk) for chunk in plan(radius)] if radius <= TABLES_UP_TO else []

    def __len__(self) -> int:
        return len(self._words)

    @functools.cached_property
    def _columns(self) -> Ints:
        """uint64 [4, N]: what a scan goes through; tables do without."""
        return np.ascontiguousarray(self._words.T)

    def within(self, queries: Pixels, radius: int) -> Found:
        """All pairs of queries uint8 [Q, 32] and codes that differ in at most `radius` bits."""
        return self._search(_words(queries), radius, self._tables if radius <= self._radius else [], len(self))

    def met(self, queries: Pixels, reach: int, *, most: int) -> Found:
        """All pairs within the radius of the tables, and those within `reach` that the same look-ups come across.

        They cost nothing; which ones are found depends on the two codes alone. Without tables it is all of them. Of a
        query with more than `most` only the nearest are kept, lower rows first: a template must not fill the memory.
        """
        return self._search(_words(queries), reach, self._tables, most)

    def _search(self, words: Ints, limit: int, tables: list[_Table], most: int) -> Found:
        parts = [np.empty((0, 3), dtype=np.int64)]
        waiting = [words[start : start + _QUERIES] for start in range(0, len(words), _QUERIES)][::-1]
        done = 0
        while waiting:
            some = waiting.pop()
            pairs = self._by_tables(some, limit, tables) if tables else self._by_scan(some, limit)
            if pairs is None:  # too many at a time
                waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
                continue
            parts.append(_nearest(pairs, most) + np.array([done, 0, 0]))
            done += len(some)
        return Found(*np.ascontiguousarray(np.concatenate(parts).T))

    def _by_tables(self, words: Ints, limit: int, tables: list[_Table]) -> Ints | None:
        parts: list[Ints] = []
        offsets = np.cumsum([0, *(len(table.bits) for table in tables)])
        bits, radii = np.concatenate([table.bits for table in tables]), np.array([table.radius for table in tables])
        for number, table in enumerate(tables):
            keys, chunks = keys_of(words, table.bits), (bits, offsets, radii, number, limit)
            search = functools.partial(probe, words, keys, self._words, chunks, tuple(table[2:]))
            found = _filled(search, len(self) if len(words) == 1 else _AT_A_TIME - sum(map(len, parts)))
            if found is None:
                return None
            parts.append(found)
        return np.concatenate(parts)

    def _by_scan(self, words: Ints, limit: int) -> Ints | None:
        search = functools.partial(scan, words, self._columns, limit)
        return _filled(search, len(self) if len(words) == 1 else _AT_A_TIME)


def _filled(search: Callable[[Ints], int], most: int) -> Ints | None:
    """The (query, row, distance) that a search writes, int64 [P, 3]; None if there are more than `most`."""
    room = _ROOM
    while True:
        pairs = np.empty((room, 3), dtype=np.int64)
        count = search(pairs)
        if count <= room:
            return pairs[:count]
        if count > most:
            return None
        room = count


def _nearest(pairs: Ints, most: int) -> Ints:
    """By query and then row; of each query the `most` with the smallest distance."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 2], pairs[:, 0]))]
    place, is_first = np.arange(len(pairs)), np.diff(pairs[:, 0], prepend=-1) != 0
    pairs = pairs[place - np.maximum.accumulate(np.where(is_first, place, 0)) < most]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _words(codes: Pixels) -> Ints:
    return np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1, BYTES).view("<u8")


def _table(words: Ints, chunk: Chunk) -> _Table:
    keys = keys_of(words, chunk.bits)
    rows = by_value(keys)
    present = np.zeros(2 ** len(chunk.bits) >> WORD, dtype=np.uint64)
    before, firsts = np.zeros(len(present), dtype=np.int32), np.zeros((len(rows) >> WORD) + 1, dtype=np.uint64)
    mark(keys, rows, present, before, firsts)
    return _Table(
        bits=chunk.bits,
        radius=chunk.radius,
        present=present,
        before=before,
        firsts=firsts,
        rows=rows,
        masks=_masks(len(chunk.bits) - WORD, chunk.radius),
        left=chunk.radius - np.bitwise_count(_masks(len(chunk.bits) - WORD, chunk.radius)).astype(np.int64),
    )


def _masks(width: int, radius: int) -> Ints:
    """All numbers of `width` bits with at most `radius` set, by how many are set."""
    chosen = (bits for size in range(min(radius, width) + 1) for bits in itertools.combinations(range(width), size))
    return np.array([sum(1 << bit for bit in bits) for bits in chosen], dtype=np.int64)

"""All pairs of 256-bit codes within a Hamming radius, exactly.

Multi-index hashing (Norouzi, Punjani, Fleet: Fast Exact Search in Hamming Space with Multi-Index Hashing, TPAMI 2014,
§3): cut the code into m chunks; if two codes differ in at most r = m q + a bits, then one of the first a + 1 chunks
differs in at most q bits or one of the others in at most q - 1. Three things make it fast here:

- chunks of 23 or 24 bits rather than 16: 30 times fewer candidates, paid with more probes, and
- a probe is a look at one bit of a map that stays in the cache: most chunk values do not occur at all;
  64 of them lie in one word, so that the last six bits are searched with one AND;
- tables are visited one after the other by all queries, so that each is loaded once.

Beyond TABLES_UP_TO bits a scan over all codes is faster; it is done in blocks that stay in the cache.
"""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from vit.dedup.compiled import compiled, popcount
from vit.typing import Ints, Pixels

BITS, BYTES, WORDS = 256, 32, 4
TABLES_UP_TO = 31
_BLOCK = 1024  # codes scanned at a time
_GROUP = 64  # of them, whose smallest distance decides whether to look closer
_ROOM = 4096  # matches, to begin with
_QUERIES = 8192  # at a time, bounds memory
_WORD = 6  # 2**6 bits
_HITS = 2048  # present values met before the rows behind them are compared


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
    before: Ints  # int32, values present before each word
    starts: Ints  # int32 [present values + 1], into rows
    rows: Ints  # int32 [N], by value
    masks: Ints  # what to XOR a word's place with, nearest first
    left: Ints  # radius that this leaves for the last six bits


@functools.cache
def plan(radius: int) -> tuple[Chunk, ...]:
    """The chunks that find every pair within `radius`; it does not depend on what is indexed."""
    number = next((m for m in range(8, 17) if radius // m <= 2), 16)
    most, first = divmod(radius, number)
    # Bits of all frequencies in every chunk: neighbours in the code are neighbours in frequency and lean alike.
    chunks = [Chunk(np.arange(start, BITS, number), most - (start > first)) for start in range(number)]
    return tuple(chunk for chunk in chunks if chunk.radius >= 0)


class HammingIndex:
    """Codes uint8 [N, 32] to search; 32 bytes each, and about 90 more with tables for radii up to TABLES_UP_TO."""

    def __init__(self, codes: Pixels, *, radius: int) -> None:
        """Prepare for searches within `radius` bits."""
        self._radius = radius
        self._words = _words(codes)
        self._columns = np.ascontiguousarray(self._words.T)
        self._tables = [_table(self._words, chunk) for chunk in plan(radius)] if radius <= TABLES_UP_TO else []

    def __len__(self) -> int:
        return len(self._words)

    def within(self, queries: Pixels, radius: int) -> Found:
        """All pairs of queries uint8 [Q, 32] and codes that differ in at most `radius` bits."""
        return self._search(queries, radius, self._tables if radius <= self._radius else [])

    def met(self, queries: Pixels, reach: int) -> Found:
        """All pairs within the radius of the tables, and those within `reach` that the same look-ups come across.

        They cost nothing; which ones are found depends on the two codes alone. Without tables it is all of them.
        """
        return self._search(queries, reach, self._tables)

    def _search(self, queries: Pixels, limit: int, tables: list[_Table]) -> Found:
        parts: list[Found] = []
        for start in range(0, len(queries), _QUERIES):
            words = _words(queries[start : start + _QUERIES])
            found = self._by_tables(words, limit, tables) if tables else self._by_scan(words, limit)
            parts.append(found._replace(query=found.query + start))
        if not parts:
            return Found(*(np.empty(0, np.int64) for _ in Found._fields))
        return Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _by_tables(self, words: Ints, limit: int, tables: list[_Table]) -> Found:
        parts: list[Ints] = []
        offsets = np.cumsum([0, *(len(table.bits) for table in tables)])
        bits, radii = np.concatenate([table.bits for table in tables]), np.array([table.radius for table in tables])
        for number, table in enumerate(tables):
            keys, room = _keys(words, table.bits), _ROOM
            while True:
                pairs = np.empty((room, 3), dtype=np.int64)
                count = _probe(words, keys, self._words, (bits, offsets, radii, number, limit), tuple(table[2:]), pairs)
                if count <= room:
                    break
                room = count
            parts.append(pairs[:count])
        return _ordered(np.concatenate(parts))

    def _by_scan(self, words: Ints, limit: int) -> Found:
        room = _ROOM
        while True:
            pairs = np.empty((room, 3), dtype=np.int64)
            count = _scan(words, self._columns, limit, pairs)
            if count <= room:
                return _ordered(pairs[:count])
            room = count


def _words(codes: Pixels) -> Ints:
    return np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1, BYTES).view("<u8")


def _ordered(pairs: Ints) -> Found:
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return Found(*(np.ascontiguousarray(column) for column in pairs.T))


def _table(words: Ints, chunk: Chunk) -> _Table:
    keys = _keys(words, chunk.bits)
    rows = np.argsort(keys, kind="stable").astype(np.int32)
    values, starts = np.unique(keys[rows], return_index=True)
    present = np.zeros(max(1, 2 ** len(chunk.bits) >> _WORD), dtype=np.uint64)
    _mark(values, present)
    counts = np.bitwise_count(present)
    return _Table(
        bits=chunk.bits,
        radius=chunk.radius,
        present=present,
        before=(np.cumsum(counts, dtype=np.int64) - counts).astype(np.int32),
        starts=np.append(starts, len(rows)).astype(np.int32),
        rows=rows,
        masks=_masks(len(chunk.bits) - _WORD, chunk.radius),
        left=chunk.radius - np.bitwise_count(_masks(len(chunk.bits) - _WORD, chunk.radius)).astype(np.int64),
    )


def _masks(width: int, radius: int) -> Ints:
    """All numbers of `width` bits with at most `radius` set, by how many are set."""
    chosen = (bits for size in range(min(radius, width) + 1) for bits in itertools.combinations(range(width), size))
    return np.array([sum(1 << bit for bit in bits) for bits in chosen], dtype=np.int64)


def _balls() -> Ints:
    """[radius, value]: a word with the bits of the six-bit values within `radius` of `value`."""
    values = np.arange(64)
    distance = np.bitwise_count(values[:, None] ^ values)
    words = [((distance <= radius) << values.astype(np.uint64)).sum(axis=1, dtype=np.uint64) for radius in range(7)]
    return np.stack(words)


_BALLS = _balls()


@compiled
def _keys(words: Ints, bits: Ints) -> Ints:
    """The chunk's value in every code, int64 [N]."""
    keys = np.zeros(len(words), dtype=np.int64)
    for i in range(len(words)):
        key = np.uint64(0)
        for bit in bits:
            key = (key << np.uint64(1)) | ((words[i, bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1))
        keys[i] = np.int64(key)
    return keys


@compiled
def _mark(values: Ints, present: Ints) -> None:
    for value in values:
        present[value >> 6] |= np.uint64(1) << np.uint64(value & 63)


@compiled
def _is_first(one: Ints, other: Ints, chunks: tuple[Ints, Ints, Ints, int, int]) -> bool:
    """Whether no earlier chunk has found this pair."""
    bits, offsets, radii, number, _ = chunks
    for chunk in range(number):
        differing = 0
        for place in range(offsets[chunk], offsets[chunk + 1]):
            bit = bits[place]
            differing += np.int64(((one[bit >> 6] ^ other[bit >> 6]) >> np.uint64(bit & 63)) & np.uint64(1))
        if differing <= radii[chunk]:
            return False
    return True


@compiled
def _probe(
    queries: Ints,
    keys: Ints,
    words: Ints,
    chunks: tuple[Ints, Ints, Ints, int, int],
    table: tuple[Ints, ...],
    pairs: Ints,
) -> int:
    """Write the pairs that this table finds first as (query, row, distance); how many there are.

    In three steps over a buffer, not hit by hit: loads that do not wait for each other hide the memory's latency.
    """
    present, before, starts, rows, masks, left = table
    hits, count, held = np.empty((_HITS, 2), dtype=np.int32), 0, 0
    for query in range(len(queries)):
        place, low = keys[query] >> _WORD, keys[query] & 63
        for probe in range(len(masks)):
            at = place ^ masks[probe]
            word = present[at] & _BALLS[left[probe], low]
            while word:
                lowest = word & (~word + np.uint64(1))
                word ^= lowest
                hits[held, 0] = query
                hits[held, 1] = before[at] + np.int64(popcount(present[at] & (lowest - np.uint64(1))))
                held += 1
            if held > _HITS - 64:
                count = _compare(hits[:held], queries, words, chunks, (starts, rows), (pairs, count))
                held = 0
    return _compare(hits[:held], queries, words, chunks, (starts, rows), (pairs, count))


@compiled
def _compare(
    hits: Ints,
    queries: Ints,
    words: Ints,
    chunks: tuple[Ints, Ints, Ints, int, int],
    table: tuple[Ints, Ints],
    result: tuple[Ints, int],
) -> int:
    """Distances of the queries and the rows behind the present values that they hit."""
    starts, rows = table
    pairs, count = result
    total = 0
    for hit in range(len(hits)):
        total += starts[hits[hit, 1] + 1] - starts[hits[hit, 1]]
    met, held = np.empty((total, 2), dtype=np.int32), 0
    for hit in range(len(hits)):
        for i in range(starts[hits[hit, 1]], starts[hits[hit, 1] + 1]):
            met[held, 0], met[held, 1] = hits[hit, 0], rows[i]
            held += 1
    for i in range(total):
        query, row = met[i, 0], met[i, 1]
        distance = np.int64(
            popcount(queries[query, 0] ^ words[row, 0])
            + popcount(queries[query, 1] ^ words[row, 1])
            + popcount(queries[query, 2] ^ words[row, 2])
            + popcount(queries[query, 3] ^ words[row, 3])
        )
        if distance <= chunks[4] and _is_first(queries[query], words[row], chunks):
            if count < len(pairs):
                pairs[count, 0], pairs[count, 1], pairs[count, 2] = query, row, distance
            count += 1
    return count


@compiled
def _scan(queries: Ints, columns: Ints, limit: int, pairs: Ints) -> int:
    """As _probe, but every code (uint64 [4, N]) is compared with every query."""
    count, number = 0, columns.shape[1]
    distances = np.empty(_GROUP, dtype=np.uint64)
    for block in range(0, number, _BLOCK):
        for query in range(len(queries)):
            for start in range(block, min(block + _BLOCK, number), _GROUP):
                group = columns[:, start : start + _GROUP]
                is_near = _distances(queries[query], group, distances) <= limit
                count = _write(distances[: is_near * group.shape[1]], limit, (query, start), pairs, count)
    return count


@compiled
def _distances(query: Ints, columns: Ints, distances: Ints) -> Any:
    """Fill in the distances of a group of codes; the smallest."""
    a, b, c, d = query[0], query[1], query[2], query[3]
    least = np.uint64(BITS)
    for i in range(columns.shape[1]):
        distances[i] = (
            popcount(columns[0, i] ^ a)
            + popcount(columns[1, i] ^ b)
            + popcount(columns[2, i] ^ c)
            + popcount(columns[3, i] ^ d)
        )
        least = min(least, distances[i])
    return np.int64(least)


@compiled
def _write(distances: Ints, limit: int, place: tuple[int, int], pairs: Ints, count: int) -> int:
    for i in range(len(distances)):
        if distances[i] <= limit:
            if count < len(pairs):
                pairs[count, 0], pairs[count, 1], pairs[count, 2] = place[0], place[1] + i, np.int64(distances[i])
            count += 1
    return count

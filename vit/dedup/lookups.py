"""Inner loops of vit.dedup.join: find pairs of 256-bit codes (four uint64 each) and write them down.

Each returns how many pairs there are and writes as many as there is room for; the caller comes back with more.
"""

from typing import Any

import numpy as np

from vit.dedup.compiled import compiled, popcount
from vit.typing import Ints

WORD = 6  # 2**6 bits
_BITS = 256
_BLOCK = 1024  # codes scanned at a time
_GROUP = 64  # of them, whose smallest distance decides whether to look closer
_HITS = 2048  # present values met before the rows behind them are compared


def _balls() -> Ints:
    """[radius, value]: a word with the bits of the six-bit values within `radius` of `value`."""
    values = np.arange(64)
    distance = np.bitwise_count(values[:, None] ^ values)
    words = [((distance <= radius) << values.astype(np.uint64)).sum(axis=1, dtype=np.uint64) for radius in range(7)]
    return np.stack(words)


_BALLS = _balls()


@compiled
def keys_of(words: Ints, bits: Ints) -> Ints:
    """The chunk's value in every code, int64 [N]."""
    keys = np.zeros(len(words), dtype=np.int64)
    for i in range(len(words)):
        key = np.uint64(0)
        for bit in bits:
            key = (key << np.uint64(1)) | ((words[i, bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1))
        keys[i] = np.int64(key)
    return keys


@compiled
def mark(values: Ints, present: Ints) -> None:
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
def probe(
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
        place, low = keys[query] >> WORD, keys[query] & 63
        for mask in range(len(masks)):
            at = place ^ masks[mask]
            word = present[at] & _BALLS[left[mask], low]
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
def scan(queries: Ints, columns: Ints, limit: int, pairs: Ints) -> int:
    """As `probe`, but every code (uint64 [4, N]) is compared with every query."""
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
    least = np.uint64(_BITS)
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

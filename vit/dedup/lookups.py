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
_MET = 4096  # rows behind them at a time: a value that a million codes share must not fill the memory
_DIGIT = 12  # bits of a value that one pass sorts by


def _balls() -> Ints:
    """[radius, value]: a word with the bits of the six-bit values within `radius` of `value`."""
    values = np.arange(64)
    distance = np.bitwise_count(values[:, None] ^ values)
    words = [((distance <= radius) << values.astype(np.uint64)).sum(axis=1, dtype=np.uint64) for radius in range(7)]
    return np.stack(words)


_BALLS = _balls()


@compiled
def keys_of(words: Ints, bits: Ints) -> Ints:
    """The chunk's value in every code, int32 [N]."""
    keys = np.zeros(len(words), dtype=np.int32)
    for i in range(len(words)):
        key = np.uint64(0)
        for bit in bits:
            key = (key << np.uint64(1)) | ((words[i, bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1))
        keys[i] = np.int32(key)
    return keys


def by_value(keys: Ints) -> Ints:
    """Rows by their value, int32 [N], of values below 2**24: a radix sort, as NumPy's takes five times the memory."""
    rows = np.arange(len(keys), dtype=np.int32)
    for shift in (0, _DIGIT):
        rows = _by_digit(keys, rows, shift)
    return rows


@compiled
def _by_digit(keys: Ints, rows: Ints, shift: int) -> Ints:
    """Rows by some bits of their value, those with the same bits in the order given."""
    starts, ordered = np.zeros((1 << _DIGIT) + 1, dtype=np.int64), np.empty_like(rows)
    for row in rows:
        starts[((keys[row] >> shift) & ((1 << _DIGIT) - 1)) + 1] += 1
    for digit in range(1, len(starts)):
        starts[digit] += starts[digit - 1]
    for row in rows:
        digit = (keys[row] >> shift) & ((1 << _DIGIT) - 1)
        ordered[starts[digit]] = row
        starts[digit] += 1
    return ordered


@compiled
def mark(keys: Ints, rows: Ints, present: Ints, before: Ints, firsts: Ints) -> None:
    """Set the bits of values that occur and of places in `rows` where one begins; where each word's values begin."""
    previous = -1
    for place in range(len(rows)):
        value = np.int64(keys[rows[place]])
        if value != previous:
            if not present[value >> WORD]:
                before[value >> WORD] = place
            present[value >> WORD] |= np.uint64(1) << np.uint64(value & 63)
            firsts[place >> WORD] |= np.uint64(1) << np.uint64(place & 63)
            previous = value
    firsts[len(rows) >> WORD] |= np.uint64(1) << np.uint64(len(rows) & 63)


@compiled
def _place_of(firsts: Ints, start: Any, number: Any) -> Any:
    """Where the value begins that `number` values precede from `start` on, itself the beginning of one."""
    at = start >> WORD
    word = firsts[at] >> np.uint64(start & 63) << np.uint64(start & 63)
    while np.int64(popcount(word)) <= number:
        number -= np.int64(popcount(word))
        at += 1
        word = firsts[at]
    for _ in range(number):
        word &= word - np.uint64(1)
    return (at << WORD) + np.int64(popcount((word & (~word + np.uint64(1))) - np.uint64(1)))


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
    present, before, firsts, rows, masks, left = table
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
                number = np.int64(popcount(present[at] & (lowest - np.uint64(1))))
                hits[held, 1] = _place_of(firsts, np.int64(before[at]), number)
                held += 1
            if held > _HITS - 64:
                count = _compare(hits[:held], queries, words, chunks, (firsts, rows), (pairs, count))
                held = 0
    return _compare(hits[:held], queries, words, chunks, (firsts, rows), (pairs, count))


@compiled
def _compare(
    hits: Ints,
    queries: Ints,
    words: Ints,
    chunks: tuple[Ints, Ints, Ints, int, int],
    table: tuple[Ints, Ints],
    result: tuple[Ints, int],
) -> int:
    """Compare the queries with the rows behind the present values that they hit: from one first place to the next."""
    firsts, rows = table
    pairs, count = result
    met, held = np.empty((_MET, 2), dtype=np.int32), 0
    for hit in range(len(hits)):
        place, is_same = np.int64(hits[hit, 1]), True
        while is_same:
            met[held, 0], met[held, 1] = hits[hit, 0], rows[place]
            held += 1
            if held == _MET:
                count = _measure(met, queries, words, chunks, (pairs, count))
                held = 0
            place += 1
            is_same = (firsts[place >> WORD] >> np.uint64(place & 63)) & np.uint64(1) == np.uint64(0)
    return _measure(met[:held], queries, words, chunks, (pairs, count))


@compiled
def _measure(
    met: Ints, queries: Ints, words: Ints, chunks: tuple[Ints, Ints, Ints, int, int], result: tuple[Ints, int]
) -> int:
    """Write those of the (query, row) that are near and that no earlier chunk has found."""
    pairs, count = result
    for i in range(len(met)):
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

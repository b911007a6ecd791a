"""The join gives what comparing every code with every query gives, whatever the codes are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit.dedup import join, lookups
from vit.dedup.join import HammingIndex, plan


def brute_force(queries: np.ndarray, codes: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    distance = np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=-1)
    return [(int(q), int(row), int(distance[q, row])) for q, row in np.argwhere(distance <= radius)]


def listed(found: join.Found) -> list[tuple[int, int, int]]:
    return list(zip(found.query.tolist(), found.row.tolist(), found.distance.tolist(), strict=True))


def around(draw: np.random.Generator, codes: np.ndarray, number: int, farthest: int) -> np.ndarray:
    """Random codes, each of which differs from one of `codes` in 0 … farthest bits."""
    bits = np.unpackbits(codes[draw.integers(len(codes), size=number)], axis=1)
    for row in bits:
        row[draw.permutation(256)[: draw.integers(farthest + 1)]] ^= 1
    return np.packbits(bits, axis=1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), radius=st.integers(0, 31), shape=st.sampled_from(["random", "crowded", "sparse"]))
def test_tables_find_what_brute_force_finds(seed: int, radius: int, shape: str) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    codes = draw.integers(0, 256, (150, 32), dtype=np.uint8)
    if shape == "crowded":
        codes = around(draw, codes[:3], 150, 20)
    elif shape == "sparse":  # most bits alike: chunk values repeat
        codes &= draw.integers(0, 256, (150, 32), dtype=np.uint8) & draw.integers(0, 256, (150, 32), dtype=np.uint8)
    queries = np.concatenate([around(draw, codes, 60, 40), draw.integers(0, 256, (20, 32), dtype=np.uint8)])
    assert listed(HammingIndex(codes, radius=radius).within(queries, radius)) == brute_force(queries, codes, radius)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), radius=st.integers(32, 256))
def test_the_scan_finds_what_brute_force_finds(seed: int, radius: int) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    codes = draw.integers(0, 256, (int(draw.integers(1, 200)), 32), dtype=np.uint8)
    queries = around(draw, codes, 30, 120)
    assert listed(HammingIndex(codes, radius=radius).within(queries, radius)) == brute_force(queries, codes, radius)


def test_a_smaller_radius_than_the_tables_were_made_for() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    codes = draw.integers(0, 256, (300, 32), dtype=np.uint8)
    queries, index = around(draw, codes, 200, 40), HammingIndex(codes, radius=31)
    for radius in (0, 7, 30):
        assert listed(index.within(queries, radius)) == brute_force(queries, codes, radius)


@pytest.mark.parametrize("radius", range(32))
def test_no_pair_can_slip_between_the_chunks(radius: int) -> None:
    """Pigeonhole: a pair that no chunk finds differs in more than `radius` bits."""
    chunks = plan(radius)
    assert sum(chunk.radius + 1 for chunk in chunks) > radius
    used = np.concatenate([chunk.bits for chunk in chunks])
    assert len(np.unique(used)) == len(used) and used.max(initial=0) < 256


def test_pairs_met_on_the_way_do_not_depend_on_what_else_is_indexed() -> None:
    draw = np.random.Generator(np.random.PCG64(1))
    codes = draw.integers(0, 256, (400, 32), dtype=np.uint8)
    queries = around(draw, codes, 300, 60)
    everything = listed(HammingIndex(codes, radius=31).met(queries, 60, most=400))
    half = listed(HammingIndex(codes[:200], radius=31).met(queries, 60, most=400))
    assert half == [pair for pair in everything if pair[1] < 200]
    near = [pair for pair in everything if pair[2] <= 31]
    assert near == brute_force(queries, codes, 31) and len(everything) > len(near)
    assert set(everything) <= set(brute_force(queries, codes, 60))


def test_of_a_crowd_the_nearest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.Generator(np.random.PCG64(2))
    codes = around(draw, draw.integers(0, 256, (1, 32), dtype=np.uint8), 500, 10)
    index = HammingIndex(codes, radius=31)
    expected: list[tuple[int, int, int]] = []
    for query in range(40):
        own = [pair for pair in brute_force(codes[:40], codes, 31) if pair[0] == query]
        expected += sorted(own, key=lambda pair: pair[2])[:7]
    assert listed(index.met(codes[:40], 31, most=7)) == sorted(expected)
    monkeypatch.setattr(join, "_AT_A_TIME", 600)  # a crowd is cut up, down to single queries
    assert listed(index.met(codes[:40], 31, most=7)) == sorted(expected)
    assert listed(index.within(codes[:40], 31)) == brute_force(codes[:40], codes, 31)


@pytest.mark.parametrize("radius", [20, 31])
def test_values_that_very_many_codes_share(radius: int) -> None:
    """More codes behind one value than are compared at a time, and values that begin many words of places apart."""
    draw = np.random.Generator(np.random.PCG64(3))
    centres = draw.integers(0, 256, (3, 32), dtype=np.uint8)
    codes = np.concatenate([np.repeat(centres[:1], 2 * lookups._MET + 1, axis=0), around(draw, centres, 3000, 3)])
    codes = codes[draw.permutation(len(codes))]
    queries = np.concatenate([centres, around(draw, centres, 5, 35)])
    assert listed(HammingIndex(codes, radius=radius).within(queries, radius)) == brute_force(queries, codes, radius)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 5000])
def test_rows_are_ordered_by_value_and_then_row(count: int) -> None:
    draw = np.random.Generator(np.random.PCG64(count))
    for highest in (2, 2**12, 2**24):
        keys = draw.integers(0, highest, count).astype(np.int32)
        assert np.array_equal(lookups.by_value(keys), np.argsort(keys, kind="stable"))


@pytest.mark.parametrize("radius", [31, 75])
def test_nothing_on_either_side(radius: int) -> None:
    empty, some = np.empty((0, 32), np.uint8), np.zeros((3, 32), np.uint8)
    assert listed(HammingIndex(empty, radius=radius).within(some, radius)) == []
    assert listed(HammingIndex(some, radius=radius).within(empty, radius)) == []

"""Looking up digests finds the rows that a comparison with every one finds."""

import numpy as np

from vit.dedup.digests import Digests


def test_rows_with_the_digest_and_no_others() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    digests = draw.integers(0, 256, (300, 32), dtype=np.uint8)
    digests[100:110] = digests[7]
    digests[110:120, :8] = digests[7, :8]  # begin alike, and go on otherwise
    digests[200:250] = 0  # stands for no digest
    digests[3, :8] = 0
    index = Digests(digests)
    for row in range(300):
        expected = np.flatnonzero((digests == digests[row]).all(axis=1)).tolist()
        assert index.places(digests[row].tobytes()) == (expected if digests[row].any() else [])
    assert index.places(bytes(31) + b"1") == []


def test_no_digests_at_all() -> None:
    assert Digests(np.zeros((0, 32), np.uint8)).places(bytes(32)) == []

"""Which images have this digest: sorted arrays, as a dictionary of bytes takes twenty times the memory."""

from bisect import bisect_left, bisect_right
from typing import Any

import numpy as np

from vit.typing import Ints, Pixels


class Digests:
    """Digests uint8 [N, 32] to look up; 12 bytes each beside the digests. Those of zeros stand for none."""

    def __init__(self, digests: Pixels) -> None:
        taken: Ints = np.flatnonzero(digests.any(axis=1))
        heads: Ints = np.ascontiguousarray(digests[taken, :8]).view("<u8").ravel()
        order = np.argsort(heads, kind="stable")
        self._digests = digests
        self._places = taken[order].astype(np.int32)
        self._heads = heads[order]

    def places(self, digest: bytes) -> list[int]:
        """Rows that have this digest, lowest first."""
        head: Any = np.frombuffer(digest, dtype="<u8", count=1)[0]
        low, high = bisect_left(self._heads, head), bisect_right(self._heads, head)
        places: list[int] = self._places[low:high].tolist()
        return [place for place in places if self._digests[place].tobytes() == digest]

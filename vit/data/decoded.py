"""Images kept decoded: for a data set that fits into memory and is looked at again and again."""

import os
import threading
from pathlib import Path

from vit.data.decode import decode
from vit.data.shards import Shards
from vit.data.store import Store
from vit.typing import Pixels


class Memory:
    """Pixels by place in the shards, up to a number of bytes; threads may share it.

    What comes first stays: a data set is looked at in turns, and dropping the oldest would drop what comes next.
    A pickled copy is empty.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in bytes; 0 keeps nothing."""
        self.limit, self.size = limit, 0
        self._pixels: dict[tuple[str, int], Pixels] = {}
        self._lock = threading.Lock()

    def get(self, place: tuple[str, int]) -> Pixels | None:
        """None if it is not kept."""
        return self._pixels.get(place)

    def put(self, place: tuple[str, int], pixels: Pixels) -> None:
        """Keep it if there is room."""
        with self._lock:
            if place not in self._pixels and self.size + pixels.nbytes <= self.limit:
                self._pixels[place] = pixels
                self.size += pixels.nbytes

    def __reduce__(self) -> tuple[type["Memory"], tuple[int]]:
        return Memory, (self.limit,)


class Decoded(Shards):
    """Shards whose images are decoded when first looked at and then kept in `memory`, which others may share.

    They give the same views, except where an augmentation would decode a photo smaller than it is (`shrink`).
    """

    def __init__(self, directory: Path | Store, memory: Memory, *, splits: tuple[str, ...] = ()) -> None:
        """As Shards."""
        super().__init__(directory, splits=splits)
        self.memory = memory

    def content(self, row: int, *, verify: bool | None = None) -> bytes | Pixels:
        place = self.place(row)
        kept = self.memory.get(place)
        if kept is not None:
            return kept
        pixels = decode(self.read(row, verify=verify))
        pixels.flags.writeable = False
        self.memory.put(place, pixels)
        return pixels


def limit() -> int:
    """Bytes of pixels that a process may keep: VITFLOW_DECODED_BYTES, else 1 GB. Raises ValueError for no number."""
    text = os.environ.get("VITFLOW_DECODED_BYTES", "1000000000")
    if not text.isdecimal():
        raise ValueError(f"VITFLOW_DECODED_BYTES is {text!r}, but must be a whole number of bytes, 0 or more")
    return int(text)

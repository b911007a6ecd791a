"""Random access to the content of a gzip file without unpacking it to disk.

Reading forward decompresses the file once. Going back, or far ahead over ground already seen, starts from the nearest
checkpoint: a copy of the decompressor's state, of which a limited number is kept at even distances.
"""

import bisect
import functools
import os
import threading
import zlib
from pathlib import Path
from typing import Any, NamedTuple

GZIP = 31  # zlib's window bits for a gzip member with header and CRC
STEP = 1 << 20  # bytes of compressed input per call
HISTORY = 16 << 20  # bytes of output kept, so that threads may ask a little out of order
SPACING = 16 << 20  # bytes of output between checkpoints, doubled whenever there are too many
CHECKPOINTS = 64  # at about 50 kB each


class BadArchive(ValueError):
    """An archive is truncated, damaged, or holds what must not be read; the text names it and says what to do."""


class _Checkpoint(NamedTuple):
    position: int  # in the output
    consumed: int  # in the file
    state: Any  # a zlib decompressor, which is copied before use


class Inflated:
    """The content of one gzip file (of any number of gzip members); may be shared by threads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._spacing = SPACING
        self._checkpoints = [_Checkpoint(0, 0, zlib.decompressobj(GZIP))]
        self._restore(self._checkpoints[0])

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes of the content from `offset`; fewer where it ends.

        Raises BadArchive where the file is truncated or damaged.
        """
        with self._lock:
            nearest = self._checkpoints[bisect.bisect_right(self._checkpoints, offset, key=_position) - 1]
            if offset < self._start or nearest.position > self._end:
                self._restore(nearest)
            while self._end < offset + length and self._advance(offset):
                pass
            return bytes(self._window[max(0, offset - self._start) : max(0, offset - self._start) + length])

    @property
    def _end(self) -> int:
        return self._start + len(self._window)

    def _restore(self, checkpoint: _Checkpoint) -> None:
        self._start, self._window = checkpoint.position, bytearray()
        self._consumed, self._state = checkpoint.consumed, checkpoint.state.copy()

    def _advance(self, wanted: int) -> bool:
        """Decompress the next piece, forgetting what lies before `wanted` and the history; False at the end."""
        with Path(self.path).open("rb", buffering=0) as file:
            file.seek(self._consumed)
            data = file.read(STEP)
        if self._state.eof:
            if not data.strip(b"\0"):  # tapes and some tools pad with zeros
                return False
            self._state = zlib.decompressobj(GZIP)
        try:
            output = self._state.decompress(data, 4 * STEP)
        except zlib.error as error:
            raise BadArchive(
                f"{self.path} is damaged near byte {self._consumed} ({error}); get the archive again"
            ) from error
        if not data and not output:
            raise BadArchive(f"{self.path} is truncated: its gzip stream stops in the middle; get the archive again")
        left = self._state.unused_data if self._state.eof else self._state.unconsumed_tail
        self._consumed += len(data) - len(left)
        self._window += output
        forget = min(wanted, self._end - HISTORY) - self._start
        if forget > HISTORY:
            del self._window[:forget]
            self._start += forget
        self._mark()
        return True

    def _mark(self) -> None:
        if self._state.eof or self._end - self._checkpoints[-1].position < self._spacing:
            return
        self._checkpoints.append(_Checkpoint(self._end, self._consumed, self._state.copy()))
        if len(self._checkpoints) > CHECKPOINTS:
            self._checkpoints, self._spacing = self._checkpoints[::2], 2 * self._spacing


def read(path: str, offset: int, length: int) -> bytes:
    """As Inflated.read; this process remembers where it was in the last few files, unless they have changed."""
    status = Path(path).stat()
    return _inflated(path, status.st_size, status.st_mtime_ns, os.getpid()).read(offset, length)


@functools.lru_cache(maxsize=4)
def _inflated(path: str, size: int, modified: int, process: int) -> Inflated:
    return Inflated(path)


def _position(checkpoint: _Checkpoint) -> int:
    return checkpoint.position

"""Tar shards: images and labels appended with constant headers, and the members of anyone's shards found by offset.

The scan reads headers only, so a shard of gigabytes is indexed in moments. It is stricter than `tarfile`, which takes
a damaged header for the end of the archive: whatever is not a whole tar raises BadTar with the place.
"""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

BLOCK = tarfile.BLOCKSIZE
MAX_EXTRA = 1 << 20  # bytes of an extended header; real ones have hundreds
Described: TypeAlias = dict[str, int | str]  # bytes and SHA-256 of a shard
_ZEROS = bytes(BLOCK)


class BadTar(ValueError):
    """Not a whole tar file; the message says where it breaks, the caller knows which file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar."""

    name: str
    offset: int  # bytes from the start of the tar to the data
    size: int  # bytes


class Writer:
    """One shard being written: `add` an image, then `close`. The same images give the same bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._tar.offset

    def add(self, key: str, ext: str, image: bytes, labels: tuple[int, ...]) -> int:
        """Append KEY.EXT, then KEY.cls (the first label) and, if there are several, KEY.json (all of them).

        Returns the offset of the image. An image without a label is KEY.EXT alone.
        """
        offset = self._append(f"{key}.{ext}", image)
        if labels:
            self._append(f"{key}.cls", str(labels[0]).encode())
        if len(labels) > 1:
            self._append(f"{key}.json", json.dumps({"labels": list(labels)}).encode())
        return offset

    def close(self) -> Described:
        """End the file; returns what a manifest says about it."""
        self._tar.close()
        return {"bytes": self.path.stat().st_size, "sha256": sha256(self.path)}

    def _append(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)  # mtime, uid and gid 0
        member.size = len(data)
        offset = self._tar.offset + BLOCK  # a USTAR header is one block
        self._tar.addfile(member, io.BytesIO(data))
        return offset


def room(image_bytes: int, num_labels: int) -> int:
    """Bytes that an image takes in a shard, with its labels beside it."""
    return BLOCK + _padded(image_bytes) + 2 * BLOCK * min(num_labels, 2)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """The regular files of an uncompressed tar of `size` bytes, in order; understands ustar, GNU and pax names.

    Raises BadTar at the first place that no tar has; what came before has been yielded.
    """
    position, name, length = 0, "", None  # name and length: from an extended header, for the member after it
    while True:
        header = _read(file, position, BLOCK)
        if header == _ZEROS:
            return
        if position and not header:
            raise BadTar(f"it ends at byte {size} without an end mark: it is truncated")
        kind, own_name, own_length = _parsed(header, position)
        start = position + BLOCK
        if kind in b"xLgK":
            extra = _read(file, start, own_length) if own_length <= MAX_EXTRA else b""
            if len(extra) != own_length:
                raise BadTar(f"the extended header at byte {position} is damaged")
            name, length = _extended(kind, extra, name, length, position)
            position = start + _padded(own_length)
            continue
        data = own_length if length is None else length
        if start + data > size:
            raise BadTar(f"it ends at byte {size}, inside {name or own_name}")
        if kind in b"0\x007":
            yield Member(name or own_name, start, data)
        position, name, length = start + _padded(data), "", None


def _parsed(header: bytes, position: int) -> tuple[bytes, str, int]:
    """Type, name and size of a header block."""
    if len(header) != BLOCK or not _sums_up(header):
        raise BadTar(f"there is no tar header at byte {position}")
    name = _text(header[:100])
    if header[257:262] == b"ustar" and header[257:265] != b"ustar  \x00" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    return header[156:157], name, _number(header[124:136], position)


def _sums_up(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b" \x00") or b"x", 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _number(field: bytes, position: int) -> int:
    """Octal text, or GNU's big-endian binary for files beyond 8 GB."""
    try:
        value = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b" \x00") or b"0", 8)
    except ValueError as error:
        raise BadTar(f"the header at byte {position} has no size") from error
    if value < 0:
        raise BadTar(f"the header at byte {position} has a negative size")
    return value


def _extended(kind: bytes, data: bytes, name: str, length: int | None, position: int) -> tuple[str, int | None]:
    """Name and size for the next member: GNU's long name, or the records `LENGTH KEY=VALUE` of pax."""
    if kind == b"L":
        return _text(data), length
    while kind == b"x" and data:
        count, _, _ = data.partition(b" ")
        if not count.isdigit() or not len(count) + 2 < int(count) <= len(data):
            raise BadTar(f"the pax header at byte {position} is damaged")
        key, _, value = data[len(count) + 1 : int(count) - 1].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit():
            length = int(value)
        data = data[int(count) :]
    return name, length


def _read(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)


def _text(field: bytes) -> str:
    return field.partition(b"\x00")[0].decode(errors="surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
